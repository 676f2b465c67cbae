"""QK-scores of whole tasks against what ``run_with_cache`` shows at the same positions.

Positions are found here by decoding ever longer prefixes, not by mechprobe.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

TOLERANCE = 1e-5
WORDS = ["the cat sat", "one two three four five", "a dog", "lazy fox jumps over the dog", "six"]
OPTIONS = ["cat", "dog fox", "four", "seven"]
# Queries and keys, and the model's own scores.
WITH_SCORES = [
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "cohere", "granite", "olmo2",
    "smollm3", "phi3", "mixtral", "stablelm", "gpt_neox", "phi", "gpt2", "falcon",
]  # fmt: skip
WITHOUT_SCORES = ["gptj", "gpt_neo", "opt", "bloom"]
Scores = npt.NDArray[np.float64]
HOOKS = (".hook_q", ".hook_k", ".hook_attn_scores", ".hook_pattern")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On models this small threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logic(n: int = 5) -> Any:
    """Statements of unequal length, two candidates each."""
    from mechprobe.tasks import Task
    from mechprobe.tasks.layout import logic_example

    answers = ("true", "false")
    return Task(
        "short logic",
        tuple(
            logic_example(f"Every {w}.", w, answers, answers[i % 2], group=str(i))
            for i, w in enumerate(WORDS[:n])
        ),
    )


def choice(n: int = 5) -> Any:
    """Questions with two, three and four options."""
    from mechprobe.tasks import Task
    from mechprobe.tasks.layout import choice_example

    return Task(
        "short choice",
        tuple(
            choice_example(f"Which {w}?", OPTIONS[: 2 + i % 3], i % 2, group=str(i))
            for i, w in enumerate(WORDS[:n])
        ),
    )


def custom(folder: Path, name: str, *, sharpness: float = 8.0, **changes: Any) -> Any:
    """Return a tiny model whose configuration is changed."""
    from mechprobe.models import load_model
    from tests import tiny

    sizes = tiny.config(name)
    for field, value in changes.items():
        setattr(sizes, field, value)

    def changed(_: str) -> Any:
        return sizes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "config", changed)
        tiny.save_tiny(folder, name, tasks=True, sharpness=sharpness)
    return load_model(folder, device="cpu")


class Reference:
    """TransformerLens' own cache of whole texts, each run once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._caches: dict[tuple[int, ...], Any] = {}

    def ids(self, text: str) -> list[int]:
        return self.model.to_tokens(text)[0].tolist()

    def token_at(self, ids: list[int], char: int) -> int:
        """Return the token that character ``char`` belongs to, by decoding prefixes."""
        decode = self.model.tokenizer.decode
        shown = (len(decode(ids[: t + 1], skip_special_tokens=True)) for t in range(len(ids)))
        return next(t for t, end in enumerate(shown) if end > char)

    def activation(self, ids: list[int], layer: int, hook: str) -> torch.Tensor:
        if tuple(ids) not in self._caches:
            names = [n for n in self.model.hook_dict if n.endswith(HOOKS)]
            _, cache = self.model.run_with_cache(torch.tensor([ids]), names_filter=names)
            self._caches[tuple(ids)] = cache
        return self._caches[tuple(ids)][f"blocks.{layer}.attn.{hook}"][0].detach().double()

    def at(self, ids: list[int], query: int, key: int, score: str) -> Scores:
        """Return one score of every head, (layer, head)."""
        rows: list[Scores] = []
        for x in range(self.model.cfg.n_layers):
            if score in ("rotated", "attention"):
                hook = "hook_attn_scores" if score == "rotated" else "hook_pattern"
                rows.append(self.activation(ids, x, hook)[:, query, key].numpy())
                continue
            q = self.activation(ids, x, "hook_q")[query].reshape(-1, self.model.cfg.d_head)
            k = self.activation(ids, x, "hook_k")[key].reshape(-1, self.model.cfg.d_head)
            k = k.repeat_interleave(len(q) // len(k), dim=0)
            found = (q * k).sum(-1)
            if score == "cosine":
                found = found / (q.norm(dim=-1) * k.norm(dim=-1))
            rows.append(found.numpy())
        return np.stack(rows)

    def candidates(self, task: Any, score: str, lead: str = " ") -> Scores:
        """Query: the last token of every whole text; key: the token before "Answer:"."""
        out = []
        for example in task:
            prompt = self.ids(example.prompt)
            key = self.token_at(prompt, example.prompt.rindex("Answer:") - 1)
            row = []
            for candidate in example.candidates:
                whole = self.ids(example.prompt + lead + candidate)
                assert whole[:-1] == prompt
                row.append(self.at(whole, len(prompt), key, score))
            out.append(np.stack(row))
        return np.stack(out)

    def options(self, task: Any, score: str, tokens: "Tokens") -> Scores:
        """Query: the prompt's last token; key: the mean over ``tokens`` of each option."""
        width = max(len(e.candidates) for e in task)
        cfg = self.model.cfg
        out = np.full((len(task), width, cfg.n_layers, cfg.n_heads), np.nan)
        for i, example in enumerate(task):
            ids = self.ids(example.prompt)
            for c, option in enumerate(example.options):
                at = tokens(self, ids, option)
                found = [self.at(ids, len(ids) - 1, t, score) for t in at]
                out[i, c] = np.mean(found, axis=0)
        return out


Tokens = Callable[[Reference, list[int], Any], list[int]]


def newline(reference: Reference, ids: list[int], option: Any) -> list[int]:
    return [reference.token_at(ids, option.line.end - 1)]


def content(reference: Reference, ids: list[int], option: Any) -> list[int]:
    first = reference.token_at(ids, option.content.start)
    return list(range(first, reference.token_at(ids, option.content.end - 1) + 1))


def read(model: Any, task: Any, **options: Any) -> Any:
    """Return the data of ``qk_scores``."""
    from mechprobe.heads import qk_scores

    return qk_scores(model, task, progress=False, **options).data


def places_of(model: Any, task: Any, query: Any, key: Any, spelling: Any = "space") -> list[Any]:
    """Return where ``places`` finds what to read."""
    from mechprobe.heads.places import places
    from mechprobe.models import looking_at

    with looking_at(model) as session:
        return places(session, task, query, key, spelling)


def assert_scores(ours: Any, theirs: Scores, tolerance: float = TOLERANCE) -> None:
    """Missing at the same places, and equal up to a part of the largest score."""
    ours = np.asarray(ours, np.float64)
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    assert np.nanmax(np.abs(theirs)) > 0
    assert np.nanmax(np.abs(ours - theirs)) <= tolerance * np.nanmax(np.abs(theirs))


def assert_equals_cache(model: Any, score: str, reference: Reference) -> None:
    """Both layouts of short tasks."""
    assert_scores(read(model, logic(2), score=score).score, reference.candidates(logic(2), score))
    options = reference.options(choice(2), score, newline)
    assert_scores(read(model, choice(2), score=score).score, options)


@pytest.mark.parametrize("name", [*WITH_SCORES, *WITHOUT_SCORES])
def test_scores_equal_the_cache(tiny: Callable[..., Any], name: str) -> None:
    model = tiny(name, tasks=True)
    reference = Reference(model)
    for score in ("qk", "cosine", *(("rotated", "attention") if name in WITH_SCORES else ())):
        assert_equals_cache(model, score, reference)


@pytest.mark.parametrize(("share", "rotated"), [(0.25, 2), (0.5, 4)])  # of a head's 8 components
def test_partial_rotary_is_ours(tmp_path: Path, share: float, rotated: int) -> None:
    from mechprobe.models import attention_path, looking_at
    from tests import tiny

    parameters = {**tiny.config("gpt_neox").rope_parameters, "partial_rotary_factor": share}
    model = custom(tmp_path, "gpt_neox", rope_parameters=parameters)
    assert 2 * len(model.original_model.base_model.rotary_emb.inv_freq) == rotated
    with looking_at(model) as session:
        assert attention_path(session, "rotated").rotate is not None
    reference = Reference(model)
    assert_equals_cache(model, "rotated", reference)
    theirs = reference.candidates(logic(3), "rotated")
    plain = reference.candidates(logic(3), "qk") / np.sqrt(model.cfg.d_head)
    assert np.abs(plain - theirs).max() > 0.01 * np.abs(theirs).max()


def test_the_soft_cap_of_gemma_moves_scores(tiny: Callable[..., Any]) -> None:
    from mechprobe.models import attention_path, looking_at

    model = tiny("gemma2", tasks=True, sharpness=96.0)
    reference, task = Reference(model), choice(2)
    theirs = reference.candidates(logic(3), "rotated")
    with looking_at(model) as session:
        cap = attention_path(session, "rotated").soft_cap()
    assert cap is not None
    assert cap == 50.0
    before = cap * np.arctanh(theirs / cap)
    assert (np.abs(before - theirs) > 0.1 * np.abs(theirs)).any()
    assert_equals_cache(model, "rotated", reference)
    # A cap is not linear: every token of an option is capped before the mean.
    means = reference.options(task, "rotated", content)
    assert_scores(read(model, task, score="rotated", key="content_mean").score, means)


KEYS: dict[str, Tokens] = {
    "end_of_line": newline,
    "label": lambda r, ids, option: [r.token_at(ids, option.label.start)],
    "period": lambda r, ids, option: [r.token_at(ids, option.label.end)],
    "content_end": lambda r, ids, option: [r.token_at(ids, option.content.end - 1)],
    "content_mean": content,
}


@pytest.mark.parametrize("score", ["qk", "rotated", "cosine", "attention"])
def test_every_key_of_options(task_model: Any, score: str) -> None:
    """With two, three and four options; what an example does not have is NaN."""
    reference, task = Reference(task_model), choice(3)
    for key, tokens in KEYS.items():
        ours = read(task_model, task, score=score, key=key).score
        assert np.isnan(ours[0, 2:]).all()
        assert_scores(ours, reference.options(task, score, tokens))


def test_statement_end_and_both_spellings(task_model: Any) -> None:
    reference, task = Reference(task_model), logic(3)
    for spelling, lead in (("space", " "), ("bare", "")):
        ours = read(task_model, task, spelling=spelling).score
        assert_scores(ours, reference.candidates(task, "qk", lead))
    ours = read(task_model, task, key="statement_end").score.values
    for i, example in enumerate(task):
        ids = reference.ids(example.prompt)
        key = reference.token_at(ids, example.statement.end - 1)
        for c, candidate in enumerate(example.candidates):
            whole = reference.ids(f"{example.prompt} {candidate}")
            assert_scores(ours[i, c], reference.at(whole, len(ids), key, "qk"))


@pytest.mark.parametrize("score", ["qk", "attention"])
def test_options_can_be_keys_of_candidates(task_model: Any, score: str) -> None:
    """Both own: candidate c's query against option c's key."""
    reference, task = Reference(task_model), choice(3)
    ours = read(task_model, task, query="candidate", key="label", score=score).score.values
    for i, example in enumerate(task):
        ids = reference.ids(example.prompt)
        for c, (letter, option) in enumerate(zip(example.candidates, example.options, strict=True)):
            whole = reference.ids(f"{example.prompt} {letter}")
            key = reference.token_at(ids, option.label.start)
            assert_scores(ours[i, c], reference.at(whole, len(ids), key, score))
        assert np.isnan(ours[i, len(example.candidates) :]).all()


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "olmo2"])
def test_qk_norm_by_hand(tiny: Callable[..., Any], name: str) -> None:
    """The Hugging Face module's own ``q_norm`` and ``k_norm``, put on ``hook_q`` and ``hook_k``."""
    model = tiny(name, tasks=True)
    reference, example = Reference(model), logic()[1]
    ids = reference.ids(example.prompt)
    key = reference.token_at(ids, example.prompt.rindex("Answer:") - 1)
    ours = {s: read(model, logic(2), score=s, qk_norm=True).score.values[1] for s in ("qk", "cosine")}
    for c, candidate in enumerate(example.candidates):
        whole = reference.ids(f"{example.prompt} {candidate}")
        for x, layer in enumerate(model.original_model.base_model.layers):
            q, k = (
                _normed(getattr(layer.self_attn, f"{n}_norm"),
                        reference.activation(whole, x, f"hook_{n}")[at], model.cfg.d_head)
                for n, at in (("q", -1), ("k", key))
            )  # fmt: skip
            k = k.repeat_interleave(len(q) // len(k), dim=0)
            found = (q * k).sum(-1)
            assert_scores(ours["qk"][c, x], found.numpy())
            assert_scores(ours["cosine"][c, x], (found / (q.norm(dim=-1) * k.norm(dim=-1))).numpy())


def _normed(norm: Any, heads: torch.Tensor, d_head: int) -> torch.Tensor:
    """OLMo-2 norms all heads at once, the others each head."""
    norm = getattr(norm, "original_component", norm)
    whole = norm.weight.numel() != d_head
    given = heads.float().flatten() if whole else heads.float()
    return norm(given).detach().double().reshape(-1, d_head)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "cohere"])
