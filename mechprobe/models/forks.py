"""Rows that continue the same prompts, one token at a time: a prompt's cache is kept once.

The model is its twin without hooks, whose attention is told by an argument which prompt each row
continues. Its cache holds what the rows have read since. As every twin it is trusted only after a
trial, so that a model with an attention of its own is left to the ordinary way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels.forked import Seats, forked_attention
from mechprobe.kernels.gemm import fastest_gemm, gemm_path
from mechprobe.models.branch import branching, window
from mechprobe.models.plain import near, trusted_body
from mechprobe.models.protocol import Model, input_device
from mechprobe.models.run import run, takes_positions

ATTENTION = "mechprobe_forks"
# What transformers hands to any attention, and what changes nothing in that of one query.
_HARMLESS = {"position_ids", "cache_position", "use_cache", "output_attentions", "logits_to_keep",
             "is_causal", "output_hidden_states", "output_router_logits"}  # fmt: skip
# What a model whose attention is its own stumbles over.
_FOREIGN = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class PromptCache:
    """Keys and values of prompts, by layer.

    Attributes:
        keys: Of each layer.
        values: Of each layer.
        bias: -inf where a prompt is padded; None where none is.
    """

    keys: Sequence[Float[Tensor, "prompt kv_head d_head pos"]]
    values: Sequence[Float[Tensor, "prompt kv_head pos d_value"]]
    bias: Float[Tensor, "prompt 1 1 pos"] | None

    @classmethod
    def of(cls, cache: Any, mask: Int[Tensor, "prompt pos"] | None) -> "PromptCache":
        """Return what is in a cache of Hugging Face's.

        Args:
            cache: Of a pass over the prompts.
            mask: 1 for tokens and 0 for padding.
        """
        keys = [layer.keys.transpose(2, 3).contiguous() for layer in cache.layers]
        values = [layer.values.contiguous() for layer in cache.layers]
        if mask is None:
            return cls(keys, values, None)
        none = torch.zeros_like(mask, dtype=keys[0].dtype, device=keys[0].device)
        bias = none.masked_fill(mask.to(none.device) == 0, -torch.inf)
        return cls(keys, values, bias[:, None, None])

    def __len__(self) -> int:
        return len(self.keys[0])

    def taken(self, prompts: Int[np.ndarray, " kept"]) -> "PromptCache":
        """Return some of the prompts."""
        some = torch.as_tensor(prompts, device=self.keys[0].device)
        bias = None if self.bias is None else self.bias[some]
        return PromptCache([k[some] for k in self.keys], [v[some] for v in self.values], bias)


@dataclass(frozen=True, slots=True, eq=False)
class _Forks:
    """What the attention of a step is told: the prompts, and where their rows sit."""

    prompts: PromptCache
    seats: Seats


def seated(prompt: Int[np.ndarray, " row"], n_prompts: int, n_kv: int) -> Seats:
    """Seat rows next to the others of their prompt.

    Args:
        prompt: Prompt of each row; at least one row.
        n_prompts: Prompts in all.
        n_kv: Heads of keys and values.
    """
    counts = np.bincount(prompt, minlength=n_prompts)
    order = np.argsort(prompt, kind="stable")
    seat = np.empty_like(prompt)
    seat[order] = np.arange(len(prompt)) - (np.cumsum(counts) - counts)[prompt[order]]
    cell = (prompt[:, None] * n_kv + np.arange(n_kv)) * counts.max() + seat[:, None]
    row = np.zeros(n_prompts * n_kv * counts.max(), dtype=np.int64)
    row[cell] = np.arange(cell.size).reshape(cell.shape)
    return Seats(torch.as_tensor(cell.ravel()), torch.as_tensor(row))


def forking_body(model: Model) -> Any | None:
    """Return the twin of a model that reads prompts once for all their rows; None if it cannot.

    Args:
        model: Any model.
    """
    return trusted_body(model, ATTENTION, _same_forks) if branching(model) else None


@torch.no_grad()
def continue_rows(
    model: Model,
    body: Any,
    ids: Int[Tensor, "row 1"],
    positions: Int[Tensor, "row 1"],
    prompts: PromptCache,
    prompt: Int[np.ndarray, " row"],
    cache: Any,
) -> Float[Tensor, "row d_vocab"]:
    """Read one more token of each row and return the logits behind it.

    Args:
        model: The bridge.
        body: Its ``forking_body``.
        ids: The tokens.
        positions: Where they stand.
        prompts: What the rows continue.
        prompt: Prompt of each row; at least one row.
        cache: What they have read since; grows by the tokens.
    """
    W_U: Any = getattr(model, "W_U", None)
    path = "default" if W_U is None else fastest_gemm(W_U, len(ids))
    forks = _Forks(prompts, seated(prompt, len(prompts), prompts.keys[0].shape[1]).to(ids.device))
    # Told of no padding, transformers looks for it in the ids.
    mask = torch.ones_like(ids)
    with gemm_path(path):
        out = body(input_ids=ids, attention_mask=mask, position_ids=positions,
                   past_key_values=cache, use_cache=True, forks=forks)  # fmt: skip
    logits: Tensor = out.logits[:, -1]
    return logits


def _attention(
    module: Any,
    query: Float[Tensor, "row head 1 d_head"],
    key: Float[Tensor, "row kv_head own d_head"],
    value: Float[Tensor, "row kv_head own d_value"],
    attention_mask: Tensor | None = None,  # noqa: ARG001
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001
    *,
    forks: _Forks,
    **others: Any,
) -> tuple[Float[Tensor, "row 1 head d_value"], None]:
    """Compute what transformers asks of an attention, of rows that continue prompts."""
    meant = {name for name, x in others.items() if x is not None} - _HARMLESS
    if meant:
        msg = f"attention of forked rows knows nothing of {', '.join(sorted(meant))}."
        raise NotImplementedError(msg)
    prompts, layer = forks.prompts, module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = forked_attention(query[:, :, 0], prompts.keys[layer], prompts.values[layer], key, value,
                           forks.seats, scale, prompts.bias)  # fmt: skip
    return out[:, None], None


def _same_forks(model: Any, body: Any) -> bool:
    """Compare rows of two prompts, one of them padded, with the model's own reading of each."""
    from transformers import AttentionInterface

    kinds = set(getattr(model.original_model.config, "layer_types", None) or ())
    if window(model) is not None or kinds - {"full_attention"} or not takes_positions(model):
        return False
    AttentionInterface.register(ATTENTION, _attention)
    ids = torch.arange(12, device=input_device(model)) % int(model.cfg.d_vocab)
    prompts, said = ids[:5].repeat(2, 1), ids[6:].view(3, 2)
    prompt, starts = np.array([0, 1, 0]), (0, 2)
    mask = torch.stack([torch.arange(5, device=ids.device) >= start for start in starts]).long()
    try:
        found = _trial(model, body, prompts, mask, prompt, said)
    except _FOREIGN:
        return False
    rows = zip(prompt.tolist(), said, strict=True)
    wholes = [torch.cat([prompts[p, starts[p] :], s])[None] for p, s in rows]
    own = [run(model, whole, {}, logits="last").logits for whole in wholes]
    return near(torch.cat([x[:, -1] for x in own if x is not None]), found)


def _trial(
    model: Any,
    body: Any,
    prompts: Int[Tensor, "prompt pos"],
    mask: Int[Tensor, "prompt pos"],
    prompt: Int[np.ndarray, " row"],
    said: Int[Tensor, "row 2"],
) -> Float[Tensor, "row d_vocab"]:
    """Return the logits behind two more tokens of each row."""
    from transformers.cache_utils import DynamicCache

    at = (mask.cumsum(1) - 1).clamp(min=0)
    done = run(model, prompts, {}, mask=mask, positions=at, keep_cache=True)
    kept, cache, last = PromptCache.of(done.cache, mask), DynamicCache(), at[prompt, -1:]
    continue_rows(model, body, said[:, :1], last + 1, kept, prompt, cache)
    return continue_rows(model, body, said[:, 1:], last + 2, kept, prompt, cache)
