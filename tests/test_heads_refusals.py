"""Bad input gets one clear error, before any forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.test_heads_scores import (
    choice,
    logic,
    one_thread,  # noqa: F401 (a fixture)
    read,
)

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@contextmanager
def unrun(model: Any) -> Iterator[None]:
    """Fail where the model is run."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the model was run before its input was checked")

    hook = model.original_model.base_model.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


def example(prompt: str = "Is it?\nAnswer:", candidates: tuple[str, ...] = ("true", "false"),
            **fields: Any) -> Any:  # fmt: skip
    from mechprobe.tasks import Example, Task

    return Task("odd", (Example(prompt, candidates, 0, **fields),))


BAD: list[tuple[Callable[[], Any], dict[str, Any], str]] = [
    (lambda: example(candidates=("true", "absolutely not")), {},
     r"candidate ' absolutely not' of example 0 is \d+ tokens.*a QK-score reads one"),
    (lambda: example(candidates=("true", "true tale")), {},
     "candidates 'true' and 'true tale' of example 0 start with the same token"),
    (lambda: example("Is it?\n"), {}, "example 0 has no 'Answer:' after its question"),
    (lambda: example("Answer:"), {}, "example 0 has no 'Answer:' after its question"),
    (lambda: example("Is it?\nAnswer: "), {"spelling": "bare"}, "melts into the prompt's last"),
    (lambda: example(), {"key": "statement_end"}, "example 0 has no statement"),
    (logic, {"key": "end_of_line"}, "has none in its prompt; use key='before_answer'"),
    (logic, {"query": "last"}, "has none in its prompt"),
    (choice, {"query": "last", "key": "before_answer"}, "read the same two tokens"),
    (logic, {"query": "last", "key": "before_answer"}, "read the same two tokens"),
    (logic, {"score": "dot"}, "score='dot' is unknown; choose from qk, rotated, cosine, attention"),
    (logic, {"query": "first"}, "query='first' is unknown; choose from candidate, last"),
    (logic, {"key": "comma"}, "key='comma' is unknown; choose from before_answer"),
    (logic, {"spelling": "Space"}, "spelling='Space' is unknown; choose from space, bare"),
    (logic, {"layers": [0, 3]}, r"layers=\[0, 3\]: this model has attention in layers 0..2"),
    (logic, {"layers": [-1]}, r"layers=\[-1\]: this model has attention in layers 0..2"),
    (logic, {"layers": []}, r"layers=\[\]: this model has attention in layers 0..2"),
    (lambda: example("the cat " * 600 + "\nAnswer:"), {}, "the model's context holds 1024"),
    (logic, {"score": "rotated", "qk_norm": True}, "is taken after QK-norm anyway"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "options", "message"), BAD)
def test_bad_input(task_model: Any, make: Callable[[], Any], options: dict[str, Any], message: str) -> None:
    with unrun(task_model), pytest.raises(ValueError, match=message):
        read(task_model, make(), **options)


def test_the_context_holds_the_answer_too(task_model: Any) -> None:
    """A prompt that fills the context leaves no place for the candidate."""
    n = 1024 - len(task_model.to_tokens("\nAnswer:")[0])
    dots = "." * n
    fits, full = example(f"{dots[1:]}\nAnswer:"), example(f"{dots}\nAnswer:")
    lengths = [len(task_model.to_tokens(t[0].prompt)[0]) for t in (fits, full)]
    assert lengths == [1023, 1024]
    with unrun(task_model), pytest.raises(ValueError, match="1024 tokens and 1 more"):
        read(task_model, full)
    assert read(task_model, fits, layers=[0]).sizes["example"] == 1


def test_no_batch_of_nothing(task_model: Any) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1; found 0"):
        read(task_model, logic(), batch_size=0)


def test_spans_that_cut_a_token(task_model: Any) -> None:
    """The answer names the token; white space at its edges does not count as cut."""
    from mechprobe.tasks import Option, Span, Task

    plain = choice(1)[0]

    def task(by_start: int, by_end: int) -> Any:
        moved = tuple(
            o._replace(content=Span(o.content.start + by_start, o.content.end + by_end))
            for o in plain.options
        )
        return Task("cut", (replace(plain, options=tuple(Option(*o) for o in moved)),))

    seven = task_model.to_tokens("seven", prepend_bos=False)
    assert seven.shape[1] < 5
    for key, by in (("content_end", (0, -1)), ("content_mean", (0, -1)), ("content_mean", (1, 0))):
        cut = r"the option's text .* of example 0 falls inside the token"
        with unrun(task_model), pytest.raises(ValueError, match=cut):
            read(task_model, task(*by), key=key)
    assert read(task_model, task(-1, 1), key="content_mean", layers=[0]).sizes["example"] == 1


def test_an_answer_inside_a_word(task_model: Any) -> None:
    odd = "theAnswer:"
    ids = task_model.to_tokens(odd, prepend_bos=False)[0].tolist()
    shown = [task_model.tokenizer.decode([t]) for t in ids]
    assert "A" in [s[0] for s in shown]  # not melted: readable
    assert read(task_model, example(odd), layers=[0]).sizes["example"] == 1


def test_a_model_without_a_tokenizer(tiny_model: Any) -> None:
    with unrun(tiny_model), pytest.raises(ValueError, match="no tokenizer, so a task cannot be"):
        read(tiny_model, logic())


def test_no_model_at_all(task_model: Any) -> None:
    with pytest.raises(TypeError, match="expected a TransformerLens model"):
        read("gpt2", logic())
    task_model.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            read(task_model, logic())
    finally:
        task_model.eval()


