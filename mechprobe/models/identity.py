"""Who a model is: name, revision, digests and settings, for provenance."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from mechprobe.kernels.arithmetic import capabilities
from mechprobe.models.fingerprint import Fingerprint, fingerprint, told
from mechprobe.models.internals import adapters, hugging_face
from mechprobe.models.protocol import is_bridge
from mechprobe.models.session import Session
from mechprobe.provenance import Json, digest_json

_FEW = 5  # weights that are named


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


# Where each model came from, and what it was like then.
_sources: "WeakKeyDictionary[nn.Module, tuple[Source, Fingerprint]]" = WeakKeyDictionary()

_tokenizers: "WeakKeyDictionary[Any, tuple[tuple[Any, ...], str]]" = WeakKeyDictionary()


def remember(model: nn.Module, source: Source) -> None:
    """Note where a model came from, and what it is like now."""
    _sources[model] = source, fingerprint(model)


def source_of(model: Any) -> Source | None:
    """Return where a model came from, if ``load_model`` loaded it."""
    found = _sources.get(model)
    return found[0] if found else None


def describe(session: Session) -> dict[str, Json]:
    """Return everything about a model that can change a number, as JSON."""
    cfg, now, tokenizer = session.cfg, session.fingerprint, session.tokenizer
    module: Any = session.model
    source, then = _sources.get(module) or (None, None)
    config = getattr(hugging_face(session.model), "config", None)
    # Weights that were written to after loading are no longer those of the files.
    same_weights, changed = session.fact("since loading", lambda: _changed(then, now))
    note = "weights in memory" if source is None else source.note
    if changed:
        note = f"{note}; changed in memory after loading".removeprefix("; ")
    return {
        "name": source.name if source else str(getattr(cfg, "model_name", "in memory")),
        "revision": source.revision if source and same_weights else "",
        "files_sha256": dict(source.files) if source and same_weights else {},
        "weights_sha256": "" if same_weights else _weights_digest(session),
        "structure_sha256": session.fact("structure", lambda: digest_json(told(now.structure))),
        "note": note,
        "changed": [*changed],
        "hooks": sum(name.startswith("a hook") for name in now.foreign),
        "foreign": [*sorted(set(now.foreign))],
        "adapters": [*_adapters(session)],
        "config_sha256": digest_json(_settings(config, cfg)),
        "architecture": str(getattr(cfg, "architecture", None) or "HookedTransformer"),
        "class": type(session.model).__qualname__,
        "n_layers": session.n_layers,
        "d_model": int(cfg.d_model),
        "d_vocab": int(cfg.d_vocab),
        "dtype": str(session.dtype),
        "device": str(cfg.device),
        "attention": str(getattr(config, "_attn_implementation", "hooked")),
        "weight_processing": _processing(session.model),
        "prepend_bos": bool(getattr(cfg, "default_prepend_bos", True)),
        "tokenizer": type(tokenizer).__qualname__ if tokenizer is not None else "",
        "tokenizer_sha256": tokenizer_digest(tokenizer),
        "arithmetic": _arithmetic(session),
    }


def _changed(then: Fingerprint | None, now: Fingerprint) -> tuple[bool, list[str]]:
    """Return whether weights are as they were loaded, and what is not, in a few words."""
    if then is None:
        return False, []
    other = [
        name for name in {**then.weights, **now.weights} if then.weights.get(name) != now.weights.get(name)
    ]
    found = [f"weight {name}" for name in other[:_FEW]]
    found += [f"{len(other) - _FEW} more weights"] if len(other) > _FEW else []
    found += ["modules or their attributes"] if then.structure != now.structure else []
    return not other, found


def _arithmetic(session: Session) -> dict[str, Json]:
    """Return which of several equally right ways of computing were taken, and what decides."""
    off = ", ".join(session.autocast)
    return {
        **capabilities(),
        **session.observed.found(),
        "autocast": f"asked for on {off}, off in this call" if off else "off",
    }


def _adapters(session: Session) -> list[str]:
    """Return the active adapters that ``peft`` has put into a model."""
    any_there = any(kind.__module__.startswith("peft.") for kind in session.fingerprint.classes)
    return adapters(session.model) if any_there else []


def _settings(config: Any, cfg: Any) -> Json:
    """Return the configuration without what names a place on this machine."""
    found = config.to_dict() if config is not None else vars(cfg)
    skipped = ("_name_or_path", "name_or_path", "transformers_version", "model_name", "device")
    return {k: str(v) for k, v in found.items() if k not in skipped}


def _processing(model: Any) -> str:
    if is_bridge(model):
        return "compatibility mode" if getattr(model, "compatibility_mode", False) else "none"
    return f"HookedTransformer, {model.cfg.normalization_type}"


def _weights_digest(session: Session) -> str:
    """Return the SHA-256 over names, dtypes, shapes and contents of all weights."""
    return digest_json({n: told(x[:-1]) for n, x in session.fingerprint.weights.items()})


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the SHA-256 of the whole tokenizer, taken again when any part of it has changed."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    # Its vocabulary only ever grows; the other parts are small, and say what they are.
    now = (
        len(tokenizer),
        repr(backend.normalizer),
        repr(backend.pre_tokenizer),
        repr(backend.post_processor),
        repr(backend.decoder),
    )
    before, digest = _tokenizers.get(tokenizer, (None, ""))
    if before != now:
        # How it padded and cut last is no part of it.
        parts: dict[str, Json] = json.loads(backend.to_str())
        digest = digest_json({**parts, "padding": None, "truncation": None})
        _tokenizers[tokenizer] = (now, digest)
    return digest
