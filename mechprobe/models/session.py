"""What is known of one model while a public call looks at it: the one owner of such knowledge."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, wraps
from threading import RLock
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from mechprobe.kernels.observed import Observed, observed
from mechprobe.models.ambient import autocast_devices, steady
from mechprobe.models.fingerprint import Fingerprint, fingerprint
from mechprobe.models.notes import Notes
from mechprobe.models.protocol import Model, input_device, model_name, tokenizer_of
from mechprobe.models.support import require_blocks, require_eval, require_finite, require_readable
from mechprobe.models.unembed import Unembedding, unembedding

P = ParamSpec("P")
T = TypeVar("T")
Facts = dict[Hashable, Any]

# Passes of one process do not mix: hooks, torch's switches and warnings' filters are everybody's.
_LOCK = RLock()
_held_by: "list[_Held]" = []  # one at most
_KEPT: "WeakKeyDictionary[nn.Module, tuple[Fingerprint, Facts]]" = WeakKeyDictionary()


class Session:
    """One model during one public call.

    What is found out about the model is kept here and used again in a later call only if the
    model's fingerprint is the same then, and says all that decides its answers.

    Args:
        model: A ``TransformerBridge`` or ``HookedTransformer``.
        seen: Its fingerprint.
        facts: What is known of it at this fingerprint; must not hold the model itself.
        call: The public call.
    """

    def __init__(self, model: Model, seen: Fingerprint, facts: Facts, call: "_Held") -> None:
        self.model, self.fingerprint = model, seen
        self.autocast, self.observed = call.autocast, call.observed
        self._facts = facts
        self._notes: Notes | None = None

    def keep_notes(self) -> None:
        """Note what the libraries have written into the model, before the first pass does more."""
        if self._notes is None:
            self._notes = Notes(self.model)

    def close(self) -> None:
        """Leave the model as it was found."""
        if self._notes is not None:
            self._notes.put_back()

    @property
    def cfg(self) -> Any:
        """Sizes and settings."""
        return self.model.cfg

    @property
    def name(self) -> str:
        """What messages call the model."""
        return model_name(self.model)

    @property
    def device(self) -> torch.device:
        """Where token ids must be."""
        return input_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        module: Any = self.model
        return next(module.parameters()).dtype

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or None."""
        return tokenizer_of(self.model)

    @property
    def n_layers(self) -> int:
        """Blocks of the model."""
        return int(self.cfg.n_layers)

    @cached_property
    def unembedding(self) -> Unembedding:
        """The way from residual stream to logits."""
        return unembedding(self.model)

    def fact(self, key: Hashable, find: Callable[[], T]) -> T:
        """Return what is known under ``key``, finding it out the first time.

        Args:
            key: Names it.
            find: Finds it out; its result must not refer to the model.
        """
        if key not in self._facts:
            self._facts[key] = find()
        found: T = self._facts[key]
        return found


def alone(function: Callable[P, T]) -> Callable[P, T]:
    """Let a public function have the process' models to itself.

    Other threads wait. What was set in torch is set aside (``steady``), and every model that the
    function opens is left as it was found. Functions that it calls share its sessions.
    """

    @wraps(function)
    def held(*args: P.args, **kwargs: P.kwargs) -> T:
        with _held():
            return function(*args, **kwargs)

    return held


@contextmanager
def looking_at(model: object) -> Iterator[Session]:
    """Open a model for the length of a block, as ``alone`` and ``opened`` do for a function."""
    with _held():
        yield opened(model)


def opened(model: object) -> Session:
    """Return the session of a model in this call; the first time it is looked at as a whole.

    Args:
        model: What the user passed.

    Raises:
        TypeError, NotImplementedError, ValueError: mechprobe cannot read it (``require_readable``),
            or its weights hold NaN or infinity.
    """
    if not _held_by:
        msg = "a model is opened inside a function that is marked `alone`."
        raise RuntimeError(msg)
    call = _held_by[-1]
    for session in call.sessions:
        if session.model is model:
            return session
    session = _session(model, call)
    call.sessions.append(session)
    return session


@dataclass
class _Held:
    """A public call, and the models that it has opened.

    Attributes:
        autocast: Kinds of device on which autocast was on, and is off inside.
        observed: Which arithmetic the kernels have taken.
        sessions: Of the models.
    """

    autocast: list[str]
    observed: Observed
    sessions: list[Session] = field(default_factory=list)


@contextmanager
def _held() -> Iterator[None]:
    with _LOCK:
        if _held_by:
            yield
            return
        asked = autocast_devices()
        with observed() as seen, steady():
            _held_by.append(_Held(asked, seen))
            try:
                yield
            finally:
                for session in _held_by.pop().sessions:
                    session.close()


def _session(model: object, call: _Held) -> Session:
    found = require_readable(model)
    module: Any = model
    now = fingerprint(module)
    require_eval(found, now.training)
    before = _KEPT.get(module)
    if before is None or before[0] != now or not now.is_calm:
        require_blocks(found)
        require_finite(module)
        nothing: Facts = {}
        _KEPT[module] = before = (now, nothing)
    return Session(found, now, before[1], call)
