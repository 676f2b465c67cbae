"""All tests of one call: the questions that every predictor is asked, and what it scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm.auto import tqdm

from mechprobe.provenance import Json
from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.metrics.dataset import Outcome
from mechprobe.worlds.metrics.journal import Journal
from mechprobe.worlds.metrics.judged import Judged
from mechprobe.worlds.metrics.next_word import Validity, next_token_validity
from mechprobe.worlds.metrics.pairs import Pairs
from mechprobe.worlds.metrics.request import Request
from mechprobe.worlds.metrics.scores import TESTS, Gathered, Scored, Test, gather, scored
from mechprobe.worlds.predictors.oracles import Oracle, noisy_oracle
from mechprobe.worlds.predictors.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Exam:
    """What every predictor of one call is asked.

    Attributes:
        world: What it should hold.
        request: Settings.
        same: Pairs of prefixes of one state.
        different: Pairs of two.
        walks: What the next-token test reads.
        journal: Where finished batches are kept.
        batch_size: Pairs at once.
        progress: Whether bars are shown.
    """

    world: World
    request: Request
    same: Pairs
    different: Pairs
    walks: Sequence[Ids]
    journal: Journal
    batch_size: int | None
    progress: bool

    def read(self) -> Json:
        """Return everything that predictors are asked about."""
        prefixes = [p.tolist() for x in (self.same, self.different) for p in (x.prefixes1, x.prefixes2)]
        return [self.world.digest(), prefixes, [walk.tolist() for walk in self.walks]]

    def outcome(self, key: str, predictor: Predictor) -> Outcome:
        """Put one predictor to all tests."""
        scores = self.scores(key, TESTS, predictor, self.request)
        return Outcome(predictor.name, self._validity(predictor), scores)

    def control(self, key: str, model: Outcome) -> Outcome:
        """Put the true automaton with a model's errors to all tests.

        Tests read different prefixes, and strings of different length behind them: each has an
        oracle of its own, with the errors that the model made in that test. It errs by pair, so
        that its rates are those asked for also where few prefixes are drawn again and again.
        """
        scores: dict[Test, Gathered] = {}
        for test in TESTS:
            scores |= self.scores(key, (test,), self._noisy(model.scores[test].judged), self.request)
        oracle = self._noisy(model.validity.judged)
        return Outcome(oracle.name, self._validity(oracle), scores)

    def _noisy(self, judged: Judged) -> Oracle:
        refused, accepted = np.nan_to_num(judged.rates).tolist()
        return replace(noisy_oracle(self.world, refused, accepted, self.request.seed), by_pair=True)

    def _validity(self, predictor: Predictor) -> Validity:
        rule, size = self.request.acceptance, self.batch_size
        return next_token_validity(predictor, self.world, self.walks, acceptance=rule, batch_size=size)

    def scores(
        self, key: str, tests: tuple[Test, ...], predictor: Predictor, request: Request, n: int | None = None
    ) -> dict[Test, Gathered]:
        """Return the scores of the first n pairs, from the journal where it has them."""
        out: dict[Test, Gathered] = {}
        for title, some, every in (
            ("compression", TESTS[:1], self.same),
            ("distinction", TESTS[1:], self.different),
        ):
            asked = tuple(test for test in tests if test in some)
            pairs = every if n is None else every.first(n)
            task = f"{key} {request.acceptance.label} {request.suffixes} {request.k}"
            parts = {test: list(self.journal.done(f"{task} {test}")) for test in asked}
            done = {test: _indices(found) for test, found in parts.items()}
            todo = scored(asked, predictor, self.world, pairs, request.sampling, self.batch_size, done)
            with tqdm(
                desc=f"{predictor.name}: {title}",
                total=len(pairs) * len(asked),
                initial=sum(map(len, done.values())),
                disable=not self.progress,
                leave=False,
            ) as bar:
                for test, part in todo:
                    self.journal.add(f"{task} {test}", part)
                    parts[test].append(part)
                    bar.update(len(part.index))
            out |= {test: gather(len(pairs), found) for test, found in parts.items()}
        return out


def _indices(parts: list[Scored]) -> Ids:
    return np.concatenate([np.zeros(0, dtype=np.int64), *[part.index for part in parts]])
