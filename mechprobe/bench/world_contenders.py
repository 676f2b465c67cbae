"""What is timed of the world metrics, on one thread. Runs inside a worker process only.

The peer does what the published code does: one pair at a time, Hugging Face's ``generate`` for the
suffixes, then every suffix read again from the beginning of the other prefix, 32 at a time.
"""

from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechprobe.bench.contender import Arrays, Contender
from mechprobe.bench.workload import WORLD
from mechprobe.models import looking_at
from mechprobe.worlds import Epsilon, StreetMap, load_sequence_model, load_shipped
from mechprobe.worlds.automata.arrays import PAD, Ids
from mechprobe.worlds.automata.language import boundary
from mechprobe.worlds.metrics.drawing import drawn_pairs
from mechprobe.worlds.metrics.pairs import Pairs
from mechprobe.worlds.metrics.request import Request, checked
from mechprobe.worlds.metrics.scores import Test, gather, scored
from mechprobe.worlds.training.shipped import NAMES

SEED = 1
DEPTH = 5
EPSILON = 0.01
_ROWS_AT_ONCE = 32
_TESTS: dict[str, tuple[Test, ...]] = {
    "compression": ("compression_precision",),
    "distinction": ("distinction_precision", "distinction_recall"),
}


class _Taker(Contender):
    """Model, world and the pairs that all contenders share."""

    clock = staticmethod(process_time)

    def __init__(self, model: str) -> None:
        torch.set_num_threads(1)
        if model in NAMES:
            name: Any = model
            self.net, self.world = load_shipped(name)
        else:
            self.world = StreetMap.from_edges(Path(model) / "edges.csv")
            self.net = load_sequence_model(model, self.world)
        self.model = self.net.model

    def take(self, file: Path) -> None:
        with np.load(file) as arrays:
            self.metric, sizes = str(arrays["metric"]), arrays["sizes"].tolist()
            self.pairs = Pairs(
                arrays["states1"],
                arrays["states2"],
                arrays["prefixes1"],
                arrays["prefixes2"],
                int(arrays["n_drawn"]),
                {},
            )
        self.request = _request(self.world, *sizes)

    def forward(self) -> None:
        """Read the prefixes once."""
        with looking_at(self.model):
            self.net.start(self.pairs.prefixes1)

    def arrays(self, result: Arrays) -> Arrays:
        """Return the scores."""
        return result

    def n_bytes(self, result: Arrays) -> int:
        """Return the size of the scores."""
        return sum(values.nbytes for values in result.values())


def _request(world: StreetMap, n_pairs: int, n_suffixes: int) -> Request:
    rule = Epsilon(EPSILON)
    return checked(world, n_pairs, n_suffixes, DEPTH, rule, "vafa2024", None, SEED)


class Mechprobe(_Taker):
    """The scores that ``evaluate_world_model(mode="vafa2024")`` gathers."""

    outputs = "score of every pair; recall too for distinction"

    def draw(self, work: str, file: Path) -> None:
        """Write the pairs of a workload."""
        metric, sizes = work.partition(":")[0], WORLD.read(work)
        with looking_at(self.model):
            both = drawn_pairs(self.net, self.world, _request(self.world, *sizes), "random_walk")
        pairs = both[metric == "distinction"]
        np.savez(
            file,
            metric=metric,
            sizes=sizes,
            states1=pairs.states1,
            states2=pairs.states2,
            prefixes1=pairs.prefixes1,
            prefixes2=pairs.prefixes2,
            n_drawn=pairs.n_drawn,
        )

    def run(self) -> Arrays:
        """Score the pairs."""
        tests, how = _TESTS[self.metric], self.request.sampling
        # Once, as the public function does, not for every word.
        with looking_at(self.model):
            found = list(scored(tests, self.net, self.world, self.pairs, how))
        return {
            test: gather(len(self.pairs), [part for name, part in found if name == test])[0] for test in tests
        }


