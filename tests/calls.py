"""Every public function that takes a model, called small; what it gave, as plain arrays.

mechprobe is imported inside the functions, after the typing hook is set.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

IDS = [5, 9, 100, 42, 7, 300, 2]
RAGGED = [[5, 9, 100, 42, 7], [8, 8, 31], [77]]
# Over a thousand thousand attention scores in a layer of four heads.
LONG = [[(31 * i + 7) % 400 for i in range(520)]]
TEXT = "the quick brown fox jumps over"
QUIET: dict[str, Any] = {"progress": False}
Numbers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Call:
    """One public function with its arguments.

    Attributes:
        name: What it is called.
        run: Calls it with what ``hold`` gave.
        hold: What the user makes of the model once and keeps; the model itself by default.
        core: Whether it is tried with every change.
        every: With one of so many changes it is tried otherwise.
        refusal: What it may say when what is held was made of the model as it was.
    """

    name: str
    run: Callable[[Any], Any]
    hold: Callable[[Any], Any] = lambda model: model
    core: bool = False
    every: int = 5
    refusal: str = ""

    @property
    def function(self) -> str:
        """The public function that it calls."""
        return self.name.split("_")[0]


@cache
def choice() -> Any:
    import mechprobe as mp

    return mp.tasks.select_and_copy(3, options=3, seed=0)


@cache
def logic() -> Any:
    import mechprobe as mp

    return mp.tasks.ontology(8, 1, 0, seed=0)


@cache
def brackets() -> Any:
    from mechprobe.worlds import Dyck

    return Dyck(3, 2, max_length=10)


@cache
def streets() -> Any:
    from mechprobe.worlds import StreetMap

    return StreetMap.grid(3, seed=1, max_length=10)


def net_of(model: Any, world: Any) -> Any:
    """Return the model as a predictor of a world's words."""
    from mechprobe.worlds import language_model

    return language_model(model, world, {w: 200 - 7 * i for i, w in enumerate(world.tokens)})


def net(model: Any) -> Any:
    return net_of(model, brackets())


def lens(**options: Any) -> Callable[[Any], Any]:
    """Return a call of ``logit_lens``."""

    def run(model: Any) -> Any:
        import mechprobe as mp

        asked: dict[str, Any] = {"prompts": [IDS], "positions": None, "top_k": 3} | options
        return mp.logit_lens(model, **asked, **QUIET)

    return run


def said(**options: Any) -> Callable[[Any], Any]:
    def run(model: Any) -> Any:
        import mechprobe as mp

        return mp.generate_with_lens(model, IDS, top_k=3, **QUIET, **options)

    return run


def near(query: Any, **options: Any) -> Callable[[Any], Any]:
    def run(model: Any) -> Any:
        import mechprobe as mp

        return mp.vocabulary_neighbors(model, query, k=5, **options)

    return run


def scores(task: Callable[[], Any], score: str) -> Callable[[Any], Any]:
    def run(model: Any) -> Any:
        import mechprobe as mp

        return mp.qk_scores(model, task(), score=score, **QUIET)  # pyrefly: ignore[bad-argument-type]

    return run


def _expressible(model: Any) -> Any:
    import mechprobe as mp

    return mp.expressible(model, " seahorse")


def _ablate(model: Any) -> Any:
    import mechprobe as mp

    return mp.ablate_heads(model, choice(), [(1, 2)], controls=1, **QUIET)


def _steer(model: Any) -> Any:
    import mechprobe as mp

    return mp.steer_heads(model, choice(), [(1, 2)], controls=0, strengths=(0.0, 4.0), **QUIET)


def _describe(*traits: str) -> Callable[[Any], Any]:
    def run(model: Any) -> Any:
        import mechprobe as mp

        return mp.describe_heads(
            model, task=choice(), traits=traits, length=8, n_sequences=2, n_needles=1, **QUIET
        )

    return run


def _options(model: Any) -> Any:
    import mechprobe as mp

    return mp.option_robustness(model, choice(), head=(1, 2), prior_share=0.4, **QUIET)


def _difficulty(model: Any) -> Any:
    import mechprobe as mp

    return mp.difficulty(model, steps=[1], distractors=[0], n=8, **QUIET)


def _check(model: Any) -> Any:
    import mechprobe as mp

    return mp.check_model(model)


def _measure() -> dict[str, Any]:
    from mechprobe.worlds import TopK

    return {"n": 4, "k": 2, "acceptance": TopK(3), "seed": 0, **QUIET}


def _evaluate(model: Any) -> Any:
    import mechprobe as mp

    return mp.evaluate_world_model(net(model), brackets(), suffixes=2, baselines=False, **_measure())


def _by_layer(model: Any) -> Any:
    import mechprobe as mp

    return mp.world_by_layer(net(model), brackets(), suffixes=2, layers=[0], **_measure())


def _patch(model: Any) -> Any:
    import mechprobe as mp

    # So that each random model is right about strings of both states of some pair.
    k = 5 if "GPT2" in str(getattr(model.cfg, "architecture", "")) else 3
    asked: dict[str, Any] = {**_measure(), "n": 64, "acceptance": mp.worlds.TopK(k)}
    return mp.patch_states(net(model), brackets(), layers=[0], positions=[-1], **asked)


def walks() -> list[Any]:
    return brackets().random_walks(8, np.random.default_rng(0))


def _probe(model: Any) -> Any:
    import mechprobe as mp

    return mp.probe_states(net(model), brackets(), walks(), layers=[0], places=60, **QUIET)


def _detours(model: Any) -> Any:
    import mechprobe as mp

    return mp.detours(net_of(model, streets()), streets(), n=3, p=(0.0, 0.5), **QUIET)


