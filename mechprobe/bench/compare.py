"""Did two contenders find the same? Judged before any time is shown.

Ids and ranks of a lens must be equal, except in cells where the float64 logits of the same
residuals lie within ``TIE`` of each other, so that float32 arithmetic may order them either way.
Such cells are counted and may be no more than ``MAX_TIED`` of all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Cells = npt.NDArray[np.int64]
Logits = Callable[[Cells], npt.NDArray[np.float64]]
Arrays = Mapping[str, Array]
Line = tuple[str, bool, str]
# Of our arrays, a contender's arrays, and our float64 logits: quantity, equal or not, details.
Compare = Callable[[Arrays, Arrays, Logits], list[Line]]

TIE = 1e-4
MAX_TIED = 0.005
MAX_DIFFERENCE = 2e-4
# Of the largest score of a head.
MAX_SCORE_DIFFERENCE = 1e-5
# What two sides draw from their own random numbers may differ by, in standard errors.
MAX_ERRORS = 4.0
# Of the pairs whose recall may differ: probabilities next to epsilon, and float32.
MAX_UNEQUAL = 0.01


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity of one contender against mechprobe's.

    Attributes:
        contender: Whose reading was compared.
        workload: On which workload.
        quantity: ``"top ids"``, ``"target rank"``, ``"entropy"`` or ``"KL to final"``.
        passed: Whether they are the same.
        detail: What was found, with figures.
    """

    contender: str
    workload: str
    quantity: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        verdict = "equal" if self.passed else "DIFFERENT"
        return f"{verdict}: {self.contender} on {self.workload}, {self.quantity}: {self.detail}"


def lenses(ours: Arrays, theirs: Arrays, logits: Logits) -> list[Line]:
    """Compare two readings of all layers.

    Args:
        ours: ``top_id`` (prompt, pos, layer, k); ``rank``, ``entropy``, ``kl`` (prompt, pos,
            layer); ``target`` (prompt, pos), the ids whose ranks are meant.
        theirs: The same, what it does not compute left out.
        logits: Gives float64 logits ``[cell, d_vocab]`` of cells ``[cell, 3]`` (prompt, pos,
            layer), from the residuals that ours were read from.

    Returns:
        One line for each quantity that both have.
    """
    found: list[Line] = []
    targets = ours["target"].astype(np.int64)
    for name, quantity in (("top_id", "top ids"), ("rank", "target rank")):
        if name in theirs:
            found.append((quantity, *_exact(name, ours[name], theirs[name], targets, logits)))
    for name, quantity in (("entropy", "entropy"), ("kl", "KL to final")):
        if name in theirs:
            # A divergence of 200 nats is 1e-3 off in any float32; an entropy has at most 11.
            relative = name == "kl"
            found.append((quantity, *_close(ours[name], theirs[name], relative=relative)))
    return found


def tokens(ours: Arrays, theirs: Arrays, logits: Logits) -> list[Line]:  # noqa: ARG001
    """Compare generated tokens, one by one."""
    a, b = ours["tokens"].tolist(), theirs["tokens"].tolist()
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    detail = f"{len(b)} tokens, the first {min(same, len(b))} of {len(a)} the same"
    return [("tokens", a == b, detail)]


def scores(ours: Arrays, theirs: Arrays, logits: Logits) -> list[Line]:  # noqa: ARG001
    """Compare QK-scores."""
    a, b = ours["score"].astype(float), theirs["score"].astype(float)
    # A NaN anywhere makes the worst difference NaN, which is not within anything.
    worst = float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else np.nan
    allowed = f"{MAX_SCORE_DIFFERENCE:.0e} allowed"
    detail = f"off by at most {worst:.1e} of the largest score, {allowed}"
    return [("score", worst <= MAX_SCORE_DIFFERENCE, detail)]