@pytest.mark.parametrize("name", ["gptj", "gpt_neo", "opt"])
@pytest.mark.parametrize("score", ["rotated", "attention"])
def test_scores_that_hold_probabilities_are_refused(tiny: Callable[..., Any], name: str, score: str) -> None:
    with pytest.raises(NotImplementedError, match=r"hook_attn_scores holds probabilities.*'qk'"):
        read(tiny(name, tasks=True), logic(1), score=score)


@pytest.mark.parametrize("score", ["rotated", "attention"])
def test_unknown_positions_are_refused(tiny: Callable[..., Any], score: str) -> None:
    with pytest.raises(NotImplementedError, match=r"encodes positions \(alibi\).*score='qk'"):
        read(tiny("bloom", tasks=True), logic(1), score=score)


def test_qk_norm_where_there_is_none(task_model: Any) -> None:
    with pytest.raises(ValueError, match="no normed, unrotated queries and keys; leave qk_norm"):
        read(task_model, logic(1), qk_norm=True)


@pytest.mark.parametrize("options", [{"heads": []}, {"heads": [(1, 2), (1, 2)]}])
def test_heads_once_each(task_model: Any, options: dict[str, Any]) -> None:
    from mechprobe.heads import ablate_heads, steer_heads

    for analysis, task in ((ablate_heads, logic()), (steer_heads, choice())):
        with unrun(task_model), pytest.raises(ValueError, match=r"each .layer, head. once"):
            analysis(task_model, task, progress=False, **options)


@pytest.mark.parametrize("head", [(3, 0), (0, 4), (-1, 0), (0, -1)])
def test_heads_that_do_not_exist(task_model: Any, head: tuple[int, int]) -> None:
    from mechprobe.heads import ablate_heads, option_robustness, steer_heads

    message = r"does not exist: layers are 0..2, heads 0..3, in the order \(layer, head\)"
    for analysis, task in ((ablate_heads, logic()), (steer_heads, choice())):
        with unrun(task_model), pytest.raises(ValueError, match=message):
            analysis(task_model, task, [head], progress=False)
    even = choice()[:1]
    with pytest.raises(ValueError, match=message):
        option_robustness(task_model, even, head=head, progress=False)


def test_ablation_arguments(task_model: Any) -> None:
    from mechprobe.heads import ablate_heads

    bad: list[tuple[dict[str, Any], str]] = [
        ({"how": "half"}, "how='half' is unknown; choose from zero, mean, resample"),
        ({"controls": -1}, "controls=-1; give 0 or more"),
        ({"heads": [(0, 0), (0, 1), (0, 2)]}, "3 of the 4 heads of layer 0 are chosen; too few"),
        ({"how": "resample", "task": logic(1)}, "another example, and 'short logic' has only one"),
    ]
    for options, message in bad:
        plain: dict[str, Any] = {"task": logic(), "heads": [(0, 0)], "progress": False}
        with unrun(task_model), pytest.raises(ValueError, match=message):
            ablate_heads(task_model, **(plain | options))


@pytest.mark.parametrize(
    "strengths", [[], [-1.0], [2.0, 1.0], [1.0, 1.0], [0.0, float("nan")], [float("inf")]]
)
def test_strengths_ascend_from_zero(task_model: Any, strengths: list[float]) -> None:
    from mechprobe.heads import steer_heads

    with unrun(task_model), pytest.raises(ValueError, match="ascending, finite, each 0 or more"):
        steer_heads(task_model, choice(), [(0, 0)], strengths=strengths, progress=False)


def test_steering_needs_options(task_model: Any) -> None:
    from mechprobe.heads import steer_heads

    with unrun(task_model), pytest.raises(ValueError, match="has none in its prompt"):
        steer_heads(task_model, logic(), [(0, 0)], progress=False)


@pytest.mark.parametrize("name", ["gptj", "gpt_neo", "opt"])
def test_steering_that_does_nothing_is_refused(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.heads import steer_heads

    model = tiny(name, tasks=True)
    with pytest.raises(NotImplementedError, match=r"hook_pattern changes nothing in .*ForCausalLM"):
        steer_heads(model, choice(2), [(1, 1)], strengths=[8.0], controls=0, progress=False)


def test_traits(task_model: Any) -> None:
    from mechprobe.heads import describe_heads

    with pytest.raises(ValueError, match="there is no trait 'charm'; choose from induction"):
        describe_heads(task_model, traits=["charm"], progress=False)
    for length in (1, 512):
        with pytest.raises(ValueError, match=f"length={length}: twice that must fit"):
            describe_heads(task_model, length=length, progress=False)


def test_option_robustness_arguments(task_model: Any) -> None:
    from mechprobe.heads import option_robustness

    with pytest.raises(ValueError, match=r"one number of options; found .* sizes \[2, 3, 4\]"):
        option_robustness(task_model, choice(), progress=False)
    with pytest.raises(ValueError, match="found layout 'logic'"):
        option_robustness(task_model, logic(), progress=False)
    with pytest.raises(ValueError, match="keep_last=1 leaves fewer than two of 2 options"):
        option_robustness(task_model, choice(1), keep_last=1, progress=False)


def test_weights_that_are_not_numbers(tiny: Callable[..., Any]) -> None:
    model = tiny("llama", tasks=True, sharpness=7.0)
    with torch.no_grad():
        model.original_model.base_model.layers[0].self_attn.q_proj.weight[0, 0] = torch.nan
    with unrun(model), pytest.raises(ValueError, match="holds NaN or infinity"):
        read(model, logic(1))
