"""Everything that decides what a model answers, as a value that two moments can be compared by.

Weights and buffers are told by their content: writing through ``.data`` changes nothing that torch
counts. Modules are told by their class, plain attributes, hooks, and by what their functions close
over. What libraries write down of passes that are over is left out.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any
from weakref import ProxyTypes, ref

import numpy as np
import torch
import xxhash
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mechprobe.models.internals import (
    NOTES,
    RECIPES,
    WRAPPED,
    heeds_training,
    hooks_on_every_module,
    is_hook_point,
    of_library,
    only_listens,
    roots,
)

_PLAIN = frozenset(
    {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, type}
)
# What torch keeps in every module, and what no forward pass reads or is looked at apart.
_APART = frozenset(
    {
        "training",
        "_parameters",
        "_buffers",
        "_modules",
        "_forward_hooks",
        "_forward_pre_hooks",
        "_non_persistent_buffers_set",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_is_full_backward_hook",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks_with_kwargs",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
        "_compiled_call_impl",
    }
)
_SKIPPED = _APART | NOTES | RECIPES
_SEVERAL = (list, tuple, set, frozenset, deque)
_CONTAINERS = (dict, list, set, OrderedDict)
_PIECE = 2**25  # bytes that one thread digests at a time


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What decides a model's answers; equal only if all of it is.

    Attributes:
        structure: Classes, attributes, functions and hooks, module by module.
        weights: Digest of every weight and buffer, by the name it was first found under.
        foreign: Names of functions and modules that come from outside the libraries: what they do
            may depend on what cannot be seen here, so that equality proves nothing.
        training: Names of modules in training mode that answer otherwise in it.
        classes: Of its modules.
    """

    structure: tuple[Any, ...]
    weights: dict[str, tuple[Any, ...]]
    foreign: tuple[str, ...]
    training: tuple[str, ...]
    classes: frozenset[type]

    @property
    def is_calm(self) -> bool:
        """Whether nothing has a say in the answers but what is seen here."""
        return not self.foreign


def fingerprint(model: nn.Module) -> Fingerprint:
    """Look at all of a model.

    It costs one reading of the weights: some 45 ms for SmolLM2's 538 MB, and 25 ms for its 2,000
    modules.
    """
    walk = _Walk()
    walk.go(reversed(roots(model)))
    walk.foreign += [f"a hook on every module: {f}" for f in hooks_on_every_module()]
    tensors = list(walk.tensors.values())
    found = dict(zip((name for name, _ in tensors), digests(t for _, t in tensors), strict=True))
    return Fingerprint(
        (*walk.out, *walk.classes.values()),
        found,
        tuple(walk.foreign),
        walk.training,
        frozenset(walk.classes),
    )


def told(part: Any) -> Any:
    """Return a part of a fingerprint as JSON that is the same in every process."""
    if isinstance(part, dict):
        return {str(key): told(value) for key, value in part.items()}
    if isinstance(part, list | tuple):  # pyrefly: ignore[implicit-any-type-argument]
        return [told(value) for value in part]
    if isinstance(part, FunctionType | type):
        code = getattr(part, "__code__", None)
        return f"{part.__module__}.{part.__qualname__}", told(code)
    if isinstance(part, CodeType):
        return part.co_code.hex(), [told(x) for x in part.co_consts], part.co_names
    if isinstance(part, bytes):
        return part.hex()
    return repr(part) if type(part) in _PLAIN else type(part).__name__