def test_model_log_prob_is_the_models_own(tiny: Callable[..., Any], name: str) -> None:
    model = tiny(name, tasks=True)
    reference, known = Reference(model), 0
    for task in (logic(3), choice(3)):
        ours = read(model, task).model_log_prob
        for i, example in enumerate(task):
            prompt = reference.ids(example.prompt)
            theirs = model(torch.tensor([prompt]))[0, -1].detach().double().log_softmax(-1)
            for spelling, lead in (("space", " "), ("bare", "")):
                row = ours.sel(spelling=spelling).values[i]
                assert np.isnan(row[len(example.candidates) :]).all()
                for value, candidate in zip(row, example.candidates, strict=False):
                    added = reference.ids(example.prompt + lead + candidate)[len(prompt) :]
                    known += len(added) == 1
                    expected = float(theirs[added[0]]) if len(added) == 1 else np.nan
                    np.testing.assert_allclose(value, expected, rtol=0, atol=2e-5)
    assert known >= 24  # of 30: bare letters may be several tokens


@pytest.mark.model
def test_smollm2_equals_the_cache(smollm2: Any) -> None:
    reference = Reference(smollm2)
    for score in ("qk", "rotated", "cosine", "attention"):
        ours = read(smollm2, logic(2), score=score).score
        assert_scores(ours, reference.candidates(logic(2), score))
        ours = read(smollm2, choice(1), score=score).score
        assert_scores(ours, reference.options(choice(1), score, newline))


def test_provenance_names_the_questions_by_the_digest_of_their_task(task_model: Any) -> None:
    from mechprobe import tasks
    from mechprobe.heads import qk_scores

    task = tasks.select_and_copy(4, options=2, seed=0)
    scores = qk_scores(task_model, task, progress=False)
    assert scores.provenance.data_digest == task.digest()
