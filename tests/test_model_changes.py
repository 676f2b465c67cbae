"""A number belongs to the model in hand: the second call is of the model as it is by then.

Every cell: a public function is called (which warms whatever is remembered), the model is changed,
and the function is called again. That must equal the first call on a model that was loaded anew
and changed in the same way, and, for readings of logits, what the model itself says when it is
called by its user; or both refuse by name. ``MECHPROBE_CELLS=all`` tries every call with every
change, ``core`` the cheapest only; by default a part of the calls is tried with each.
"""

import importlib.util
import os
import random
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.calls import (
    CALLS,
    IDS,
    LONG,
    RAGGED,
    WORDS,
    Call,
    Numbers,
    claims_file,
    differ,
    numbers,
    own_log_probs,
    own_logits,
    record,
)
from tests.changes import Change, Parts
from tests.changes_around import CHANGES
from tests.tiny import save_tiny

HERE = Path(__file__).parent
# What a kind of model cannot do, changed or not.
UNABLE = {kind: {"patch": "keeps no cache"} for kind in ("hooked", "gemma2")}
HAS_HOOKED = metadata.version("transformer-lens").startswith("3.")
PAIRS = [(kind, change) for change in CHANGES for kind in change.kinds]
# Nats; what a model's own steps in another order differ by.
NATS = {
    "dynamic_quantised": 0.2,  # whose rounding is that of all rows together
    "to_bfloat16": 0.5,
    "to_half": 0.05,
    "to_float64": 1e-6,
}
Make = Callable[[str], Any]


