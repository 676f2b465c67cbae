"""Who a model is: name, revision, digests and settings, for provenance."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mechprobe.models.protocol import Model, Stamp, is_bridge, stamp, tokenizer_of
from mechprobe.provenance import Json, digest_json


@dataclass(frozen=True)
class Source:
    """Where ``load_model`` found a model.

    Attributes:
        name: What was asked for: packaged name, hub id, or name of a folder.
        revision: Commit on the hub, where there is one.
        files: SHA-256 of each weight file; empty where the revision pins them.
        note: What was done to the weights on the way.
        folder: Where the files lie on this machine; never written into a result.
    """

    name: str
    revision: str = ""
    files: dict[str, str] = field(default_factory=dict)
    note: str = ""
    folder: Path | None = None


_sources: WeakKeyDictionary[nn.Module, Source] = WeakKeyDictionary()
_stamps: WeakKeyDictionary[nn.Module, Stamp] = WeakKeyDictionary()
_digests: WeakKeyDictionary[nn.Module, tuple[Stamp, str]] = WeakKeyDictionary()
_tokenizers: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


def remember(model: nn.Module, source: Source) -> None:
    """Note where a model came from, and its weights as they are now."""
    _sources[model] = source
    _stamps[model] = stamp(model)


def source_of(model: Any) -> Source | None:
    """Return where a model came from, if ``load_model`` loaded it."""
    return _sources.get(model)


def describe(model: Model) -> dict[str, Json]:
    """Return everything about a model that can change a number, as JSON."""
    module: Any = model
    source = source_of(model)
    cfg = model.cfg
    config = getattr(getattr(module, "original_model", None), "config", None)
    tokenizer = tokenizer_of(model)
    files: dict[str, Json] = dict(source.files) if source else {}
    # Weights that were written to after loading are no longer those of the files.
    changed = source is None or _stamps.get(module) != stamp(module)
    note = "weights in memory" if source is None else source.note
    if source is not None and changed:
        note = f"{note}; changed in memory after loading".removeprefix("; ")
    return {
        "name": source.name if source else str(getattr(cfg, "model_name", "in memory")),
        "revision": source.revision if source else "",
        "files_sha256": files,
        "weights_sha256": weights_digest(module) if changed else "",
        "note": note,
        "config_sha256": digest_json(_settings(config, cfg)),
        "hooks": _n_hooks(model),
        "architecture": str(getattr(cfg, "architecture", None) or "HookedTransformer"),
        "class": type(model).__qualname__,
        "n_layers": int(cfg.n_layers),
        "d_model": int(cfg.d_model),
        "d_vocab": int(cfg.d_vocab),
        "dtype": str(next(module.parameters()).dtype),
        "device": str(cfg.device),
        "attention": str(getattr(config, "_attn_implementation", "hooked")),
        "weight_processing": _processing(module),
        "prepend_bos": bool(getattr(cfg, "default_prepend_bos", True)),
        "tokenizer": type(tokenizer).__qualname__ if tokenizer is not None else "",
        "tokenizer_sha256": _tokenizer_digest(tokenizer),
    }


def _settings(config: Any, cfg: Any) -> Json:
    """Return the configuration without what names a place on this machine."""
    found = config.to_dict() if config is not None else vars(cfg)
    skipped = ("_name_or_path", "name_or_path", "transformers_version", "model_name", "device")
    return {k: str(v) for k, v in found.items() if k not in skipped}


def _n_hooks(model: Model) -> int:
    """Return how many functions hang on the hook points; each may change what is computed."""
    points = {id(point): point for point in model.hook_dict.values()}
    return sum(len(getattr(point, "fwd_hooks", ())) for point in points.values())


def _processing(model: Any) -> str:
    if is_bridge(model):
        return "compatibility mode" if getattr(model, "compatibility_mode", False) else "none"
    return f"HookedTransformer, {model.cfg.normalization_type}"


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over names, shapes and bytes of all weights; again when they change."""
    now = stamp(model)
    if _digests.get(model, ((), ""))[0] != now:
        total = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                flat = tensor.detach().cpu().contiguous().flatten()
                total.update(flat.view(torch.uint8).numpy().tobytes())
        _digests[model] = (now, total.hexdigest())
    return _digests[model][1]


def _tokenizer_digest(tokenizer: Any) -> str:
    """Return the SHA-256 of the whole tokenizer, taken again when tokens were added."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    size, digest = _tokenizers.get(tokenizer, (-1, ""))
    if size != len(tokenizer):
        digest = hashlib.sha256(backend.to_str().encode()).hexdigest()
        _tokenizers[tokenizer] = (len(tokenizer), digest)
    return digest
