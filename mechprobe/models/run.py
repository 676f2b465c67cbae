"""The one way analyses run a model: capture what is needed, compute no logits nobody wants."""

import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels.gemm import fastest_gemm, gemm_path
from mechprobe.models.branch import window
from mechprobe.models.internals import expand_positions, hugging_face
from mechprobe.models.protocol import Edit, Sink, is_bridge
from mechprobe.models.session import Session
from mechprobe.models.twin import Kind, Twin, attention_for, near, twin_of

Logits = Literal["none", "last", "all"]
T = TypeVar("T")

# Passes and calls of sinks under way, the innermost last.
_passes: list[object] = []


@dataclass(frozen=True, slots=True)
class Run:
    """What one forward pass gave besides what its sinks took.

    Attributes:
        logits: The model's own logits; None, or of the last column, or of all, as asked for.
        cache: Keys and values to continue from, where ``keep_cache`` was asked for.
    """

    logits: Float[Tensor, "batch pos d_vocab"] | None
    cache: Any


@dataclass(frozen=True, slots=True)
class Pass:
    """What goes into one forward pass.

    Attributes:
        ids: Token ids.
        mask: 1 for tokens, 0 for padding; None where nothing is padded.
        positions: Where tokens stand, where it is not where they come.
        cache: Keys and values to go on from.
        keep_cache: Whether to keep them.
        logits: Where logits are wanted.
    """

    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch total"] | None
    positions: Int[Tensor, "batch pos"] | None
    cache: Any
    keep_cache: bool
    logits: Logits

    @property
    def width(self) -> int:
        """Columns that the last token may look at."""
        if self.mask is not None:
            return self.mask.shape[1]
        return self.ids.shape[1] + (0 if self.cache is None else int(self.cache.get_seq_length()))

    def real(self, found: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "row ..."]:
        """Return what was found of tokens, without that of padding."""
        if self.mask is None:
            return found.flatten(0, 1)
        return found[self.mask[:, -found.shape[1] :].to(found.device) > 0]


@torch.no_grad()
def run(
    session: Session,
    ids: Int[Tensor, "batch pos"],
    capture: Mapping[str, Sink],
    *,
    edit: Mapping[str, Edit] | None = None,
    mask: Int[Tensor, "batch total"] | None = None,
    positions: Int[Tensor, "batch pos"] | None = None,
    logits: Logits = "none",
    cache: Any = None,
    keep_cache: bool = False,
    may_miss: bool = False,
) -> Run:
    """Run ``ids`` through the model, handing named activations to sinks as they come by.

    The first pass of each kind (padded, cached, long, ...) is the model's own, with its own
    ``forward`` and hooks. Where the libraries alone have a say in its answers, its twin without
    hooks does the same pass beside it, and does later ones alone if it gave the same (see
    ``models.twin``). The unembedding runs over no more positions than ``logits`` asks for; products
    take the faster of torch's float32 paths, as the read-out does.

    Args:
        session: The model.
        ids: Token ids; rows shorter than the batch are padded on the right.
        capture: Hook name to a function of the activation ``[batch, pos, ...]``; it must not
            change it.
        edit: Hook name to a function that returns what the model shall go on with instead;
            sinks see what the model computed.
        mask: 1 for tokens, 0 for padding; needed only where rows are padded.
        positions: Position of every token, where a padded ``cache`` puts them elsewhere than they
            stand (see ``takes_positions``).
        logits: Whether to compute logits nowhere, at the last column, or everywhere.
        cache: What an earlier ``run(keep_cache=True)`` returned; ``ids`` continue from there.
        keep_cache: Return keys and values.
        may_miss: Whether an activation may fail to come by.

    Returns:
        The logits asked for, and the cache.

    Raises:
        NotImplementedError: A hook named in ``capture`` or ``edit`` does not exist in this model
            or never comes by, or it does not go on with what an edit returns, or it keeps no cache
            and one was asked for.
    """
    _require_known(session, {**capture, **(edit or {})})
    what = Pass(ids, mask, positions, cache, keep_cache, logits)
    W_U: Any = getattr(session.model, "W_U", None)
    path = "default" if W_U is None else fastest_gemm(W_U, ids.numel())
    missing = {*capture, *(edit or {})}
    capture = {name: _noting(missing, name, sink) for name, sink in capture.items()}
    with gemm_path(path), _under_way():
        if edit:
            edit = {name: _noting(missing, name, change) for name, change in edit.items()}
            done = _run_own(session, what, capture, edit)
        else:
            done = _run(session, what, capture)
    if missing and not may_miss:
        msg = (
            f"{session.name} has a name for {min(missing)}, which never comes by: its part of the "
            "model is not run, or was replaced by one that TransformerLens does not listen to."
        )
        raise NotImplementedError(msg)
    if keep_cache and done.cache is None:
        msg = f"{session.name} gave no key-value cache to continue from."
        raise NotImplementedError(msg)
    return done