class HFGenerate(_Taker):
    """One pair at a time, by ``generate`` and a second reading."""

    outputs = "the same, one pair at a time: generate(), then every suffix read again in full"

    def __init__(self, model: str) -> None:
        super().__init__(model)
        from transformers import AutoModelForCausalLM

        folder = self.model.original_model.config.name_or_path
        self.hf: Any = AutoModelForCausalLM.from_pretrained(folder).eval().float()
        self.end = int(self.net.ids[0])

    @torch.no_grad()
    def run(self) -> Arrays:
        """Score the pairs one by one."""
        torch.manual_seed(SEED)
        score = self._compression if self.metric == "compression" else self._distinction
        columns = zip(*(score(i) for i in range(len(self.pairs))), strict=True)
        tests = _TESTS[self.metric]
        return {test: np.array(c) for test, c in zip(tests, columns, strict=True)}

    def _compression(self, i: int) -> tuple[float]:
        suffixes = self._suffixes(_row(self.pairs.prefixes1, i))
        refused = self._first_refused(_row(self.pairs.prefixes2, i), suffixes)
        return (float((refused < 0).all()),)

    def _distinction(self, i: int) -> tuple[float, float]:
        one, other = (_row(p, i) for p in (self.pairs.prefixes1, self.pairs.prefixes2))
        state1, state2 = self.pairs.states1[i : i + 1], self.pairs.states2[i : i + 1]
        suffixes = self._suffixes(one)
        refused = self._first_refused(other, suffixes)
        cut = {tuple(s[: r + 1].tolist()) for s, r in zip(suffixes, refused, strict=True) if r >= 0}
        good = [
            bool(self.world.accepts(state1, np.array([s])))
            and not bool(self.world.accepts(state2, np.array([s])))
            for s in cut
        ]
        true = boundary(self.world, state1, state2, DEPTH, published=True)
        strings = [s[:n] for s, n in zip(true.strings, true.lengths.tolist(), strict=True)]
        known = (self._first_refused(one, strings) < 0) & (self._first_refused(other, strings) >= 0)
        recall = float(known.mean()) if len(strings) else 1.0
        return (float(np.mean(good)) if good else 1.0), recall

    def _suffixes(self, prefix: Ids) -> list[Ids]:
        ids = self.net.ids[torch.as_tensor(prefix)][None]
        said = self.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            epsilon_cutoff=EPSILON,
            top_k=50,
            max_length=self.request.max_tokens,
            num_return_sequences=self.request.sampling.samples,
            eos_token_id=self.end,
            pad_token_id=self.end,
        )[:, len(prefix) :]
        words = torch.full((int(self.model.cfg.d_vocab),), PAD)
        words[self.net.ids] = torch.arange(len(self.net.ids))
        rows = words[said].numpy()
        ends = [np.flatnonzero(row == 0) for row in rows]
        return [row[: e[0] + 1] if len(e) else row for row, e in zip(rows, ends, strict=True)]

    def _first_refused(self, prefix: Ids, suffixes: list[Ids]) -> Ids:
        """Return where each suffix has its first word of probability at most epsilon; -1: none."""
        out = np.full(len(suffixes), -1, dtype=np.int64)
        for start in range(0, len(suffixes), _ROWS_AT_ONCE):
            some = suffixes[start : start + _ROWS_AT_ONCE]
            width = max(map(len, some))
            rows = np.stack([np.r_[prefix, s, np.zeros(width - len(s), np.int64)] for s in some])
            ids: Tensor = self.net.ids[torch.as_tensor(rows)]
            probs = torch.softmax(self.hf(ids).logits[:, len(prefix) - 1 : -1], dim=-1)
            p = probs.gather(-1, ids[:, len(prefix) :, None])[..., 0].numpy()
            for i, suffix in enumerate(some):
                refused = np.flatnonzero(p[i, : len(suffix)] <= EPSILON)
                out[start + i] = refused[0] if len(refused) else -1
        return out


def _row(prefixes: Ids, i: int) -> Ids:
    return prefixes[i][prefixes[i] != PAD]


CONTENDERS: dict[str, Callable[[str], Contender]] = {"mechprobe": Mechprobe, "hf generate": HFGenerate}
