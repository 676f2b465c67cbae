"""The one way analyses run a model: capture what is needed, compute no logits nobody wants."""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels.gemm import fastest_gemm, gemm_path
from mechprobe.models.plain import Plain, plain_model
from mechprobe.models.protocol import Edit, Model, Sink, is_bridge, model_name

Logits = Literal["none", "last", "all"]


@dataclass(frozen=True, slots=True)
class Run:
    """What one forward pass gave besides what its sinks took.

    Attributes:
        logits: The model's own logits; None, or of the last column, or of all, as asked for.
        cache: Keys and values to continue from, where ``keep_cache`` was asked for.
    """

    logits: Float[Tensor, "batch pos d_vocab"] | None
    cache: Any


@torch.no_grad()
def run(
    model: Model,
    ids: Int[Tensor, "batch pos"],
    capture: Mapping[str, Sink],
    *,
    edit: Mapping[str, Edit] | None = None,
    mask: Int[Tensor, "batch total"] | None = None,
    positions: Int[Tensor, "batch pos"] | None = None,
    logits: Logits = "none",
    cache: Any = None,
    keep_cache: bool = False,
) -> Run:
    """Run ``ids`` through the model, handing named activations to sinks as they come by.

    A bridge is driven through its Hugging Face body, so that the unembedding runs over no more
    positions than ``logits`` asks for (on SmolLM2 it is half the cost of a forward pass). Its
    products take the faster of torch's float32 paths, as the read-out does; where nobody wants to
    see its attention, long passes do not write down the scores. A pass that only listens ends
    behind the last layer that is listened to.

    Args:
        model: Checked by ``require_model``.
        ids: Token ids; rows shorter than the batch are padded on the right.
        capture: Hook name (``"blocks.3.hook_resid_post"``) to a function of the activation
            ``[batch, pos, ...]``; it must not change it.
        edit: Hook name to a function that returns what the model shall go on with instead;
            sinks see what the model computed.
        mask: 1 for tokens, 0 for padding; needed only where rows are padded.
        positions: Position of every token, where a padded ``cache`` puts them elsewhere than they
            stand (see ``takes_positions``).
        logits: Whether to compute logits nowhere, at the last column, or everywhere.
        cache: What an earlier ``run(keep_cache=True)`` returned; ``ids`` continue from there.
        keep_cache: Return keys and values.

    Returns:
        The logits asked for, and the cache.

    Raises:
        NotImplementedError: A hook named in ``capture`` or ``edit`` does not exist in this model,
            or it does not go on with what an edit returns, or it keeps no cache and one was asked
            for.
    """
    edits = edit or {}
    if capture and not edits and logits == "none" and cache is None and not keep_cache:
        capture = _until_heard(capture)
    plain = None
    if is_bridge(model) and not edits:
        plain = plain_model(model, capture, n_scores=_n_scores(model, ids, mask, cache))
    hooks = [(name, _as_hook(sink)) for name, sink in capture.items()]
    hooks += [(name, _as_edit(change)) for name, change in edits.items()]
    # ``hook_dict`` gathers every alias anew.
    known = model.hook_dict if hooks and plain is None else capture
    for name in (*capture, *edits):
        if name not in known:
            msg = f"{model_name(model)} has no activation {name!r}."
            raise NotImplementedError(msg)
    W_U: Any = getattr(model, "W_U", None)
    path = "default" if W_U is None else fastest_gemm(W_U, ids.numel())
    hooked = model.hooks(fwd_hooks=hooks) if plain is None else plain.listening(capture)
    done = Run(None, None)
    with gemm_path(path), hooked, _heeded(model, edits), suppress(_EnoughError):
        if is_bridge(model):
            done = _run_bridge(model, plain, ids, mask, positions, logits, cache, keep_cache)
        else:
            done = _run_hooked(model, ids, logits, cache, keep_cache)
    if keep_cache and done.cache is None:
        msg = f"{model_name(model)} gave no key-value cache to continue from."
        raise NotImplementedError(msg)
    return done


class _EnoughError(Exception):
    """Every sink was called; the layers behind have nothing to say."""


def _until_heard(capture: Mapping[str, Sink]) -> dict[str, Sink]:
    """Return sinks the last of which ends the pass."""
    missing = set(capture)

    def heard(name: str, activation: Tensor) -> None:
        capture[name](activation)
        missing.discard(name)
        if not missing:
            raise _EnoughError

    return {name: partial(heard, name) for name in capture}


def _n_scores(model: Model, ids: Tensor, mask: Tensor | None, cache: Any) -> int:
    before = 0 if cache is None else int(cache.get_seq_length())
    total = before + ids.shape[1] if mask is None else mask.shape[1]
    return ids.numel() * total * int(model.cfg.n_heads)


def _as_hook(sink: Sink) -> Any:
    def hook_fn(activation: Tensor, hook: Any) -> None:  # noqa: ARG001
        sink(activation.detach())

    return hook_fn


def _as_edit(change: Edit) -> Any:
    def hook_fn(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return change(activation.detach())

    return hook_fn


@contextmanager
def _heeded(model: Model, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Refuse edits that TransformerLens discards, at the first one."""
    if not edits:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="A hook on .* returned a modified tensor")
        try:
            yield
        except UserWarning as warning:
            if "returned a modified tensor" not in str(warning):
                raise
            msg = (
                f"changing {', '.join(edits)} changes nothing in {model_name(model)}: what its "
                "hook returns is not what the model goes on with."
            )
            raise NotImplementedError(msg) from warning


def takes_positions(model: Model) -> bool:
    """Whether ``run`` can tell the model where its tokens stand."""
    hf = getattr(model, "original_model", None)
    return hf is not None and "position_ids" in inspect.signature(hf.base_model.forward).parameters


def _run_bridge(
    model: Any,
    plain: Plain | None,
    ids: Tensor,
    mask: Tensor | None,
    positions: Tensor | None,
    logits: Logits,
    cache: Any,
    keep_cache: bool,
) -> Run:
    hf: Any = model.original_model if plain is None else plain.body
    kwargs: dict[str, Any] = {"input_ids": ids, "use_cache": keep_cache}
    if mask is not None:
        kwargs["attention_mask"] = mask
    if positions is not None:
        kwargs["position_ids"] = positions
    if cache is not None:
        kwargs["past_key_values"] = cache
    if getattr(model.cfg, "is_stateful", False):
        del kwargs["use_cache"]
    if "pos_embed" in model._modules:
        # Learned positions are embedded for one row and expanded by the bridge.
        model.pos_embed._current_batch_size = len(ids)
    if logits == "none":
        out = hf.base_model(**kwargs)
        return Run(None, getattr(out, "past_key_values", None))
    if logits == "last" and "logits_to_keep" in inspect.signature(hf.forward).parameters:
        kwargs["logits_to_keep"] = 1
    out = hf(**kwargs)
    found = out.logits[:, -1:] if logits == "last" else out.logits
    return Run(found, getattr(out, "past_key_values", None))


def _run_hooked(model: Any, ids: Tensor, logits: Logits, cache: Any, keep_cache: bool) -> Run:
    kwargs: dict[str, Any] = {}
    if keep_cache and cache is None:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, len(ids))
    if cache is not None:
        # Left to itself, a cached model asks its tokenizer for a mask, and may have none.
        kwargs = {"past_kv_cache": cache, "attention_mask": torch.ones_like(ids)}
    stop = model.cfg.n_layers if logits == "none" else None
    out = model(ids, return_type="logits", stop_at_layer=stop, **kwargs)
    found = {"none": None, "last": out[:, -1:], "all": out}[logits]
    return Run(found, cache)
