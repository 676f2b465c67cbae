"""Reading with a rough product where that is enough, and what it costs, measured as it happens."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels.native import MAX_TARGETS, MAX_TOP, Native, reductions
from mechprobe.kernels.readout import Readout, readout
from mechprobe.kernels.screen import Screen, screen_of, sources
from mechprobe.kernels.screened import screened_readout
from mechprobe.models import Session, Unembedding

# Positions of each micro-batch, of all layers, that are read in float32 as well.
_COMPARED = 2


def check_screen(path: Unembedding, k: int, n_targets: int, *, screen: bool, lower: bool) -> None:
    """Refuse to screen what cannot be screened.

    Raises:
        ValueError: Together with ``compute_dtype``, or more ids or targets than it follows.
        NotImplementedError: The unembedding is not float32 on a CPU, has a bias, or something is
            done to its logits; or there is no C compiler.
    """
    if not screen:
        return
    if lower:
        msg = "screen=True rounds and repairs, compute_dtype only rounds: ask for one of them."
        raise ValueError(msg)
    if k > MAX_TOP or n_targets > MAX_TARGETS:
        msg = (
            f"screen=True keeps at most {MAX_TOP} ids and follows at most {MAX_TARGETS} targets; "
            f"found top_k={k} and {n_targets} targets. Leave it out, or ask for fewer."
        )
        raise ValueError(msg)
    why = _obstacle(path)
    if why:
        msg = (
            f"screen=True cannot be used here: {why}. Leave it out; the lens is then read exactly."
        )
        raise NotImplementedError(msg)


def _obstacle(path: Unembedding) -> str:
    if path.W_U.dtype != torch.float32 or path.W_U.device.type != "cpu":
        return f"the unembedding is {path.W_U.dtype} on {path.W_U.device}, not float32 on a CPU"
    if path.transform is not None or bool(path.b_U.any()):
        return "the model adds a bias to its logits, or caps or scales them"
    try:
        reductions()
        sources()
    except (RuntimeError, OSError) as error:
        return f"its part in C cannot be compiled ({error})"
    return ""


@dataclass
class Screening:
    """The unembedding in bfloat16, whose doubts are resolved, and its error so far.

    Attributes:
        session: The model.
        k: How many most likely ids are kept.
        bound: Largest error that any rough logit may have had.
        entropy: Largest error of an entropy found.
        divergence: Largest error of a divergence found.
        n_cells: Cells compared.
    """

    session: Session
    k: int
    bound: float = 0.0
    entropy: float = 0.0
    divergence: float = 0.0
    n_cells: int = 0
    _screen: Screen = field(init=False, repr=False)
    _native: Native = field(default_factory=reductions, repr=False)

    def __post_init__(self) -> None:
        W_U = self.path.W_U
        # Columns that do not lie together are copied, which is too much to keep.
        shared = W_U.mT.is_contiguous()
        self._screen = self.session.fact("screen", lambda: screen_of(W_U)) if shared \
            else screen_of(W_U)  # fmt: skip

    @property
    def path(self) -> Unembedding:
        """The model's own unembedding."""
        return self.session.unembedding

    @torch.no_grad()
    def read(
        self,
        rows: Float[Tensor, "entry row d_model"],
        targets: Int[Tensor, "row target"],
        scratch_bytes: int,
    ) -> Readout:
        """Read rows, and a few of them in float32 as well."""
        found, error = screened_readout(
            rows, self._screen, self._native, k=self.k, targets=targets,
            scratch_bytes=scratch_bytes,
        )  # fmt: skip
        self.bound = max(self.bound, float(error.max()))
        n_rows = rows.shape[1]
        at = torch.linspace(0, n_rows - 1, min(_COMPARED, n_rows)).round().long().unique()
        # In the way in which all of them would be read.
        exact = readout(
            rows[:, at], self.path.W_U, k=self.k, targets=targets[at], steps=-(-n_rows // len(at))
        )
        self.entropy = max(self.entropy, _largest(exact.entropy - found.entropy[:, at]))
        self.divergence = max(self.divergence, _largest(exact.kl - found.kl[:, at]))
        self.n_cells += exact.entropy.numel()
        return found

    def found(self) -> dict[str, float]:
        """Return the error, as the result names it."""
        return {
            "screen_logit_bound": self.bound,
            "screen_entropy_error": self.entropy,
            "screen_kl_error": self.divergence,
            "screen_cells": float(self.n_cells),
        }


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