def world_scores(ours: Arrays, theirs: Arrays, logits: Logits) -> list[Line]:  # noqa: ARG001
    """Compare scores of pairs: recall pair by pair, what is sampled in the mean."""
    out: list[Line] = []
    for test, array in ours.items():
        mine, other = array.astype(float), theirs[test].astype(float)
        if mine.shape != other.shape:
            out.append((test, False, f"{other.shape}, not {mine.shape}"))
        elif test == "distinction_recall":
            n = int((np.abs(mine - other) > 1e-9).sum())
            detail = f"{n} of {len(mine)} pairs differ, {MAX_UNEQUAL:.0%} allowed"
            out.append((test, n <= MAX_UNEQUAL * len(mine), detail))
        else:
            error = float(np.hypot(*(v.std() / np.sqrt(len(v)) for v in (mine, other))))
            gap = float(abs(mine.mean() - other.mean()))
            detail = f"{mine.mean():.3f} and {other.mean():.3f}, standard error {error:.3f}"
            out.append((test, gap <= MAX_ERRORS * error, detail))
    return out


def _close(ours: Array, theirs: Array, *, relative: bool) -> tuple[bool, str]:
    if ours.shape != theirs.shape:
        return False, f"shape {theirs.shape}, expected {ours.shape}"
    a, b = ours.astype(float), theirs.astype(float)
    scale = np.maximum(1.0, np.abs(a)) if relative else 1.0
    # The largest of numbers with a NaN among them is NaN, which is not within anything.
    worst = float((np.abs(a - b) / scale).max())
    unit = "of max(1, value)" if relative else "nats"
    return (worst <= MAX_DIFFERENCE, f"off by at most {worst:.1e} {unit}, {MAX_DIFFERENCE:.0e} allowed")


def _exact(
    name: str, ours: Array, theirs: Array, targets: npt.NDArray[np.int64], logits: Logits
) -> tuple[bool, str]:
    if ours.shape != theirs.shape:
        return False, f"shape {theirs.shape}, expected {ours.shape}"
    unequal = ours != theirs
    if name == "top_id":
        unequal = unequal.any(-1)
    n_cells, n_unequal = unequal.size, int(unequal.sum())
    share = f"{n_unequal} of {n_cells} cells ({n_unequal / n_cells:.2%})"
    if n_unequal == 0:
        return True, f"all {n_cells} cells"
    if n_unequal > MAX_TIED * n_cells:
        return False, f"{share} differ, {MAX_TIED:.1%} are allowed"
    cells = np.argwhere(unequal)
    at = tuple(cells.T)
    z = logits(cells)
    if name == "top_id":
        explained = _ids_tied(ours[at], theirs[at], z)
    else:
        explained = _ranks_tied(ours[at], theirs[at], z, targets[at[0], at[1]])
    if not explained.all():
        where = tuple(cells[int(np.argmin(explained))].tolist())
        return False, f"{share} differ, {int((~explained).sum())} not by a tie, first {where}"
    return True, f"all but {share} whose float64 logits tie within {TIE:.0e}"


def _ids_tied(ours: Array, theirs: Array, z: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether the two ids of each place have logits within ``TIE``, and no id comes twice."""
    a, b = ours.astype(np.int64), theirs.astype(np.int64)
    gap = np.abs(np.take_along_axis(z, a, -1) - np.take_along_axis(z, b, -1)).max(-1)
    once = np.array([len(set(row)) == len(row) for row in b.tolist()])
    return (gap < TIE) & once


def _ranks_tied(
    ours: Array, theirs: Array, z: npt.NDArray[np.float64], targets: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether both ranks are possible when every logit may move by less than ``TIE``."""
    target = np.take_along_axis(z, targets[:, None], -1)
    lowest = (z >= target + TIE).sum(-1)
    highest = (z > target - TIE).sum(-1) - 1
    ranks = np.stack([ours, theirs]).astype(np.int64)
    return ((ranks >= lowest) & (ranks <= highest)).all(0)
