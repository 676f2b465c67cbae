"""States as units: how many there are, which share was drawn, and intervals that know it."""

from typing import Any

import numpy as np


def test_few_states_all_drawn_cover_what_is_true() -> None:
    """A world of a few states: the mean over its states and pairs, for one predictor, many draws.

    The reference is a run of 6,000 pairs.
    """
    from mechprobe.worlds import Counter, evaluate_world_model, noisy_oracle

    world = Counter(2)
    model = noisy_oracle(world, 0.2, 0.1)
    asked: dict[str, Any] = {"suffixes": 2, "k": 2, "baselines": False, "progress": False}
    name, runs = "distinction_precision", 60
    truth = float(evaluate_world_model(model, world, n=6000, **asked).data[name].sel(model="given"))
    held = 0
    for seed in range(1, runs + 1):
        data = evaluate_world_model(model, world, n=60, seed=seed, **asked).data.sel(model="given")
        assert (data["states_sampled"] == 1).all()
        held += float(data[f"{name}_low"]) <= truth <= float(data[f"{name}_high"])
    # Three standard errors of 60 draws at 0.95 are 0.084.
    assert held / runs > 0.95 - 0.084
    assert 0.2 < truth < 0.99


def test_states_that_can_be_drawn_are_counted() -> None:
    """Against many draws."""
    from mechprobe.worlds import Counter, Dyck, StreetMap

    rng = np.random.default_rng(0)
    for world in (Counter(3), Dyck(2, 3), StreetMap.grid(3, seed=0)):
        for published in (False, True):
            drawn = np.unique(world.sample_states(rng, 5000, published=published), axis=0)
            assert len(drawn) == world.usable_states(published=published)


def test_pairs_say_which_share_of_the_states_they_have() -> None:
    from mechprobe.worlds import Counter, Othello
    from mechprobe.worlds.metrics.pairs import draw_different, draw_same, pairs_of

    rng, world = np.random.default_rng(0), Counter(9)
    for published in (False, True):
        same = draw_same(world, 4, rng, published=published)
        different = draw_different(world, 300, rng, published=published)
        assert same.sampled(published) == len(np.unique(same.states1)) / world.usable_states()
        # Where unequal states are units together, nobody counts how many there are.
        assert different.sampled(published) == (0 if published else 1)
        assert different.first(2).sampled(False) <= 2 / world.usable_states()
    given = pairs_of(world, world.random_walks(20, rng), 500, rng)
    assert [p.sampled(False) for p in given] == [1, 1]
    assert draw_same(Othello(pool=3), 4, rng, published=False).sampled(False) == 0
