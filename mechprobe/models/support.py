"""Refuse, by name and with the reason, what mechprobe would read wrongly."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mechprobe.models.internals import block_names, hugging_face, roots
from mechprobe.models.protocol import Model, is_bridge, model_name, tokenizer_of

# Modules between the residual stream and the logits that final norm and unembedding would skip.
_EXTRA_READOUT = ("mlm_head", "prediction_head", "project_out", "hc_head", "sigma_map")


def require_readable(model: object) -> Model:
    """Return ``model`` if mechprobe can analyse it.

    Args:
        model: What the user passed.

    Raises:
        TypeError: It is not a TransformerLens model.
        NotImplementedError: Its architecture has no single residual stream that a final norm and
            an unembedding read: encoder-decoder, encoder-only, several streams, extra heads; or
            its ``forward`` was replaced, which mechprobe would not run.
    """
    if isinstance(model, nn.Module) and "_orig_mod" in model._modules:
        msg = (
            "found what torch.compile returned, whose parts cannot be listened to; pass the model "
            "that was compiled (compiled._orig_mod), which shares its weights."
        )
        raise TypeError(msg)
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
    return model


def require_eval(model: Model, training: Sequence[str]) -> None:
    """Refuse a model that answers otherwise in training mode, and is in it.

    Args:
        model: The model.
        training: Names of its modules that are in training mode and heed it.

    Raises:
        ValueError: There are any.
    """
    if training:
        more = f" and {len(training) - 1} more" if len(training) > 1 else ""
        inner = ", and of its original_model" if is_bridge(model) else ""
        msg = (
            f"{model_name(model)} is in training mode, where dropout changes its answers: "
            f"{training[0]}{more}. Call .eval() of the model{inner}."
        )
        raise ValueError(msg)


def unsupported_reason(model: Model) -> str:
    """Return why mechprobe cannot read this model, or an empty string."""
    modules: dict[str, object] = dict(getattr(model, "_modules", {}))
    config = getattr(hugging_face(model), "config", None)
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
    if is_bridge(model) and "forward" in vars(model):
        return (
            "its forward was replaced on the bridge, and mechprobe runs the Hugging Face model "
            "inside (original_model). Replace that one's, or that of a part."
        )
    extra = [name for name in _EXTRA_READOUT if name in modules]
    if extra:
        return f"{extra} stands between its residual stream and its logits."
    return ""


def _children(blocks: object) -> Iterator[nn.Module]:
    if isinstance(blocks, nn.ModuleList):
        yield from blocks


def require_blocks(model: Model) -> None:
    """Refuse a model whose blocks are not those that activations are named after, in order.

    Raises:
        NotImplementedError: Layers were exchanged, dropped, repeated or replaced.
    """
    run, n_layers = block_names(model), int(model.cfg.n_layers)
    if run and run != [f"blocks.{layer}" for layer in range(n_layers)]:
        msg = (
            f"the layers of {model_name(model)} were changed: it runs {', '.join(run)} of its "
            f"{n_layers} blocks, in this order, so that a layer is not what its name says. Put "
            "the changed model into a new bridge."
        )
        raise NotImplementedError(msg)


def require_finite(model: nn.Module) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        ValueError: They do.
    """
    named = {n: p for root in reversed(roots(model)) for n, p in root.named_parameters()}
    for name, parameter in named.items():
        if parameter.is_floating_point() and not _all_finite(parameter):
            msg = (
                f"weight {name} holds NaN or infinity; every number read from this model would be "
                "meaningless. Load the checkpoint again, or look at how it was saved."
            )
            raise ValueError(msg)


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


def end_ids(model: Model) -> set[int]:
    """Return the ids that end what a model says, by its own settings and its tokenizer's."""
    found: set[int] = set()
    settings = getattr(hugging_face(model), "generation_config", None)
    for owner in (settings, tokenizer_of(model)):
        end = getattr(owner, "eos_token_id", None)
        found.update(end if isinstance(end, list) else [] if end is None else [end])
    return found


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