@contextmanager
def _under_way() -> Iterator[None]:
    _passes.append(object())
    try:
        yield
    finally:
        _passes.pop()


def _here(function: Callable[[Tensor], T]) -> Callable[[Tensor], T | None]:
    """Let a sink or an edit hear the pass under way only.

    Somebody's thread may run the same modules meanwhile, and so may what a sink calls.
    """
    this, mine = _passes[-1], threading.get_ident()

    def heard(activation: Tensor) -> T | None:
        if threading.get_ident() != mine or _passes[-1] is not this:
            return None
        with _under_way():
            return function(activation.detach())

    return heard


def _noting(missing: set[str], name: str, function: Callable[[Tensor], T]) -> Callable[..., T]:
    """Note that an activation came by."""

    def heard(activation: Tensor) -> T:
        missing.discard(name)
        return function(activation)

    return heard


def _require_known(session: Session, names: Mapping[str, Any]) -> None:
    if not names:
        return
    known = session.fact("hook names", lambda: frozenset(session.model.hook_dict))
    for name in names:
        if name not in known:
            msg = f"{session.name} has no activation {name!r}."
            raise NotImplementedError(msg)


def _run(session: Session, what: Pass, capture: Mapping[str, Sink]) -> Run:
    """Run the twin where it is known to be right, and the model where it is not."""
    if not is_bridge(session.model):
        return _run_own(session, what, capture)
    attention = attention_for(session, what.ids.numel() * what.width * int(session.cfg.n_heads))
    for asked in dict.fromkeys((attention, None)):
        twin = twin_of(session, asked)
        if twin is None or not twin.places.keys() >= capture.keys():
            continue
        proved = session.fact(("proved", _kind(session, what, asked)), dict[str, bool])
        names = [*capture, "logits"]
        if all(proved.get(name, False) for name in names):
            return _run_twin(twin, what, capture)
        if all(proved.get(name, True) for name in names):
            return _compared(session, twin, what, capture, proved)
    return _run_own(session, what, capture)


def _kind(session: Session, what: Pass, attention: str | None) -> Kind:
    narrow = window(session.model)
    padded = what.mask is not None and not bool(what.mask.all())
    return Kind(
        attention,
        len(what.ids) > 1,
        padded,
        what.positions is not None,
        what.cache is not None,
        what.keep_cache,
        narrow is not None and what.width > narrow,
    )


def _compared(
    session: Session, twin: Twin, what: Pass, capture: Mapping[str, Sink], proved: dict[str, bool]
) -> Run:
    """Run the model itself, and see whether its twin gives the same."""
    heard: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})

    def note(found: dict[str, Tensor], name: str, activation: Tensor) -> None:
        found[name] = activation.clone()  # later blocks may write to what this one gave

    wanted = what if what.logits != "none" else replace(what, logits="last")
    copied = replace(wanted, cache=deepcopy(what.cache))
    own = _run_own(session, copied, {name: partial(note, heard[0], name) for name in capture})
    other = _run_twin(twin, wanted, {name: partial(note, heard[1], name) for name in capture})
    for found, done in zip(heard, (own, other), strict=True):
        if done.logits is not None:
            found["logits"] = done.logits
    for name in (*capture, "logits"):
        one, two = (found.get(name) for found in heard)
        known = one is not None and two is not None
        proved[name] = known and near(what.real(one), what.real(two))
    # The twin's where it is right, so that a later call of the same gives the same bits.
    right = all(proved[name] for name in (*capture, "logits"))
    taken, done = (heard[1], other) if right else (heard[0], own)
    for name, sink in capture.items():
        if name in taken:
            sink(taken[name])
    return done if what.logits != "none" else replace(done, logits=None)