@pytest.fixture(autouse=True)
def _quickly(
    as_users_run_it: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[None]:
    """Thousands of small calls: no types checked on the way, no threads, no git tree to look at."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return ``make(kind)``: the same weights every time, a new model every time."""
    folders: dict[str, Path] = {}

    def load(kind: str) -> Any:
        import mechprobe as mp

        name = "llama" if kind == "hooked" else kind
        if name not in folders:
            folders[name] = save_tiny(tmp_path_factory.mktemp(name), name, tasks=True)
        if kind == "hooked":
            return hooked(folders[name])
        return mp.load_model(folders[name], device="cpu")

    return load


def hooked(folder: Path) -> Any:
    """Build a ``HookedTransformer``, as the gate's comparison of versions does."""
    where = Path(__file__).parents[1] / ".ci/parity.py"
    spec = importlib.util.spec_from_file_location("parity", where)
    assert spec is not None
    assert spec.loader is not None
    parity = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        spec.loader.exec_module(parity)
        return parity.hooked(folder, "llama", fold=False)


def calls_of(kind: str, change: Change) -> list[Call]:
    """Return the calls that are tried with a change, in an order of its own."""
    place = [c.name for c in CHANGES].index(change.name) + len(kind)
    cells = os.environ.get("MECHPROBE_CELLS", "")
    chosen = [
        call for i, call in enumerate(CALLS)
        if cells == "all" or (call.core and (kind != "gpt2" or call.name == "lens"))
        or (cells != "core" and (place + i) % call.every == 0)
    ]  # fmt: skip
    random.Random(place).shuffle(chosen)
    return chosen


class Outcome:
    """What a call gave, or how it refused."""

    def __init__(self, call: Call, held: Callable[[], Any]) -> None:
        self.numbers: Numbers = {}
        self.record: Any = None
        self.error: Exception | None = None
        self.by_name = True
        try:
            found = call.run(held())
        except Exception as error:
            self.error = error
            last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
            self.by_name = HERE not in last.parents and "mechprobe" in last.parts
        else:
            self.numbers, self.record = numbers(found), record(found)

    @property
    def said(self) -> str:
        return f"{type(self.error).__name__}: {str(self.error)[:160]}" if self.error else ""


def unlike(second: Outcome, fresh: Outcome) -> str:
    """Return how the second call differs from the first of a fresh model."""
    if second.said != fresh.said:
        return f"said {second.said or 'numbers'!r}, a fresh model {fresh.said or 'numbers'!r}"
    if second.error is not None:
        return ""
    found = differ(second.numbers, fresh.numbers)
    if not found and second.record != fresh.record:
        keys = [k for k, v in second.record.items() if v != fresh.record.get(k)]
        found = f"another record than a fresh model's: {keys}"
    return found


def able(kind: str, change: Change, call: Call, first: Outcome) -> str:
    """Return what is wrong with a refusal before anything was changed: cells must not be empty."""
    if first.error is None:
        return ""
    patterns = [UNABLE.get(kind, {}).get(call.name, ""), call.refusal if change.setup else ""]
    known = any(p and re.search(p, str(first.error)) for p in patterns)
    return "" if known and first.by_name else f"refused before the change: {first.said}"


def refusal(change: Change, call: Call, first: Outcome, second: Outcome) -> str:
    """Return what is wrong with a refusal, or with there being none."""
    if second.error is None:
        ran = call.name not in ("neighbors", "expressible", "check")
        return "did not refuse" if change.refused and ran else ""
    if second.said == first.said:
        return ""
    if not second.by_name:
        return f"not a refusal, but an error of somebody else: {second.said}"
    patterns = [p for p in (change.refusal, call.refusal) if p]
    if any(re.search(p, str(second.error)) for p in patterns):
        return ""
    return f"refused without cause or reason: {second.said}"


def against_itself(parts: Parts, call: Call, found: Outcome, nats: float) -> str:
    """Return how a reading of logits differs from what the model says when its user calls it."""
    data = found.numbers
    if call.name in ("lens", "lens_padded", "lens_long"):
        prompts = {"lens": [IDS], "lens_padded": RAGGED, "lens_long": LONG}[call.name]
        return "; ".join(filter(None, (
            _row(parts, data, row, ids, nats) for row, ids in enumerate(prompts)
        )))  # fmt: skip
    if call.name == "generate":
        return _greedy(parts, data)
    if call.name == "net_read":
        return _words(parts, data["array"], nats)
    return ""


def _row(parts: Parts, data: Numbers, row: int, ids: list[int], nats: float) -> str:
    own, streams = own_log_probs(parts.root, ids), lens_by_hand(parts, ids)
    for p, place in enumerate(data["position"][row]):
        if not data["valid"][row, p]:
            continue
        gap = np.abs(own[place][data["model_token"][row, p]] - data["model_log_prob"][row, p])
        if gap.max() > nats:
            return f"its own answer is off by {gap.max():.2g} nats from the model's"
        top = data["top_log_prob"][row, p, -1] - own[place][data["top_token"][row, p, -1]]
        if np.abs(top).max() > nats:
            return f"the last layer is off by {np.abs(top).max():.2g} nats from the model's answer"
        for layer, x in enumerate(streams):
            gap = x[place][data["top_token"][row, p, layer]] - data["top_log_prob"][row, p, layer]
            if np.abs(gap).max() > nats:
                return f"layer {layer - 1} is off by {np.abs(gap).max():.2g} nats"
    return ""


@torch.no_grad()
def lens_by_hand(parts: Parts, ids: list[int]) -> list[np.ndarray]:
    """Return the logit lens by torch's own hooks and the model's own modules, layer by layer."""
    layers = list(parts.layers)
    heard: dict[int, torch.Tensor] = {}

    def before(_: Any, args: Any, kwargs: Any) -> None:
        heard[-1] = args[0] if args else kwargs["hidden_states"]

    def behind(layer: int) -> Any:
        def hook(_: Any, __: Any, out: Any) -> None:
            heard[layer] = out[0] if isinstance(out, tuple) else out

        return hook

    handles = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [x.register_forward_hook(behind(i)) for i, x in enumerate(layers)]
    own_logits(parts.root, ids)
    for handle in handles:
        handle.remove()
    every = [parts.head(parts.norm(heard[i]))[0] for i in sorted(heard)]
    return [logits.double().log_softmax(-1).numpy() for logits in every]


def _greedy(parts: Parts, data: Numbers) -> str:
    """Return where generated ids are not the likeliest, read without a cache.

    Read with one, they are known to the rounding of the model's own numbers: its last bit.
    """
    ids = list(IDS)
    step = max(1e-3, torch.finfo(next(parts.root.parameters()).dtype).eps)
    for token in data["next_token"].reshape(-1).tolist():
        logits = own_logits(parts.root, ids)[-1]
        short = float(logits.max() - logits[token])
        if short > step * float(logits.abs().max()):
            return f"said {token}, which is {short:.2g} below the likeliest"
        ids.append(int(token))
    return ""


def _words(parts: Parts, found: np.ndarray, nats: float) -> str:
    words = [200 - 7 * i for i in range(found.shape[-1])]
    for row, ids in zip(found, WORDS, strict=True):
        real = [words[i] for i in ids if i >= 0]
        gap = np.abs(own_log_probs(parts.root, real)[:, words] - row[: len(real)]).max()
        if gap > nats:
            return f"words are off by {gap:.2g} nats from the model's"
    return ""


def told(change: Change, first: Outcome, second: Outcome) -> str:
    """Return what the record leaves out."""
    if first.record is None or second.record is None:
        return ""
    if change.told and first.record == second.record:
        return "the record says the same of the model as before"
    if change.weights and claims_file(second.record):
        return "the record claims the file's weights"
    return ""


def cell(kind: str, change: Change, call: Call, parts: Parts, outcomes: tuple[Outcome, ...]) -> str:
    """Return what is wrong with one cell."""
    first, second, fresh = outcomes
    wrong = [able(kind, change, call, first), unlike(second, fresh),
             refusal(change, call, first, second)]  # fmt: skip
    if second.error is None:
        nats = NATS.get(change.name, 1e-3)
        if not change.refused:
            wrong.append(against_itself(parts, call, second, nats))
        if first.error is None:
            wrong.append(told(change, first, second))
    return "; ".join(filter(None, wrong))


def changed(parts: Parts, change: Change, undos: list[Any], *, again: bool) -> None:
    if not (change.everywhere and again):
        undos.append(change.apply(parts))


@pytest.mark.parametrize(("kind", "change"), PAIRS, ids=[f"{k}-{c.name}" for k, c in PAIRS])
def test_the_second_call_is_of_the_model_in_hand(make: Make, kind: str, change: Change) -> None:
    if kind == "hooked" and not HAS_HOOKED:
        pytest.skip("HookedTransformer is in TransformerLens 3.9 only")
    if "lora" in change.name:
        pytest.importorskip("peft")
    calls = calls_of(kind, change)
    undos: list[Any] = []
    used, new = Parts(make(kind)), Parts(make(kind))
    try:
        for parts in (used, new):
            (change.setup or (lambda _: None))(parts)
        held = {call.name: call.hold(used.model) for call in calls}
        first = {call.name: Outcome(call, partial(held.get, call.name)) for call in calls}
        before = own_logits(used.root, IDS)
        changed(used, change, undos, again=False)
        second = {call.name: Outcome(call, partial(held.get, call.name)) for call in calls}
        after = own_logits(used.root, IDS)
        changed(new, change, undos, again=True)
        wrong = {}
        for call in calls:
            fresh = Outcome(call, partial(call.hold, new.model))
            outcomes = (first[call.name], second[call.name], fresh)
            if found := cell(kind, change, call, used, outcomes):
                wrong[call.name] = found
        _require_moved(change, before, after)
        wrong |= {f"{k}, undone": v for k, v in restored(change, undos, calls, held, first).items()}
    finally:
        for undo in undos:
            if undo is not None:
                undo()
    report = "\n".join(f"  {name}: {what}" for name, what in wrong.items())
    assert not wrong, f"{len(wrong)} of {len(calls)} cells\n{report}"


def _require_moved(change: Change, before: torch.Tensor, after: torch.Tensor) -> None:
    """See that the change is one: a test of nothing proves nothing."""
    if change.moves is not None:
        moved = float((before - after).abs().max() / before.abs().max()) > 1e-3
        assert moved == change.moves, "the model's own logits"


def restored(
    change: Change, undos: list[Any], calls: list[Call], held: dict[str, Any],
    first: dict[str, Outcome],
) -> dict[str, str]:  # fmt: skip
    """Undo a change where that is cheap, and return which core calls do not say what they did."""
    if change.everywhere or not callable(undos[0]):
        return {}
    undos.pop(0)()
    wrong = {}
    for call in calls:
        if call.core and first[call.name].error is None:
            again = Outcome(call, partial(held.get, call.name))
            if found := again.said or differ(again.numbers, first[call.name].numbers):
                wrong[call.name] = found
    return wrong


def test_how_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function with at least twenty changes, and so many cells in all."""
    monkeypatch.delenv("MECHPROBE_CELLS", raising=False)
    tried = dict.fromkeys((call.function for call in CALLS if call.name != "puzzles"), 0)
    for kind, change in PAIRS:
        if kind != "hooked" or HAS_HOOKED:
            for call in calls_of(kind, change):
                tried[call.function] = tried.get(call.function, 0) + 1
    assert len(CHANGES) >= 28
    assert min(n for name, n in tried.items() if name != "puzzles") >= 20, tried
    n_cells = sum(tried.values())
    assert n_cells >= 20 * len(CALLS), f"{n_cells} cells"
