"""What the kernels compute, written from the definitions as plain loops in float64.

Slow on purpose: no vectorised reduction is shared with the code under test. Sums are ``math.fsum``,
which rounds once, so a difference from a kernel is the kernel's own rounding.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Scalar = Callable[[float], float]


def logits(x: Floats, W_U: Floats, b_U: Floats | None, transform: Scalar | None) -> list[float]:
    """``f(x W_U + b_U)`` of one row, column by column."""
    z = []
    for v in range(W_U.shape[1]):
        value = math.fsum(float(x[i]) * float(W_U[i, v]) for i in range(len(x)))
        if b_U is not None:
            value += float(b_U[v])
        z.append(value if transform is None else transform(value))
    return z


def log_sum_exp(z: Sequence[float]) -> float:
    """``log(sum(exp(z)))``, taken below the largest so that it cannot overflow."""
    best = max(z)
    return best + math.log(math.fsum(math.exp(v - best) for v in z))


def log_probs(z: Sequence[float]) -> list[float]:
    """``log(exp(z) / sum(exp(z)))``, taken below the largest so that nothing cancels."""
    best = max(z)
    below = [v - best for v in z]
    total = log_sum_exp(below)
    return [v - total for v in below]


def entropy(log_p: Sequence[float]) -> float:
    """``-sum(p log p)`` in nats, ``0 log 0 = 0``."""
    return -math.fsum(math.exp(v) * v for v in log_p if math.exp(v) > 0)


def kl(log_ref: Sequence[float], log_p: Sequence[float]) -> float:
    """``sum(ref (log ref - log p))`` in nats, ``0 log 0 = 0``; infinite where p lacks a token."""
    pairs = [(r, v) for r, v in zip(log_ref, log_p, strict=True) if math.exp(r) > 0]
    if any(v == -math.inf for _, v in pairs):
        return math.inf
    return math.fsum(math.exp(r) * (r - v) for r, v in pairs)


def rank(z: Sequence[float], i: int) -> int:
    """How many values are strictly larger than ``z[i]``."""
    return sum(1 for v in z if v > z[i])


def top_k(values: Sequence[float], k: int) -> list[int]:
    """Indices of the ``k`` largest values, largest first, ascending among equals."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


def scores(x: Floats, W_U: Floats, metric: str) -> list[float]:
    """Dot product or cosine of ``x`` with every column; cosine with a zero vector is 0."""
    dots = logits(x, W_U, None, None)
    if metric == "dot":
        return dots
    length = math.hypot(*map(float, x))
    lengths = [length * math.hypot(*map(float, W_U[:, v])) for v in range(W_U.shape[1])]
    return [dot / n if n > 0 else 0.0 for dot, n in zip(dots, lengths, strict=True)]


def readout(
    rows: Floats, W_U: Floats, b_U: Floats | None, k: int, targets: Ints, transform: Scalar | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Every field of ``mechprobe.kernels.Readout``, one row of one entry at a time."""
    cells = [
        [_cell(x, W_U, b_U, k, ids, transform) for x, ids in zip(entry, targets, strict=True)]
        for entry in rows
    ]
    for entry in reversed(cells):
        for cell, ref in zip(entry, cells[0], strict=True):
            cell["kl"] = kl(ref["log_p"], cell["log_p"])
    n_entries, n_rows, _ = rows.shape
    tails = {"top_id": (k,), "top_log_prob": (k,), "log_z": (), "entropy": (), "kl": (),
             "target_log_prob": targets.shape[1:], "target_rank": targets.shape[1:]}  # fmt: skip
    return {
        name: np.array(
            [[cell[name] for cell in entry] for entry in cells],
            dtype=np.int64 if name in ("top_id", "target_rank") else np.float64,
        ).reshape(n_entries, n_rows, *tail)
        for name, tail in tails.items()
    }


def _cell(
    x: Floats, W_U: Floats, b_U: Floats | None, k: int, targets: Ints, transform: Scalar | None
) -> dict[str, Any]:
    z = logits(x, W_U, b_U, transform)
    log_p = log_probs(z)
    top = top_k(z, k)
    ids = [int(t) for t in targets]
    return {
        "log_p": log_p,
        "top_id": top,
        "top_log_prob": [log_p[i] for i in top],
        "log_z": log_sum_exp(z),
        "entropy": entropy(log_p),
        "target_log_prob": [log_p[t] for t in ids],
        "target_rank": [rank(z, t) for t in ids],
    }
