"""Whether several continuations may branch from one prompt's key-value cache."""

from typing import Any

from mechprobe.models.internals import hugging_face
from mechprobe.models.protocol import Model, is_bridge


def branching(model: Model) -> bool:
    """Whether ``run`` gives a cache whose rows can be repeated, one for each continuation."""
    if not is_bridge(model) or getattr(model.cfg, "is_stateful", False):
        return False
    return bool(getattr(getattr(model, "adapter", None), "supports_kv_cache", True))


def window(model: Model) -> int | None:
    """Return how many tokens back the narrowest layer sees; None where all see everything."""
    config: Any = getattr(hugging_face(model), "config", None)
    size = getattr(config, "sliding_window", None)
    if "local" in (getattr(config, "attention_layers", None) or ()):
        size = config.window_size  # GPT-Neo
    if not getattr(config, "use_sliding_window", True):
        size = None
    return int(size) if size else None
