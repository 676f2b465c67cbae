"""What the tests read: pairs of prefixes, and whole sequences."""

from collections.abc import Sequence
from typing import Literal

from mechprobe.provenance import digest_json
from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.metrics.pairs import Pairs, draw_different, draw_same, pairs_of
from mechprobe.worlds.metrics.request import Request
from mechprobe.worlds.predictors.policy import own_sequences
from mechprobe.worlds.predictors.predictor import Predictor

PrefixKind = Literal["random_walk", "on_policy"]
# Fewer of a model's own sequences may meet in no state, or always in the same.
OWN_SEQUENCES = 60
# Of the next-token test, at most, where none are given.
HELD_OUT_SEQUENCES = 1000


def drawn_pairs(
    predictor: Predictor, world: World, request: Request, prefixes: PrefixKind | str | Sequence[Ids]
) -> tuple[Pairs, Pairs]:
    """Return pairs of prefixes of one state, and of two.

    Raises:
        ValueError: An unknown kind of prefixes, or no pair is left.
    """
    rng = request.rng(0)
    if isinstance(prefixes, str) and prefixes == "random_walk":
        same = draw_same(world, request.n, rng, published=request.published)
        different = draw_different(world, request.n, rng, published=request.published)
    elif isinstance(prefixes, str) and prefixes == "on_policy":
        own = own_sequences(
            predictor,
            world,
            max(request.n, OWN_SEQUENCES),
            request.acceptance,
            seed=request.seed,
            max_tokens=world.max_length,
        )
        same, different = pairs_of(world, own, request.n, rng)
    elif isinstance(prefixes, str):
        msg = (
            f"there are no prefixes {prefixes!r}; pass 'random_walk', 'on_policy', or sequences "
            "of ids whose beginnings are to be used."
        )
        raise ValueError(msg)
    else:
        same, different = pairs_of(world, list(prefixes), request.n, rng)
    return same.require("compression"), different.require("distinction")


def named(sequences: str | Sequence[Ids] | None) -> str | None:
    """Return what to record of sequences: how many, and their digest."""
    if sequences is None or isinstance(sequences, str):
        return sequences
    return f"{len(sequences)} sequences, sha256 {digest_json([s.tolist() for s in sequences])}"


def held_out_walks(world: World, request: Request, given: Sequence[Ids] | None) -> list[Ids]:
    """Return what the next-token test reads: the given sequences, or random walks."""
    if given is not None:
        return list(given)
    return world.random_walks(min(request.n, HELD_OUT_SEQUENCES), request.rng(1))
