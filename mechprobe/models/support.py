"""Refuse, by name and with the reason, what mechprobe would read wrongly."""

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mechprobe.models.protocol import Model, Stamp, is_bridge, model_name, stamp, tokenizer_of

# Modules between the residual stream and the logits that final norm and unembedding would skip.
_EXTRA_READOUT = ("mlm_head", "prediction_head", "project_out", "hc_head", "sigma_map")

_finite: WeakKeyDictionary[nn.Module, Stamp] = WeakKeyDictionary()


def require_model(model: object) -> Model:
    """Return ``model`` if mechprobe can analyse it.

    Raises:
        TypeError: It is not a TransformerLens model.
        NotImplementedError: Its architecture has no single residual stream that a final norm and
            an unembedding read: encoder-decoder, encoder-only, several streams, extra heads.
        ValueError: It is in training mode, or its weights hold NaN or infinity.
    """
    if not isinstance(model, Model) or not isinstance(model, nn.Module):
        msg = (
            f"expected a TransformerLens model (TransformerBridge or HookedTransformer), found "
            f"{type(model).__module__}.{type(model).__qualname__}; load one with "
            "mechprobe.load_model(name)."
        )
        raise TypeError(msg)
    reason = unsupported_reason(model)
    if reason:
        msg = f"{model_name(model)} is not supported: {reason}"
        raise NotImplementedError(msg)
    if model.training:
        msg = f"{model_name(model)} is in training mode (dropout changes its answers); call .eval()"
        raise ValueError(msg)
    _require_finite(model)
    return model


def unsupported_reason(model: Model) -> str:
    """Return why mechprobe cannot read this model, or an empty string."""
    modules: dict[str, object] = dict(getattr(model, "_modules", {}))
    config = getattr(getattr(model, "original_model", None), "config", None)
    if "encoder_blocks" in modules or getattr(config, "is_encoder_decoder", False):
        return (
            "it is an encoder-decoder; its decoder reads a second sequence, and one prompt has "
            "two residual streams. Use a decoder-only model."
        )
    if "unembed" not in modules and "unembed" not in dir(model):
        return "it has no unembedding (an encoder); there is no next token to read."
    if str(getattr(model.cfg, "attention_dir", "causal")) == "bidirectional":
        return "its attention is bidirectional; there is no next token to read."
    for layer, block in enumerate(_children(modules.get("blocks"))):
        if not getattr(block, "hook_out_is_single_residual_stream", True):
            return (
                f"block {layer} ({type(block).__name__}) carries several residual streams that "
                "the model combines before its final norm."
            )
    extra = [name for name in _EXTRA_READOUT if name in modules]
    if extra:
        return f"{extra} stands between its residual stream and its logits."
    return ""


def _children(blocks: object) -> Iterator[nn.Module]:
    if isinstance(blocks, nn.ModuleList):
        yield from blocks


def _require_finite(model: nn.Module) -> None:
    now = stamp(model)
    if _finite.get(model) == now:
        return
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not _all_finite(parameter):
            msg = (
                f"weight {name} holds NaN or infinity; every number read from this model would be "
                "meaningless. Load the checkpoint again, or look at how it was saved."
            )
            raise ValueError(msg)
    _finite[model] = now


def _all_finite(values: Tensor) -> bool:
    """Check a weight by its extremes: NaN is both, and infinity one of them."""
    if values.is_meta or values.numel() == 0:
        return True
    return bool(torch.isfinite(torch.stack(values.detach().aminmax())).all())


def require_tokenizer(model: Model, what: str) -> None:
    """Refuse ``what`` (a text) where the model came without a tokenizer.

    Raises:
        ValueError: The model has no tokenizer.
    """
    if tokenizer_of(model) is None:
        msg = f"this model has no tokenizer, so {what} cannot be text; pass token ids (integers)."
        raise ValueError(msg)


def require_encodable(text: str, what: str) -> None:
    """Refuse text with lone surrogates, which no tokenizer takes.

    Raises:
        ValueError: ``text`` is not valid Unicode.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        msg = f"{what} is no valid Unicode text: {error}; replace the lone surrogate."
        raise ValueError(msg) from error


def require_kv_cache(model: Model) -> None:
    """Refuse models that generate without a key-value cache.

    Raises:
        NotImplementedError: The model is recurrent.
    """
    adapter = getattr(model, "adapter", None)
    keeps = all(getattr(adapter, f"supports_{x}", True) for x in ("kv_cache", "generation"))
    if is_bridge(model) and (getattr(model.cfg, "is_stateful", False) or not keeps):
        msg = f"{model_name(model)} is recurrent and keeps no key-value cache to generate with."
        raise NotImplementedError(msg)
