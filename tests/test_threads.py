"""Threads that read one model, or several, never hear each other: right, or refused by name."""

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.calls import QUIET, Numbers, choice, differ, net, numbers, own_logits
from tests.tiny import save_tiny

# Of each test; 200 by `MECHPROBE_CALLS=200`.
N_CALLS = int(os.environ.get("MECHPROBE_CALLS", "60"))
PROMPTS = [[5, 9, 100, 42, 7, 300, 2], [8, 8, 31], [77], [200, 3, 41, 19, 6]]
WORDS = [np.array([[0, 1, 3]]), np.array([[2, 5, 1, 4], [0, 3, -1, -1]])]
REFUSED = r"thread|another call|in use|busy|at the same time|meanwhile"


@pytest.fixture(autouse=True)
def _switching(
    as_users_run_it: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[None]:
    """Switch threads after every few bytecodes, so that what can go wrong does."""
    monkeypatch.chdir(tmp_path)
    before, threads = sys.getswitchinterval(), torch.get_num_threads()
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {k: save_tiny(tmp_path_factory.mktemp(k), k, tasks=True) for k in ("llama", "gpt2")}


def loaded(folder: Path) -> Any:
    import mechprobe as mp

    return mp.load_model(folder, device="cpu")


@dataclass(frozen=True)
class Job:
    """One call on one model."""

    name: str
    run: Callable[[Any], Any]


def _jobs() -> list[Job]:
    import mechprobe as mp

    jobs: list[Job] = []
    for i, ids in enumerate(PROMPTS):
        jobs.append(Job(f"lens {i}", lambda m, ids=ids: mp.logit_lens(
            m, [ids], positions=None, top_k=3, **QUIET)))  # fmt: skip
        jobs.append(Job(f"generate {i}", lambda m, ids=ids: mp.generate_with_lens(
            m, ids, max_new_tokens=3, top_k=3, **QUIET)))  # fmt: skip
    jobs.append(Job("lens of all", lambda m: mp.logit_lens(m, PROMPTS, top_k=3, **QUIET)))
    jobs.append(Job("heads", lambda m: mp.qk_scores(m, choice(), **QUIET)))
    jobs += [Job(f"words {i}", lambda m, w=w: net(m).read(w)) for i, w in enumerate(WORDS)]
    return jobs


def _deaf(*_: Any) -> None:
    """Hear a pass, and do nothing."""


def _plain_jobs() -> list[Job]:
    """What a user does without mechprobe."""
    return [Job(f"own {i}", lambda m, ids=ids: own_logits(m.original_model, ids).numpy())
            for i, ids in enumerate(PROMPTS)]  # fmt: skip


class Crowd:
    """Some threads that share a list of calls; what went wrong in any of them."""

    def __init__(self, models: list[Any], jobs: list[Job], n_calls: int) -> None:
        self.models = models
        self.right = {(i, j.name): numbers(j.run(m)) for i, m in enumerate(models) for j in jobs}
        rng = random.Random(0)
        self.todo = [(rng.randrange(len(models)), rng.choice(jobs)) for _ in range(n_calls)]
        self.wrong: list[str] = []
        self.n_right = self.n_refused = 0
        self.lock = threading.Lock()

    def work(self) -> None:
        while True:
            with self.lock:
                if not self.todo:
                    return
                place, job = self.todo.pop()
            self.one(place, job)

    def one(self, place: int, job: Job) -> None:
        import re

        try:
            found: Numbers = numbers(job.run(self.models[place]))
        except BaseException as error:
            refused = re.search(REFUSED, str(error)) is not None
            with self.lock:
                self.n_refused += refused
                if not refused:
                    self.wrong.append(f"{job.name}: {type(error).__name__}: {str(error)[:200]}")
            return
        said = differ(found, self.right[place, job.name])
        with self.lock:
            self.n_right += not said
            if said:
                self.wrong.append(f"{job.name} of model {place}: {said}")

    def run(self, n_threads: int, besides: Callable[[], object] | None = None) -> None:
        threads = [threading.Thread(target=self.work) for _ in range(n_threads)]
        if besides is not None:
            threads.append(threading.Thread(target=besides))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=240)
        assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"


def assert_right(crowd: Crowd, n_calls: int) -> None:
    report = "\n".join(crowd.wrong[:8])
    assert not crowd.wrong, f"{len(crowd.wrong)} of {n_calls} calls\n{report}"
    assert crowd.n_right + crowd.n_refused == n_calls
    assert crowd.n_right >= n_calls // 4, "a model that only refuses is of no use"


@pytest.mark.parametrize("n_threads", [2, 8])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_one_model(folders: dict[str, Path], kind: str, n_threads: int) -> None:
    crowd = Crowd([loaded(folders[kind])], _jobs(), N_CALLS)
    crowd.run(n_threads)
    assert_right(crowd, N_CALLS)


