"""Rows that continue the same prompts, one token at a time: a prompt's cache is kept once.

The model is its twin without hooks, whose attention is told by an argument which prompt each row
continues. Its cache holds what the rows have read since, so that to repeat a row copies little, and
a step reads the keys and values of a prompt once for all rows that continue it. Whether a model can
be read so is seen on rows of the call itself (``Cursor``).
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
from mechprobe.models.internals import hugging_face
from mechprobe.models.run import takes_positions
from mechprobe.models.session import Session
from mechprobe.models.slots import Rows, SlotCache, SlotLayer
from mechprobe.models.twin import twin_of

ATTENTION = "mechprobe_forks"
# What transformers hands to any attention, and what changes nothing in that of one query.
_HARMLESS = {
    "position_ids",
    "cache_position",
    "use_cache",
    "output_attentions",
    "logits_to_keep",
    "is_causal",
    "output_hidden_states",
    "output_router_logits",
}
# Share of prompts that rows still continue, below which the others are given up.
_DENSE_ENOUGH = 0.75
# What a model whose attention is its own stumbles over.
FOREIGN = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)


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


class ForkCache(SlotCache):
    """What some rows have read since their prompts.

    Attributes:
        prompts: Keys and values of the prompts.
        prompt: Prompt of each row.
    """

    def __init__(self, layers: list[SlotLayer], n_rows: int, prompts: PromptCache, prompt: Rows) -> None:
        super().__init__(layers, n_rows)
        self.prompts, self.prompt = prompts, prompt

    @classmethod
    def behind(cls, cache: SlotCache, mask: Int[Tensor, "row pos"] | None) -> "ForkCache":
        """Return a cache of rows that each continue one row of another."""
        n = cache.n_slots
        layers = [SlotLayer() for _ in cache.layers]
        return cls(layers, n, PromptCache.of(cache, mask), np.arange(n))

    def select(self, rows: Rows) -> None:
        """Let new row ``i`` be old row ``rows[i]``."""
        super().select(rows)
        self._continue(self.prompt[rows])

    def taken(self, rows: Rows) -> "ForkCache":
        """Return a new cache in which row ``i`` is row ``rows[i]`` of this one."""
        layers = super().taken(rows).layers
        out = ForkCache(layers, len(rows), self.prompts, self.prompt)
        out._continue(self.prompt[rows])
        return out

    def in_order(self) -> SlotCache:
        """Return a cache whose slots are rows, each with its prompt."""
        kept = self.prompts.taken(self.prompt)
        slots = torch.as_tensor(self.slot)
        layers = [
            layer.taken(slots, before=(key.transpose(2, 3), value))
            for layer, key, value in zip(self.layers, kept.keys, kept.values, strict=True)
        ]
        return SlotCache(layers, len(self.slot))

    def _continue(self, prompt: Rows) -> None:
        there, prompt_there = np.unique(prompt, return_inverse=True)
        if len(there) < _DENSE_ENOUGH * len(self.prompts):
            self.prompts, prompt = self.prompts.taken(there), prompt_there
        self.prompt = prompt


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


def forking_body(session: Session) -> Any | None:
    """Return the twin of a model that may read prompts once for all their rows; None if it cannot.

    Args:
        session: Any model.
    """
    if not session.fact("forks", lambda: _may_fork(session)):
        return None
    twin = twin_of(session, ATTENTION)
    return None if twin is None else twin.body


def _may_fork(session: Session) -> bool:
    from transformers import AttentionInterface

    model = session.model

    AttentionInterface.register(ATTENTION, _attention)
    if not branching(model) or window(model) is not None or not takes_positions(session):
        return False
    kinds = set(getattr(hugging_face(model).config, "layer_types", None) or ())
    return not kinds - {"full_attention"}


@torch.no_grad()
def continue_rows(
    session: Session, ids: Int[Tensor, "row 1"], positions: Int[Tensor, "row 1"], cache: ForkCache
) -> Float[Tensor, "row 1 d_vocab"]:
    """Read one more token of each row and return the logits behind it.

    Args:
        session: A model that has a ``forking_body``.
        ids: The tokens; at least one.
        positions: Where they stand.
        cache: Grows by the tokens.
    """
    W_U: Any = getattr(session.model, "W_U", None)
    path = "default" if W_U is None else fastest_gemm(W_U, cache.n_slots)
    body: Any = forking_body(session)
    row_of_slot = cache.row_of_slot()
    row = torch.as_tensor(row_of_slot, device=ids.device)
    prompts, prompt = cache.prompts, cache.prompt[row_of_slot]
    seats = seated(prompt, len(prompts), prompts.keys[0].shape[1]).to(ids.device)
    # Told of no padding, transformers looks for it in the ids.
    mask = torch.ones_like(row)[:, None]
    with gemm_path(path):
        out = body(
            input_ids=ids[row],
            attention_mask=mask,
            position_ids=positions[row],
            past_key_values=cache,
            use_cache=True,
            forks=(prompts, seats),
        )
    logits: Tensor = out.logits[:, -1:]
    return logits[torch.as_tensor(cache.slot)]


def _attention(
    module: Any,
    query: Float[Tensor, "row head 1 d_head"],
    key: Float[Tensor, "row kv_head own d_head"],
    value: Float[Tensor, "row kv_head own d_value"],
    attention_mask: Tensor | None = None,  # noqa: ARG001
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001
    *,
    forks: tuple[PromptCache, Seats],
    **others: Any,
) -> tuple[Float[Tensor, "row 1 head d_value"], None]:
    """Compute what transformers asks of an attention, of rows that continue prompts."""
    meant = {name for name, x in others.items() if x is not None} - _HARMLESS
    if meant:
        msg = f"attention of forked rows knows nothing of {', '.join(sorted(meant))}."
        raise NotImplementedError(msg)
    (prompts, seats), layer = forks, module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = forked_attention(
        query[:, :, 0], prompts.keys[layer], prompts.values[layer], key, value, seats, scale, prompts.bias
    )
    return out[:, None], None