class _Walk:
    """One look at all modules, each object once."""

    def __init__(self) -> None:
        self.out: list[Any] = []
        self.tensors: dict[int, tuple[str, Tensor]] = {}
        self.foreign: list[str] = []
        self._names: set[str] = set()
        self._training: list[tuple[int, str]] = []
        # What a forward pass goes through; others are templates that a bridge was built from.
        self._tree: set[int] = set()
        self._number: dict[int, int] = {}
        self._todo: list[tuple[Any, str]] = []
        self.classes: dict[type, Any] = {}
        self._points: dict[type, bool] = {}

    @property
    def training(self) -> tuple[str, ...]:
        """Names of what a pass goes through in training mode, and heeds it."""
        found = [name for number, name in self._training if number in self._tree]
        return tuple(dict.fromkeys(found))

    def module(self, found: Any, name: str) -> int:
        """Number an object, to be looked at when its turn comes."""
        number = self._number.setdefault(id(found), len(self._number))
        if number == len(self._todo):
            self._todo.append((found, name))
        return number

    def go(self, modules: Iterable[nn.Module]) -> None:
        """Look at every object, and at those that are found meanwhile."""
        for module in modules:
            self._tree.add(id(module))
            self.module(module, "")
        at = 0
        while at < len(self._todo):
            found, name = self._todo[at]
            at += 1
            if isinstance(found, nn.Module):
                self._look_at_module(found, name)
            else:
                parts = [
                    (k, v if v.__class__ in _PLAIN else self._value(v, name))
                    for k, v in vars(found).items()
                    if k not in _SKIPPED
                ]
                self.out.append((type(found), parts))

    def _look_at_module(self, module: nn.Module, name: str) -> None:
        parts = module.__dict__
        out: list[Any] = [type(module)]
        self._class(type(module), name)
        if parts["training"] and heeds_training(type(module)):
            self._training.append((id(module), name or "original_model"))
        if parts["_forward_hooks"] or parts["_forward_pre_hooks"]:
            self._hooks(parts, name, out)
        if parts.get("_compiled_call_impl") is not None:
            self.foreign.append(f"what torch.compile made of {name or 'the model'}")
        if not is_hook_point(module) or "forward" in parts:
            self._parts(parts, name, out)
        self.out.append(out)

    def _parts(self, parts: dict[str, Any], name: str, out: list[Any]) -> None:
        dot = f"{name}." if name else ""
        for key in _telling(tuple(parts)):
            value = parts[key]
            if value.__class__ in _PLAIN:
                out.append((key, value))
            elif value.__class__ not in _CONTAINERS or value:
                out.append((key, self._value(value, dot + key)))
        for key, child in parts["_modules"].items():
            if child is None or self._says_nothing(child):
                out.append((key, type(child)))
                continue
            self._tree.add(id(child))
            out.append((key, self.module(child, dot + key)))
        for kind in ("_parameters", "_buffers"):
            for key, value in parts[kind].items():
                out.append((key, None if value is None else self._tensor(value, dot + key)))

    def _says_nothing(self, module: nn.Module) -> bool:
        """Whether a module is a hook point that nobody listens to, as most modules of a bridge."""
        kind, parts = type(module), module.__dict__
        if kind not in self._points:
            self._points[kind] = is_hook_point(module)
            self._class(kind, kind.__name__)
        heard = parts["_forward_hooks"] or parts["_forward_pre_hooks"]
        return self._points[kind] and not heard and "forward" not in parts

    def _hooks(self, parts: dict[str, Any], name: str, out: list[Any]) -> None:
        for kind in ("_forward_hooks", "_forward_pre_hooks"):
            for hook in parts[kind].values():
                if not only_listens(hook):
                    self.foreign.append(f"a hook on {name or 'the model'}")
                    out.append((kind, self._value(hook, name)))

    def _class(self, kind: type, name: str) -> None:
        """Note what a class answers by, which somebody may have put something else into."""
        if kind not in self.classes:
            own = [c for c in kind.__mro__ if issubclass(c, nn.Module) and c is not nn.Module]
            parts = [part for c in own for part in vars(c).items()]
            functions = [f for _, f in parts if isinstance(f, FunctionType)]
            strange = [f.__qualname__ for f in functions if not of_library(f)]
            if strange:
                self.foreign.append(f"{strange[0]} ({name})")
            plain = [(key, value) for key, value in parts if value.__class__ in _PLAIN]
            self.classes[kind] = kind, plain, [(f, _used(f)) for f in functions]

    def _tensor(self, tensor: Tensor, name: str) -> Any:
        name = name.replace(f"{WRAPPED}.", "")
        if tensor.is_meta or tensor.layout != torch.strided:
            self.foreign.append(f"{name} (its numbers are not at hand)")
            return _Same(tensor)
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            return self._subclass(tensor, name)
        if id(tensor) not in self.tensors:
            while name in self._names:  # two parts in one container, say
                name += "'"
            self._names.add(name)
            self.tensors[id(tensor)] = name, tensor
        return self.tensors[id(tensor)][0], tensor.requires_grad

    def _subclass(self, tensor: Any, name: str) -> Any:
        """Return what is in a tensor that keeps its numbers in others, quantised for instance."""
        if not hasattr(tensor, "__tensor_flatten__"):
            self.foreign.append(f"{name} ({type(tensor).__name__})")
            return _Same(tensor)
        parts, how = tensor.__tensor_flatten__()
        inside = [(part, self._tensor(getattr(tensor, part), f"{name}.{part}")) for part in parts]
        return type(tensor), inside, repr(how)

    def _value(self, value: Any, name: str) -> Any:
        """Return what an attribute is, down to what functions close over."""
        if id(value) in self._number:
            return self._number[id(value)]
        if type(value) in _PLAIN or isinstance(value, type | BuiltinFunctionType | range | slice):
            return value
        if self._points.get(type(value)) and self._says_nothing(value):
            return type(value)
        if isinstance(value, (*ProxyTypes, ref, RemovableHandle)):
            return "a reference"
        if isinstance(value, Tensor):
            return self._tensor(value, name)
        if isinstance(value, dict):
            return [(self._value(k, name), self._value(v, f"{name}.{k}")) for k, v in value.items()]
        if isinstance(value, _SEVERAL):
            parts = [self._value(v, f"{name}.{i}") for i, v in enumerate(value)]
            unordered = type(value) in (set, frozenset)
            return type(value).__name__, sorted(parts, key=repr) if unordered else parts
        if callable(value) and not isinstance(value, nn.Module):
            return self._function(value, name)
        if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.dtype != "O"):
            return type(value), str(value.dtype), value.shape, value.tobytes()
        return self._object(value, name)

    def _object(self, value: Any, name: str) -> Any:
        """Return what an object of any class is; what has no attributes may hide anything."""
        if hasattr(value, "__dict__"):
            return self.module(value, name)
        self.foreign.append(f"{name} ({type(value).__name__}, which cannot be looked into)")
        return _Same(value)

    def _function(self, value: Any, name: str) -> Any:
        if not of_library(value):
            self.foreign.append(f"{getattr(value, '__qualname__', type(value).__name__)} ({name})")
        if isinstance(value, MethodType):
            return self._value(value.__func__, name), self._value(value.__self__, name)
        if isinstance(value, partial):
            return [self._value(x, name) for x in (value.func, value.args, value.keywords)]
        if isinstance(value, FunctionType):
            number = self._number.setdefault(id(value), len(self._number))
            if number == len(self._todo):
                self._todo.append((_Closure(value), name))
            return value.__code__, number
        return self._object(value, name)


