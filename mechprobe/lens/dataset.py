"""From readouts to the labelled dataset of a ``LensResult``."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from mechprobe.kernels import Readout
from mechprobe.lens.request import Targets
from mechprobe.models import TokenText

_CELL = ("prompt", "pos")
# Statistics of one number a cell: variable, field of ``Readout``, what it is and its unit. Figures,
# tables and pages take what has the dimensions (prompt, pos, layer) from the dataset itself.
_STATISTICS = (
    ("entropy", "entropy", "entropy of the distribution", "nats"),
    ("kl_to_final", "kl", "divergence from the final distribution, KL(final | layer)", "nats"),
)
_ATTRS: dict[str, tuple[str, str]] = {
    **{name: (what, units) for name, _, what, units in _STATISTICS},
    "top_token": ("most likely tokens", "id"),
    "top_text": ("most likely tokens", "text"),
    "top_log_prob": ("log-probability of the most likely tokens", "nats"),
    "target_token": ("targets", "id"),
    "target_log_prob": ("log-probability of the target", "nats"),
    "target_rank": ("ids with a strictly larger logit than the target", "1"),
    "model_token": ("the model's own most likely tokens", "id"),
    "model_text": ("the model's own most likely tokens", "text"),
    "model_log_prob": ("the model's own log-probability", "nats"),
    "token": ("token that was read", "id"),
    "token_text": ("token that was read", "text"),
    "position": ("position in the prompt, from 0", "1"),
    "valid": ("whether the cell exists", "1"),
    "generated": ("whether the token was generated", "1"),
    "next_token": ("token that followed", "id"),
    "next_text": ("token that followed", "text"),
    "merged_text": ("best tokens of the generated steps, joined", "text"),
    "prompt_text": ("the prompt", "text"),
}


class Cells:
    """Readouts of all cells, gathered batch by batch.

    Args:
        n_valid: Cells of each prompt.
        n_layers: Layers that were asked for.
        k: Most likely tokens kept.
        n_targets: Targets followed.
        dtype: Of the log-probabilities.
    """

    def __init__(
        self, n_valid: Sequence[int], n_layers: int, k: int, n_targets: int, dtype: torch.dtype
    ) -> None:
        self.k = k
        shape = (len(n_valid), max(n_valid), n_layers + 1)
        self.valid = np.arange(shape[1]) < np.asarray(n_valid)[:, None]
        tails = {"top_id": k, "top_log_prob": k, "target_log_prob": n_targets, "target_rank": n_targets}
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        real = torch.empty(0, dtype=dtype).numpy().dtype
        for name in (field.name for field in fields(Readout)):
            full = (*shape, tails[name]) if name in tails else shape
            is_id = name in ("top_id", "target_rank")
            self.arrays[name] = np.full(full, -1 if is_id else np.nan, np.int32 if is_id else real)

    def put(
        self, prompts: Sequence[int], cells: npt.NDArray[np.bool_], read: Readout, source: list[int]
    ) -> None:
        """Store one batch.

        Args:
            prompts: Which prompts the batch held.
            cells: Which of their cells the rows of ``read`` are, ``[prompt, pos]``.
            read: The readout, entry 0 the model's own output.
            source: Entry of each layer.

        Raises:
            ValueError: A row whose logits hold NaN or infinity.
        """
        where = np.nonzero(cells)
        at = (np.asarray(prompts)[where[0]], where[1])
        bad = torch.nonzero(~torch.isfinite(read.log_z)).cpu()
        if len(bad):
            row = int(bad[0, 1])
            entries = [i for i, s in enumerate([*source, 0]) if s == int(bad[0, 0])]
            msg = (
                f"the logits of prompt {at[0][row]}, cell {at[1][row]}, layer entry {entries[0]} "
                "hold NaN, +inf or nothing but -inf; no distribution can be read. Look for "
                "overflow in this dtype, or at the translators."
            )
            raise ValueError(msg)
        order = torch.tensor([*source, 0], device=read.log_z.device)
        for name, array in self.arrays.items():
            values: Tensor = getattr(read, name)[order].transpose(0, 1)
            array[at] = values.cpu().numpy()


@dataclass(frozen=True, slots=True)
class Read:
    """Which tokens the cells of a result stand for, ``[prompt, pos]`` each, -1 where not valid.

    Attributes:
        position: Position in the prompt.
        token: Token read there.
        generated: Whether it was generated.
        next_token: Token that followed; None where nothing was generated.
    """

    position: npt.NDArray[np.int32]
    token: npt.NDArray[np.int32]
    generated: npt.NDArray[np.bool_]
    next_token: npt.NDArray[np.int32] | None = None


def cells_read(ids: list[list[int]], positions: list[list[int]]) -> Read:
    """Return the tokens at the chosen positions of each prompt."""
    shape = (len(ids), max(map(len, positions)))
    position, token = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
    for i, (row, chosen) in enumerate(zip(ids, positions, strict=True)):
        position[i, : len(chosen)] = chosen
        token[i, : len(chosen)] = [row[p] for p in chosen]
    return Read(position, token, np.zeros(shape, bool))


def lens_dataset(
    cells: Cells, read: Read, layers: list[int], targets: Targets, text: TokenText, prompts: Sequence[str]
) -> xr.Dataset:
    """Label the gathered cells."""
    a = cells.arrays
    top, own = a["top_id"][:, :, :-1], a["top_id"][:, :, -1]
    variables: dict[str, tuple[tuple[str, ...], npt.NDArray[Any]]] = {
        "top_token": ((*_CELL, "layer", "k"), top),
        "top_text": ((*_CELL, "layer", "k"), texts(text, top)),
        "top_log_prob": ((*_CELL, "layer", "k"), a["top_log_prob"][:, :, :-1]),
        **{name: ((*_CELL, "layer"), a[field][:, :, :-1]) for name, field, _, _ in _STATISTICS},
        "model_token": ((*_CELL, "k"), own),
        "model_text": ((*_CELL, "k"), texts(text, own)),
        "model_log_prob": ((*_CELL, "k"), a["top_log_prob"][:, :, -1]),
        "token": (_CELL, read.token),
        "token_text": (_CELL, texts(text, read.token)),
        "position": (_CELL, read.position),
        "valid": (_CELL, cells.valid),
        "generated": (_CELL, read.generated),
        "prompt_text": (("prompt",), np.array(list(prompts), dtype=object)),
    }
    coords: dict[str, Any] = {"layer": np.array(layers, np.int32)}
    if targets.labels:
        ids = np.where(cells.valid[..., None], targets.ids, -1).astype(np.int32)
        variables["target_token"] = ((*_CELL, "target"), ids)
        for name in ("target_log_prob", "target_rank"):
            variables[name] = ((*_CELL, "layer", "target"), a[name][:, :, :-1])
        coords["target"] = np.array(targets.labels, dtype=object)
    if read.next_token is not None:
        variables |= _generated(read.next_token, top[..., 0], text)
    data = xr.Dataset(variables, coords=coords)
    for name in variables:
        data[name].attrs = dict(zip(("long_name", "units"), _ATTRS[name], strict=True))
    data["layer"].attrs = {"long_name": "layer (-1 embedding, l after block l)", "units": "1"}
    return data


def _generated(
    next_token: npt.NDArray[np.int32], best: npt.NDArray[np.int32], text: TokenText
) -> dict[str, tuple[tuple[str, ...], npt.NDArray[Any]]]:
    """Label what followed each step, and what each layer's best tokens join to."""
    merged = [[text.joined(row) for row in one.T.tolist()] for one in best]
    return {
        "next_token": (_CELL, next_token),
        "next_text": (_CELL, texts(text, next_token)),
        "merged_text": (("prompt", "layer"), np.array(merged, dtype=object)),
    }


def texts(text: TokenText, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.object_]:
    """Return the text of each id; each distinct id is decoded once."""
    size = int(ids.max(initial=0)) + 1
    table = np.empty(size + 1, dtype=object)
    table[-1] = ""
    seen = np.zeros(size + 1, dtype=bool)
    seen[ids.reshape(-1)] = True
    for i in np.flatnonzero(seen[:-1]).tolist():
        table[i] = text.text(i)
    return table[ids]
