"""Query-key alignment of attention heads at chosen positions.

A head with few key heads (GQA) is read in groups: head ``h`` goes with key head
``h // (n_heads // n_key_value_heads)``, and no key is repeated in memory.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor


def qk_alignment(
    q: Float[Tensor, "example #candidate n_heads d_head"],
    k: Float[Tensor, "example #candidate token n_key_value_heads d_head"],
    weight: Float[Tensor, "example #candidate token"],
) -> Float[Tensor, "example candidate n_heads"]:
    r"""Score every head for every candidate.

    .. math:: S_h(c) = \sum_t w_{ct} \langle q_{ch}, k_{ct,\lfloor h/g \rfloor} \rangle,
        \qquad g = n_{heads} / n_{kv}

    Args:
        q: Queries; one per candidate, or one that all candidates share.
        k: Keys; tokens of each candidate's own span, or of one that all share (a prefix is run
            once, its keys serve all its continuations).
        weight: Weight of each token, 0 for padding; rows that sum to 1 give a mean.

    Returns:
        Scores, in float32 at least: half-precision inputs are multiplied and summed in float32.

    Raises:
        ValueError: ``n_heads`` is no multiple of ``n_key_value_heads``.

    Example:
        >>> q, k = torch.ones(1, 2, 4, 8), torch.ones(1, 1, 1, 2, 8)
        >>> qk_alignment(q, k, torch.ones(1, 1, 1)).shape
        torch.Size([1, 2, 4])

    Source: Tulchinskii et al. 2025 (arXiv 2502.17017), the QK-score; 2024 (arXiv 2410.02343).
    """
    n_heads, n_kv = q.shape[2], k.shape[3]
    if n_heads % n_kv:
        msg = f"{n_heads} query heads do not share {n_kv} key heads evenly."
        raise ValueError(msg)
    exact = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.float32)
    # Linear in k: the mean over a span is taken once, not once per head of a group.
    mean = einsum(
        k.to(exact),
        weight.to(exact),
        "example candidate token kv d, example candidate token -> example candidate kv d",
    )
    grouped = rearrange(q.to(exact), "example candidate (kv g) d -> example candidate kv g d", kv=n_kv)
    scores = einsum(
        grouped, mean, "example candidate kv g d, example candidate kv d -> example candidate kv g"
    )
    return rearrange(scores, "example candidate kv g -> example candidate (kv g)")


def cosine_alignment(
    q: Float[Tensor, "example #candidate n_heads d_head"],
    k: Float[Tensor, "example #candidate token n_key_value_heads d_head"],
    weight: Float[Tensor, "example #candidate token"],
) -> Float[Tensor, "example candidate n_heads"]:
    r"""Score every head by the cosine of query and key instead of their product.

    .. math:: C_h(c) = \sum_t w_{ct} \cos(q_{ch}, k_{ct,\lfloor h/g \rfloor})

    Args:
        q: As for ``qk_alignment``.
        k: As for ``qk_alignment``.
        weight: As for ``qk_alignment``.

    Returns:
        Scores in [-1, 1] where weights are a mean; a zero vector has cosine 0.

    Raises:
        ValueError: As for ``qk_alignment``.

    Example:
        >>> q, k = torch.ones(1, 1, 2, 4), 3 * torch.ones(1, 1, 1, 1, 4)
        >>> cosine_alignment(q, k, torch.ones(1, 1, 1)).flatten().tolist()
        [1.0, 1.0]
    """
    return qk_alignment(_unit(q), _unit(k), weight)


def attention_logits(
    q: Float[Tensor, "example #candidate n_heads d_head"],
    k: Float[Tensor, "example #candidate token n_key_value_heads d_head"],
    weight: Float[Tensor, "example #candidate token"],
    scale: float,
    soft_cap: float | None = None,
) -> Float[Tensor, "example candidate n_heads"]:
    r"""Score every head by what it gives to its softmax: scaled and, for Gemma-2, soft-capped.

    .. math:: A_h(c) = \sum_t w_{ct}\, \kappa \tanh(\sigma \langle q, k \rangle / \kappa)

    Args:
        q: Rotated queries, otherwise as for ``qk_alignment``.
        k: Rotated keys.
        weight: As for ``qk_alignment``.
        scale: :math:`\sigma`, usually :math:`1/\sqrt{d_{head}}`.
        soft_cap: :math:`\kappa`; None for none (the identity in place of the tanh).

    Returns:
        Scores, in float32 at least.

    Raises:
        ValueError: As for ``qk_alignment``.

    Example:
        >>> q, k = torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 1, 4)
        >>> attention_logits(q, k, torch.ones(1, 1, 1), 0.5).item()
        2.0
    """
    if soft_cap is None:
        return qk_alignment(q, k, weight) * scale
    # A cap is not linear: every token is capped before the mean.
    one = torch.ones_like(weight[..., :1])
    each = [qk_alignment(q, k[:, :, [t]], one) * (scale / soft_cap) for t in range(k.shape[2])]
    capped = [soft_cap * x.tanh() * weight[..., t, None] for t, x in enumerate(each)]
    return torch.stack(capped).sum(0)


def attention_weights(
    pattern: Float[Tensor, "example #candidate n_heads token"],
    weight: Float[Tensor, "example #candidate token"],
) -> Float[Tensor, "example candidate n_heads"]:
    r"""Weigh attention that was paid to a candidate's tokens: :math:`\sum_t w_{ct} a_{cht}`.

    Args:
        pattern: Attention of the query to those tokens.
        weight: As for ``qk_alignment``.

    Returns:
        Weights, in float32 at least.

    Example:
        >>> attention_weights(torch.full((1, 1, 2, 3), 0.2), torch.ones(1, 1, 3) / 3).shape
        torch.Size([1, 1, 2])
    """
    exact = torch.promote_types(pattern.dtype, torch.float32)
    return einsum(
        pattern.to(exact),
        weight.to(exact),
        "example candidate head token, example candidate token -> example candidate head",
    )


def _unit(x: Tensor) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.nn.functional.normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny)
