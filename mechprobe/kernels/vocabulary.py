"""Geometry of the unembedding: which columns point where a vector points."""

from typing import Literal

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels.topk import top_k

Metric = Literal["dot", "cosine"]


def nearest_columns(
    vectors: Float[Tensor, "query d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    *,
    k: int,
    metric: Metric = "dot",
) -> tuple[Float[Tensor, "query k"], Int[Tensor, "query k"]]:
    r"""Return the ``k`` unembedding columns that each vector is nearest to.

    .. math::
        s_v = x \cdot W_U[:, v] \quad\text{or}\quad
        s_v = \frac{x \cdot W_U[:, v]}{\|x\| \, \|W_U[:, v]\|}

    Args:
        vectors: Directions to look up, any length.
        W_U: Unembedding.
        k: How many columns to keep, ``1 <= k <= d_vocab``.
        metric: ``"dot"`` (what the logits rank by) or ``"cosine"`` (length-free, -1 to 1; a column
            or vector of length 0 scores 0).

    Returns:
        Scores, largest first, and column ids, lower id first among equals.

    Example:
        >>> s, i = nearest_columns(torch.tensor([[1.0, 0.2]]), torch.eye(2), k=1, metric="dot")
        >>> i.tolist()
        [[0]]
    """
    dtype = torch.promote_types(torch.promote_types(vectors.dtype, W_U.dtype), torch.float32)
    x, W = vectors.to(dtype), W_U.to(dtype)
    if metric == "cosine":
        x, W = _unit(x, -1), _unit(W, 0)
    scores = einsum(x, W, "query d_model, d_model d_vocab -> query d_vocab")
    return top_k(scores.clamp(-1.0, 1.0) if metric == "cosine" else scores, k)


def _unit(x: Float[Tensor, "m n"], dim: int) -> Float[Tensor, "m n"]:
    """Scale to length 1 (0 stays 0), by way of the largest entry, whose square may not be real."""
    for size in (torch.inf, 2.0):
        length = torch.linalg.vector_norm(x, ord=size, dim=dim, keepdim=True)
        x = x / torch.where(length == 0, 1.0, length)
    return x