@cache
def _telling(attributes: tuple[str, ...]) -> list[str]:
    """Return which attributes of a module are looked at."""
    return [name for name in attributes if name not in _SKIPPED]


def _used(function: FunctionType) -> list[Any]:
    """Return the functions of its module that a function calls, as they are at the moment."""
    found: list[Any] = []
    for name in function.__code__.co_names:
        value: Any = function.__globals__.get(name)
        if isinstance(value, FunctionType):
            found.append(value)
        elif _is_mapping(type(value)):  # which attention is computed by which function
            named = [(k, f) for k, f in value.items() if isinstance(f, FunctionType)]
            found.append([(k, f) for k, f in named if not str(k).startswith("mechprobe")])
    return found


@cache
def _is_mapping(kind: type) -> bool:
    return issubclass(kind, MutableMapping)


class _Closure:
    """What a function reads besides its arguments."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.defaults = function.__defaults__, function.__kwdefaults__
        self.cells = [_contents(cell) for cell in function.__closure__ or ()]


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


class _Same:
    """Equal to itself only, as long as it lives."""

    def __init__(self, value: Any) -> None:
        try:
            self._ref: Any = ref(value)
        except TypeError:
            self._ref = lambda: value

    def __eq__(self, other: object) -> bool:
        mine = self._ref()
        return isinstance(other, _Same) and mine is not None and mine is other._ref()

    __hash__: Any = None


@torch.no_grad()
def digests(tensors: Iterable[Tensor]) -> list[tuple[Any, ...]]:
    """Return dtype, shape, content and device of each tensor, in order."""
    every = list(tensors)
    cut = [pieces(t) for t in every]
    flat = [p for some in cut for p in some]
    n = torch.get_num_threads() if sum(map(len, flat)) > _PIECE else 1
    found: list[Any] = [None] * len(flat)
    with ThreadPoolExecutor(n) as pool:
        for i, some in enumerate(pool.map(_digested, [flat[i::n] for i in range(n)])):
            found[i::n] = some
    each = iter(found)
    return [
        (t.dtype, tuple(t.shape), [next(each) for _ in some], t.device)
        for t, some in zip(every, cut, strict=True)
    ]


def _digested(some: Sequence[Shaped[Tensor, " _"]]) -> list[Any]:
    return [_digest(piece) for piece in some]


def pieces(tensor: Shaped[Tensor, "..."]) -> list[Tensor]:
    """Return a tensor's bytes, in pieces that lie together."""
    plain = tensor.int_repr() if tensor.is_quantized else tensor
    flat = plain.contiguous().flatten().view(torch.uint8)
    return [flat] if len(flat) <= _PIECE else list(flat.split(_PIECE))


def _digest(piece: Shaped[Tensor, " byte"]) -> Any:
    """Return a digest of bytes that also tells where they stand."""
    if piece.device.type == "cpu":
        raw: Any = piece.numpy()
        return xxhash.xxh3_128_digest(raw)
    # On an accelerator: sums that wrap around, each byte weighted by its place.
    place = torch.arange(len(piece), device=piece.device)
    mixed = (piece.long() + 1) * (place * 0x9E3779B1 + 1)
    return tuple((mixed ^ (mixed >> shift)).sum().item() for shift in (7, 23))