@pytest.mark.parametrize("n_threads", [2, 8])
def test_two_models(folders: dict[str, Path], n_threads: int) -> None:
    """Other weights, and another architecture."""
    crowd = Crowd([loaded(folders["llama"]), loaded(folders["gpt2"])], _jobs(), N_CALLS)
    crowd.run(n_threads)
    assert_right(crowd, N_CALLS)


@pytest.mark.parametrize("n_threads", [2, 8])
def test_two_bridges_around_one_model(folders: dict[str, Path], n_threads: int) -> None:
    """They share every weight and module: what is said of one model holds for the two together."""
    import transformers
    from transformer_lens.model_bridge import TransformerBridge

    where = folders["llama"]
    own: Any = transformers.AutoModelForCausalLM.from_pretrained(where, attn_implementation="eager")
    words = transformers.AutoTokenizer.from_pretrained(where)
    first, second = (
        TransformerBridge.boot_transformers(
            str(where), hf_model=own.eval(), tokenizer=words, device="cpu"
        ).eval()
        for _ in range(2)
    )
    assert second.original_model is first.original_model
    crowd = Crowd([first, second], _jobs(), N_CALLS)
    crowd.run(n_threads)
    assert_right(crowd, N_CALLS)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_beside_plain_hugging_face(folders: dict[str, Path], kind: str) -> None:
    """Who calls the model without mechprobe gets the model's own logits all the while."""
    model = loaded(folders[kind])
    crowd = Crowd([model], _jobs(), N_CALLS // 2)
    own = Crowd([model], _plain_jobs(), N_CALLS // 2)
    crowd.run(3, besides=own.work)
    assert_right(own, N_CALLS // 2)
    assert_right(crowd, N_CALLS // 2)
    assert own.n_refused == 0


def test_a_first_call_from_many_threads(folders: dict[str, Path]) -> None:
    """Nothing is known of the model yet, and eight threads begin to look at once."""
    right = numbers(_jobs()[0].run(loaded(folders["llama"])))
    for _ in range(4):
        model = loaded(folders["llama"])
        crowd = Crowd([], [], 0)
        crowd.models, crowd.right = [model], {(0, _jobs()[0].name): right}
        crowd.todo = [(0, _jobs()[0])] * 8
        crowd.run(8)
        assert_right(crowd, 8)


def test_hooks_of_one_thread_are_not_heard_in_another(folders: dict[str, Path]) -> None:
    """Heads are taken away in one thread; the lens in the other is of the whole model."""
    import mechprobe as mp

    model = loaded(folders["llama"])
    jobs = [Job("ablate", lambda m: mp.ablate_heads(m, choice(), [(1, 2)], how="zero", controls=0,
                                                    **QUIET)), _jobs()[0]]  # fmt: skip
    crowd = Crowd([model], jobs, N_CALLS // 2)
    crowd.run(4)
    assert_right(crowd, N_CALLS // 2)
    assert not any(p.fwd_hooks for p in model.hook_dict.values())


def test_a_thread_that_fails_lets_the_others_go_on(folders: dict[str, Path]) -> None:
    import mechprobe as mp

    model = loaded(folders["llama"])

    def broken(rows: Any, layer: int) -> Any:  # noqa: ARG001
        raise ArithmeticError("broken in the middle of a meanwhile")

    def fails() -> None:
        for _ in range(20):
            with pytest.raises(ArithmeticError):
                mp.logit_lens(model, [PROMPTS[0]], translators=broken, **QUIET)

    crowd = Crowd([model], _jobs()[:4], N_CALLS // 4)
    crowd.run(2, besides=fails)
    assert_right(crowd, N_CALLS // 4)


@pytest.mark.parametrize("foreign", [False, True])
def test_threads_of_a_call_inside_a_call(folders: dict[str, Path], *, foreign: bool) -> None:
    """A translator that reads the same model again is one thread: answered, or refused by name."""
    import re

    import mechprobe as mp

    model = loaded(folders["llama"])
    if foreign:  # every pass is the model's own
        model.original_model.register_forward_hook(_deaf)
    jobs = _jobs()
    right = numbers(jobs[1].run(model))
    whole = numbers(mp.logit_lens(model, [PROMPTS[0]], **QUIET))
    heard: list[Numbers] = []
    nested = [0]

    def again(rows: Any, layer: int) -> Any:
        if layer == 1:
            nested[0] += 1
            assert nested[0] < 5, "the outer call hears the passes of the inner one"
            own_logits(model.original_model, PROMPTS[1])
            heard.append(numbers(jobs[1].run(model)))
        return rows

    found = whole
    try:
        found = numbers(mp.logit_lens(model, [PROMPTS[0]], translators=again, **QUIET))
    except RuntimeError as error:
        if not re.search(REFUSED + "|inside|already", str(error)):
            raise
        heard.append(right)
    assert differ(found, whole) == ""
    assert [differ(x, right) for x in heard] == [""] * len(heard)
    assert heard