WORDS = np.array([[0, 1, 3, 4], [2, 5, -1, -1], [1, 0, 3, -1]])


def read(held: Any) -> Any:
    return held.read(WORDS)


def _start(held: Any) -> Any:
    cursor = held.start(WORDS)
    first = cursor.log_probs.copy()
    cursor.advance(np.array([0, 0, 2]), np.array([4, 5, 1]))
    return np.stack([first, cursor.log_probs])


def _judge(model: Any, n: int = 4) -> Any:
    from mechprobe.worlds import chat_judge

    model.tokenizer.chat_template = "{% for x in messages %}{{ x['content'] }}{% endfor %}"
    return chat_judge(model, max_new_tokens=n)


class _Decided:
    """A judge whose every answer says yes or no, and whose record is its model's."""

    def __init__(self, judge: Any) -> None:
        self.judge, self.about = judge, judge.about

    def __call__(self, prompt: str) -> str:
        return f"ANSWER: {'yes' if sum(map(ord, self.judge(prompt[-40:]))) % 2 else 'no'}"


def _puzzles(judge: Any) -> Any:
    from mechprobe.worlds import Seating, seating_puzzles

    return seating_puzzles(_Decided(judge), Seating(2), puzzles=1, trials=2, suffixes=1)


_STALE = r"changed|no longer|as it was|again"

CALLS = (
    Call("lens", lens(targets=[4, 300]), core=True),
    Call("lens_padded", lens(prompts=RAGGED)),
    Call("lens_long", lens(prompts=LONG, positions=[100, -1]), core=True),
    Call("lens_text", lens(prompts=TEXT)),
    Call("lens_of_mlp", lens(stream="mlp_out"), every=8, refusal=r"mlp_out"),
    Call("lens_of_middle", lens(stream="resid_mid"), every=8, refusal=r"resid_mid"),
    Call("generate", said(max_new_tokens=4)),
    Call("generate_forced", said(continuation=[7, 70, 170])),
    Call("neighbors", near(5)),
    Call("neighbors_at", near(IDS, at=(1, -1))),
    Call("expressible", _expressible),
    Call("qk_logic", scores(logic, "qk"), every=7),
    Call("qk_rotated_choice", scores(choice, "rotated"), every=7),
    Call("qk_cosine_choice", scores(choice, "cosine"), every=7),
    Call("qk_attention_logic", scores(logic, "attention"), every=7),
    Call("ablate", _ablate),
    Call("steer", _steer),
    Call("describe", _describe("induction", "ov_copying", "direct_logit")),
    Call("describe_retrieval", _describe("retrieval"), every=18),
    Call("options", _options),
    Call("difficulty", _difficulty),
    Call("check", _check),
    Call("evaluate", _evaluate),
    Call("world_by_layer", _by_layer),
    # A tiny model may be right about nothing.
    Call("patch", _patch, refusal="nothing can be swapped"),
    Call("probe", _probe),
    Call("detours", _detours),
    Call("net_read", read, net, core=True),
    Call("net_start", _start, net),
    Call("net_at_layer", read, lambda model: net(model).at_layer(1), refusal=_STALE),
    Call("judge", lambda judge: judge("the cat"), _judge),
    Call("puzzles", _puzzles, lambda model: _judge(model, 1), every=18),
)


def numbers(found: Any) -> Numbers:
    """Return what a call gave as arrays by name."""
    if isinstance(found, np.ndarray):
        return {"array": found}
    if isinstance(found, str):
        return {"text": np.array([found])}
    if hasattr(found, "lines"):
        return {line.name: np.array([line.status]) for line in found.lines}
    return {str(name): np.asarray(found.data[name].values) for name in found.data.variables}


def record(found: Any) -> Mapping[str, Any] | None:
    """Return what the result says of its model."""
    provenance = getattr(found, "provenance", None)
    return None if provenance is None else provenance.model


def claims_file(model: Mapping[str, Any]) -> bool:
    """Whether a record says that the weights are those of a file."""
    return bool(model["files_sha256"] or model["revision"]) and not model["weights_sha256"]


def differ(one: Numbers, other: Numbers, tolerance: float = 1e-5) -> str:
    """Return where two calls differ; an empty string if nowhere."""
    if one.keys() != other.keys():
        return f"other variables: {sorted(one.keys() ^ other.keys())}"
    for name, a in one.items():
        b = other[name]
        if a.shape != b.shape:
            return f"{name}: shapes {a.shape} and {b.shape}"
        if a.dtype.kind != "f":
            if not np.array_equal(a, b):
                return f"{name}: {int((a != b).sum())} of {a.size} are others"
            continue
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return f"{name}: NaN elsewhere"
        with np.errstate(invalid="ignore"):
            gap = np.where(a == b, 0.0, np.abs(a - b))
        worst = float(np.nanmax(gap, initial=0.0))
        scale = float(np.nanmax(np.abs(a[np.isfinite(a)]), initial=1e-30))
        if not worst <= tolerance * scale:
            return f"{name}: off by {worst:.2g} of {scale:.2g}"
    return ""


@torch.no_grad()
def own_logits(root: Any, ids: list[int]) -> torch.Tensor:
    """Return what the model itself says, called as its user calls it: ``[pos, d_vocab]``."""
    out = root(torch.tensor([ids]))
    logits = out if isinstance(out, torch.Tensor) else out.logits
    return logits[0].double()


def own_log_probs(root: Any, ids: list[int]) -> np.ndarray:
    return own_logits(root, ids).log_softmax(-1).numpy()
