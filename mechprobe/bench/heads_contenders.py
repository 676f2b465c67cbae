"""What is timed of head scoring. Runs inside a worker process only.

A peer reads one text per candidate, as TransformerLens' own examples do: cache activations, pick
the query of the candidate and the key before "Answer:", multiply.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from einops import einsum, repeat
from jaxtyping import Int
from torch import Tensor

from mechprobe import tasks
from mechprobe.bench.contender import AbsentError, Arrays, Contender
from mechprobe.bench.workload import HEADS
from mechprobe.heads import qk_scores
from mechprobe.heads.lead import shared_lead
from mechprobe.heads.places import places
from mechprobe.models import Session, batches, load_model, looking_at, run

# Brings prompts to about 200 tokens.
_INTRODUCTION = (
    "Read the theory and judge the statement behind it. Everything that follows from the theory is "
    "true, and what it rules out is false.\n"
)
# Of more in all, only the fastest way of the peer is timed, which takes minutes itself.
_MANY_TOKENS = 50_000


def questions(work: str) -> tasks.Task:
    """Return the questions of a workload, each behind its worked examples."""
    prompts, shots = HEADS.read(work)
    # Questions come in fours, and with a shot goes all of its four.
    n_shown = -(-shots // 4) * 4
    n = n_shown + -(-prompts // 4) * 4
    theories = tasks.ontology(n, steps=6, distractors=8, seed=0).take(range(n_shown + prompts))
    task = tasks.Task("bench", tuple(e.within(_INTRODUCTION) for e in theories))
    return task.with_shots(shots) if shots else task


class _Taker(Contender):
    def __init__(self, model: str) -> None:
        self.model: Any = load_model(model)

    def take(self, file: Path) -> None:
        self.task = tasks.load(file)
        with looking_at(self.model) as session:
            self.places = places(session, self.task, "candidate", "before_answer", "space")

    def forward(self) -> None:
        """Run what all prompts begin with, then the rest of each, in micro-batches."""
        with looking_at(self.model) as session:
            lead = shared_lead(session, self.places)
            for batch in batches(self.model, [p.ids for p in self.places]):
                lead.read(session, batch, {})


class Mechprobe(_Taker):
    """The public call as a user makes it: shortcut audit, baseline and dataset included."""

    outputs = "QK-scores of all heads, the model's own answers, shortcut audit, labelled dataset"

    def draw(self, work: str, file: Path) -> None:
        """Write the theories of a workload."""
        questions(work).save(file)

    def run(self) -> Any:
        """Call the scorer."""
        return qk_scores(self.model, self.task, progress=False)

    def arrays(self, result: Any) -> Arrays:
        """Return the scores."""
        return {"score": result.data["score"].values}

    def n_bytes(self, result: Any) -> int:
        """Return the size of the dataset."""
        return int(result.data.nbytes)


class _RunWithCache(_Taker):
    """TransformerLens' ``run_with_cache``, two texts per prompt."""

    outputs = "QK-scores of all heads, as a tensor; every activation cached, one text at a time"
    batch = 1
    names: Callable[[str], bool] | None = None
    reads_all = False

    def take(self, file: Path) -> None:
        super().take(file)
        n_tokens = 2 * sum(len(p.ids) for p in self.places)
        if not self.reads_all and n_tokens > _MANY_TOKENS:
            msg = f"left out at {n_tokens:,} tokens, where q and k one by one takes minutes"
            raise AbsentError(msg)

    def forward(self) -> None:
        """Run the longest texts: those of no other batch take as much memory."""
        ids, mask = self._texts(self._batches()[-1], 0)
        with looking_at(self.model) as session:
            run(session, ids, {}, mask=mask)

    @torch.no_grad()
    def run(self) -> Tensor:
        n_layers, n_heads = int(self.model.cfg.n_layers), int(self.model.cfg.n_heads)
        out = torch.full((len(self.places), 2, n_layers, n_heads), torch.nan)
        for candidate in range(2):
            for chosen in self._batches():
                self._read(chosen, candidate, out)
        return out

    def _batches(self) -> list[list[int]]:
        """Return which prompts go together, the longest last."""
        order = sorted(range(len(self.places)), key=lambda i: len(self.places[i].ids))
        return [order[at : at + self.batch] for at in range(0, len(order), self.batch)]

    def _texts(
        self, chosen: list[int], candidate: int
    ) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"]]:
        texts = [[*self.places[i].ids, self.places[i].answers[candidate]["space"]] for i in chosen]
        width = max(map(len, texts))
        ids = torch.tensor([[*t, *[0] * (width - len(t))] for t in texts])
        return ids, torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in texts])

    def _read(self, chosen: list[int], candidate: int, out: Tensor) -> None:
        ids, mask = self._texts(chosen, candidate)
        _, cache = self.model.run_with_cache(ids, attention_mask=mask, names_filter=self.names)
        row = torch.arange(len(chosen))
        query = mask.sum(-1) - 1
        key = torch.tensor([self.places[i].keys[0][0] for i in chosen])
        for layer in range(out.shape[2]):
            q = cache[f"blocks.{layer}.attn.hook_q"][row, query]
            k = cache[f"blocks.{layer}.attn.hook_k"][row, key]
            k = repeat(k, "row kv d -> row (kv group) d", group=q.shape[1] // k.shape[1])
            out[chosen, candidate, layer] = einsum(q, k, "row head d, row head d -> row head")

    def arrays(self, result: Tensor) -> Arrays:
        return {"score": result.numpy()}

    def n_bytes(self, result: Tensor) -> int:
        return result.nbytes


def _q_or_k(name: str) -> bool:
    return name.endswith(("attn.hook_q", "attn.hook_k"))


class _OnlyQK(_RunWithCache):
    outputs = "QK-scores of all heads, as a tensor; only q and k cached, one text at a time"
    names = staticmethod(_q_or_k)
    reads_all = True


class _OnlyQKBatched(_OnlyQK):
    outputs = "QK-scores of all heads, as a tensor; only q and k cached, 8 texts of like length"
    batch = 8
    reads_all = False


class _Forward(_Taker):
    outputs = "none (floor: the prompts once, what they share once, without candidates)"

    def around(self) -> AbstractContextManager[Session]:
        """Look at the model before the clock starts: a floor is its passes alone."""
        return looking_at(self.model)


CONTENDERS: dict[str, Callable[[str], Contender]] = {
    "mechprobe": Mechprobe,
    "run_with_cache": _RunWithCache,
    "run_with_cache q,k": _OnlyQK,
    "run_with_cache q,k x8": _OnlyQKBatched,
    "forward": _Forward,
}