def _run_twin(twin: Twin, what: Pass, capture: Mapping[str, Sink]) -> Run:
    """Run the twin; a pass that only listens ends behind the last layer that is listened to."""
    listens = what.logits == "none" and what.cache is None and not what.keep_cache
    if capture and listens:
        capture = _until_heard(capture)
    ears = {name: _here(sink) for name, sink in capture.items()}
    with twin.listening(ears), suppress(_EnoughError):
        return _forward(twin.body, what, bare=True)
    return Run(None, None)


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


def _run_own(
    session: Session, what: Pass, capture: Mapping[str, Sink], edit: Mapping[str, Edit] | None = None
) -> Run:
    """Run the model as its user does, with what hangs on it."""
    edits = edit or {}
    hooks = [(name, _as_hook(sink)) for name, sink in capture.items()]
    hooks += [(name, _as_edit(change)) for name, change in edits.items()]
    model: Any = session.model
    session.keep_notes()
    with model.hooks(fwd_hooks=hooks), _heeded(session, edits):
        if not is_bridge(model):
            return _run_hooked(model, what)
        expand_positions(model, len(what.ids))
        # Somebody's hook may hang on the whole model, and hear it only if all of it is run.
        return _forward(
            hugging_face(model),
            what,
            bare=session.fingerprint.is_calm,
            stateful=bool(getattr(session.cfg, "is_stateful", False)),
        )


def _as_hook(sink: Sink) -> Callable[..., None]:
    heard = _here(sink)

    def hook_fn(activation: Tensor, hook: Any) -> None:  # noqa: ARG001
        heard(activation)

    return hook_fn


def _as_edit(change: Edit) -> Callable[..., Tensor]:
    heard = _here(change)

    def hook_fn(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        changed = heard(activation)
        return activation if changed is None else changed

    return hook_fn


@contextmanager
def _heeded(session: Session, edits: Mapping[str, Edit]) -> Iterator[None]:
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
                f"changing {', '.join(edits)} changes nothing in {session.name}: what its "
                "hook returns is not what the model goes on with."
            )
            raise NotImplementedError(msg) from warning


def takes_positions(session: Session) -> bool:
    """Whether ``run`` can tell the model where its tokens stand."""
    return session.fact("takes positions", lambda: _has_positions(hugging_face(session.model)))


def pads_left(session: Session) -> bool:
    """Whether rows may be filled up on the left, a mask telling the model what is no token.

    Not in float64: what transformers' eager attention adds to masked scores is -inf in the float32 that
    it sums in. A column of padding alone is NaN then, and so is every later one of its row.
    """
    return takes_positions(session) and session.dtype != torch.float64


def _has_positions(hf: Any) -> bool:
    return hf is not None and "position_ids" in inspect.signature(hf.base_model.forward).parameters


def _forward(hf: Any, what: Pass, *, bare: bool, stateful: bool = False) -> Run:
    """Run a Hugging Face model.

    Args:
        hf: The model.
        what: What goes in, and what is wanted.
        bare: Run its body only, where no logits are wanted.
        stateful: It is recurrent, and knows no cache of keys and values.
    """
    kwargs: dict[str, Any] = {"input_ids": what.ids} | ({} if stateful else {"use_cache": what.keep_cache})
    if what.mask is not None:
        kwargs["attention_mask"] = what.mask
    if what.positions is not None:
        kwargs["position_ids"] = what.positions
    if what.cache is not None:
        kwargs["past_key_values"] = what.cache
    if what.logits == "none" and bare:
        out = hf.base_model(**kwargs)
        return Run(None, getattr(out, "past_key_values", None))
    if what.logits != "all" and "logits_to_keep" in inspect.signature(hf.forward).parameters:
        kwargs["logits_to_keep"] = 1
    out = hf(**kwargs)
    found = {"none": None, "last": out.logits[:, -1:], "all": out.logits}[what.logits]
    return Run(found, getattr(out, "past_key_values", None))


def _run_hooked(model: Any, what: Pass) -> Run:
    kwargs: dict[str, Any] = {}
    cache = what.cache
    if what.keep_cache and cache is None:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, len(what.ids))
    if cache is not None:
        # Left to itself, a cached model asks its tokenizer for a mask, and may have none.
        kwargs = {"past_kv_cache": cache, "attention_mask": torch.ones_like(what.ids)}
    stop = model.cfg.n_layers if what.logits == "none" else None
    out = model(what.ids, return_type="logits", stop_at_layer=stop, **kwargs)
    found = {"none": None, "last": out[:, -1:], "all": out}[what.logits]
    return Run(found, cache)
