"""What kind of head: numbers read from attention patterns and from weights."""

import torch
from einops import einsum, rearrange
from jaxtyping import Complex, Float
from torch import Tensor


def mean_diagonal(
    pattern: Float[Tensor, "batch head query key"], offset: int, start: int = 0
) -> Float[Tensor, " head"]:
    r"""Mean attention to the token ``offset`` places back, over queries from ``start`` on.

    .. math:: \frac{1}{|Q|} \sum_{i \in Q} a_{i,\,i - o}, \qquad Q = \{\max(o, s), \dots, n - 1\}

    On a sequence of :math:`T` random tokens said twice (queries of the second half), offset
    :math:`T - 1` is the induction score, :math:`T` the duplicate-token score; offset 1 on any
    sequence is the previous-token score.

    Args:
        pattern: Attention weights.
        offset: How far back, 0 or more.
        start: First query that counts.

    Returns:
        A mean in [0, 1] per head, in float32 at least.

    Raises:
        ValueError: No query reaches that far back.

    Example:
        >>> mean_diagonal(torch.eye(3)[None, None], 0).tolist()
        [1.0]

    Source: Olsson et al. 2022 (In-context learning and induction heads), section on head scores.
    """
    n = pattern.shape[-1]
    first = max(offset, start)
    if offset < 0 or first >= n:
        msg = f"offset {offset} from query {start} on does not fit {n} positions."
        raise ValueError(msg)
    exact = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
    query = torch.arange(first, n, device=pattern.device)
    return exact[:, :, query, query - offset].mean((0, 2))


def copying_score(
    W_V: Float[Tensor, "n_key_value_heads d_model d_head"],
    W_O: Float[Tensor, "n_heads d_head d_model"],
    W_UE: Float[Tensor, "d_model d_model"],
) -> Float[Tensor, " n_heads"]:
    r"""How much each head's OV circuit copies: 1 raises the token it reads, -1 lowers it.

    .. math:: \frac{\sum_i \mathrm{Re} \lambda_i}{\sum_i |\lambda_i|},
        \qquad \lambda = \mathrm{eig}(W_E W_V W_O W_U)

    The :math:`d_{vocab}^2` circuit has at most :math:`d_{head}` eigenvalues that are not zero;
    they are those of :math:`W_O (W_U W_E) W_V`.

    Args:
        W_V: Value weights; a group of heads shares one (GQA).
        W_O: Output weights.
        W_UE: :math:`W_U W_E`, both with the norms' weights folded in, where one wants them.

    Returns:
        A number in [-1, 1] per head; NaN for a head of zeros.

    Raises:
        ValueError: ``n_heads`` is no multiple of ``n_key_value_heads``.

    Example:
        >>> eye = torch.eye(4)
        >>> copying_score(eye[None], eye[None], eye).tolist()
        [1.0]

    Source: Elhage et al. 2021 (A mathematical framework for transformer circuits), copying heads.
    """
    if len(W_O) % len(W_V):
        msg = f"{len(W_O)} heads do not share {len(W_V)} value heads evenly."
        raise ValueError(msg)
    exact = torch.promote_types(W_V.dtype, torch.float32)
    v = rearrange(W_V.to(exact), "kv d_model d_head -> kv 1 d_model d_head")
    o = rearrange(W_O.to(exact), "(kv g) d_head d_model -> kv g d_head d_model", kv=len(W_V))
    read = einsum(W_UE.to(exact), v, "a b, kv g b d -> kv g a d")
    small = einsum(o, read.expand(-1, o.shape[1], -1, -1), "kv g d a, kv g a e -> kv g d e")
    eigenvalues: Complex[Tensor, "kv g d"] = torch.linalg.eigvals(small)
    return (eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1)).flatten()
