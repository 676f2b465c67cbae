"""What libraries write into a model's modules while it runs, to be put back afterwards."""

from copy import copy
from typing import Any

from torch import nn

from mechprobe.models.internals import NOTES, is_hook_point, only_listens, roots

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_CONTAINERS = (dict, list)
_KEPT = NOTES.union(_HOOKS)


class Notes:
    """What was written in every module when this was made.

    Args:
        model: A TransformerLens model.
    """

    def __init__(self, model: Any) -> None:
        every = {id(m): m for root in roots(model) for m in root.modules()}
        self._before = [(m, _noted(m)) for m in every.values() if not is_hook_point(m)]

    def put_back(self) -> None:
        """Write it again, into the same containers."""
        for module, before in self._before:
            parts = module.__dict__
            for name in [name for name in parts if name in _KEPT and name not in before]:
                del parts[name]
            for name, (value, contents) in before.items():
                parts[name] = value
                if name in _HOOKS:
                    # What a user's own hooks added or took away meanwhile is the user's.
                    for key in [k for k in value if k not in contents]:
                        if only_listens(value[key]):
                            del value[key]
                elif isinstance(value, list):
                    value[:] = contents


def _noted(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return each note, and what is in it."""
    return {
        name: (value, copy(value) if isinstance(value, _CONTAINERS) else None)
        for name, value in module.__dict__.items()
        if name in _KEPT
    }
