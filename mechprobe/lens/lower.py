"""Reading with a product of lower precision, and how much that changes, measured as it happens."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels import Readout, readout, top_k
from mechprobe.models import Unembedding

ComputeDtype = Literal["bfloat16"]

# Cells of each micro-batch that are read in float32 as well: 0.2 % of 31 layers at 1,024 positions.
_SAMPLED = 64


def check_compute_dtype(compute_dtype: str | None) -> None:
    """Refuse what cannot be computed in.

    Raises:
        ValueError: It is neither None nor ``"bfloat16"``.
    """
    if compute_dtype not in (None, "bfloat16"):
        msg = (
            f"compute_dtype must be None (the model's own) or 'bfloat16'; found {compute_dtype!r}."
        )
        raise ValueError(msg)


@dataclass
class Lower:
    """The unembedding in bfloat16, and its error so far.

    Attributes:
        path: The model's own unembedding.
        W_U: Its matrix, rounded.
        b_U: Its bias, rounded.
        k: How many most likely ids are compared.
        n_cells: Cells compared.
        n_ranks: Target ranks compared.
        same_top: Cells with the same set of most likely ids.
        same_rank: Targets of the same rank.
        largest: Largest difference of a finite logit.
    """

    path: Unembedding
    k: int
    W_U: Float[Tensor, "d_model d_vocab"] = field(init=False)
    b_U: Float[Tensor, " d_vocab"] = field(init=False)
    n_cells: int = 0
    n_ranks: int = 0
    same_top: int = 0
    same_rank: int = 0
    largest: float = 0.0

    def __post_init__(self) -> None:
        # Column after column, as embeddings lie in memory, whatever the strides were.
        self.W_U = self.path.W_U.mT.to(torch.bfloat16).contiguous().mT
        self.b_U = self.path.b_U.to(torch.bfloat16)

    def read(
        self,
        rows: Float[Tensor, "entry row d_model"],
        targets: Int[Tensor, "row target"],
        scratch_bytes: int,
    ) -> Readout:
        """Read rows, and some of them in float32 as well."""
        self.compare(rows, targets)
        return readout(
            rows.to(self.W_U), self.W_U, self.b_U, k=self.k, targets=targets,
            transform=self.path.transform, scratch_bytes=scratch_bytes,
        )  # fmt: skip

    @torch.no_grad()
    def compare(
        self, rows: Float[Tensor, "entry row d_model"], targets: Int[Tensor, "row target"]
    ) -> None:
        """Read some rows both ways, spread evenly, and count what differs."""
        n_entries, n_rows, _ = rows.shape
        cells = torch.linspace(0, n_entries * n_rows - 1, min(_SAMPLED, n_entries * n_rows))
        at = cells.round().long().unique().to(rows.device)
        x, wanted = rows.flatten(0, 1)[at], targets[at % n_rows]
        exact = self._logits(x.float(), self.path.W_U.float(), self.path.b_U.float())
        lower = self._logits(x.bfloat16(), self.W_U, self.b_U)
        difference = (exact - lower).abs()
        self.largest = max(self.largest, float(difference[exact.isfinite()].max()))
        ids = [top_k(z, self.k)[1].sort(-1).values for z in (exact, lower)]
        self.same_top += int((ids[0] == ids[1]).all(-1).sum())
        ranks = [_ranks(z, wanted) for z in (exact, lower)]
        self.same_rank += int((ranks[0] == ranks[1]).sum())
        self.n_cells, self.n_ranks = self.n_cells + len(at), self.n_ranks + wanted.numel()

    def _logits(
        self,
        x: Float[Tensor, "row d_model"],
        W_U: Float[Tensor, "d_model d_vocab"],
        b_U: Float[Tensor, " d_vocab"],
    ) -> Float[Tensor, "row d_vocab"]:
        z = x @ W_U + b_U
        return (z if self.path.transform is None else self.path.transform(z)).float()

    def found(self) -> dict[str, float]:
        """Return the error, as the result names it."""
        error = {
            "compute_logit_error": self.largest,
            "compute_same_top": self.same_top / self.n_cells,
        }
        if self.n_ranks:
            error["compute_same_rank"] = self.same_rank / self.n_ranks
        return error | {"compute_cells": float(self.n_cells)}


def _ranks(
    z: Float[Tensor, "row d_vocab"], targets: Int[Tensor, "row target"]
) -> Int[Tensor, "row target"]:
    value = z.gather(-1, targets)
    rank = torch.empty_like(targets)
    for t in range(targets.shape[1]):
        rank[:, t] = (z > value[:, t, None]).sum(-1)
    return rank
