"""Exact laws: equal to enumeration, to rational arithmetic and to other people's, and valid p-values."""

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations, product
from math import comb, factorial
from typing import Any

import numpy as np
import pytest


def by_enumeration(labels: list[int], decided: list[int]) -> Any:
    """Return the law of the matches over all orders of the labels."""
    counts = Counter(sum(map(int.__eq__, order, decided)) for order in permutations(labels))
    total = sum(counts.values())
    return [counts[t] / total for t in range(len(labels) + 1)]


def by_fractions(labels: list[int], decided: list[int]) -> Any:
    """Return the law of the matches from factorial moments, in rational numbers."""
    n = sum(labels)
    rooks = [Fraction(1)]
    for r, s in zip(labels, decided, strict=True):
        new = [Fraction(0)] * (len(rooks) + min(r, s))
        for i, a in enumerate(rooks):
            for j in range(min(r, s) + 1):
                new[i + j] += a * comb(r, j) * comb(s, j) * factorial(j)
        rooks = new
    moments = [rook * factorial(n - j) / factorial(n) for j, rook in enumerate(rooks)]
    return [
        float(sum((-1) ** (j - t) * comb(j, t) * moments[j] for j in range(t, len(moments))))
        for t in range(len(moments))
    ]


def spread(counts: list[int]) -> list[int]:
    """Return as many of each index as counted."""
    return [kind for kind, count in enumerate(counts) for _ in range(count)]


def padded(law: Any, n: int) -> Any:
    """Return the only row of a law, as long as ``n`` counts."""
    return np.pad(law.share[0], (0, max(0, n - law.share.shape[1])))[:n]


@pytest.mark.parametrize("labels", [[2, 2, 2], [1, 2, 4], [3, 3, 1], [1, 1, 2, 3], [2, 5], [4]])
def test_matches_are_those_of_all_orders(labels: list[int]) -> None:
    from mechprobe.stats import matches_law

    n = sum(labels)
    for decided in product(range(n + 1), repeat=len(labels)):
        if sum(decided) <= n and max(decided) >= 2:
            said = spread(list(decided)) + [-1] * (n - sum(decided))
            if n > 6 and np.random.default_rng(sum(decided)).random() > 0.3:
                continue
            found = matches_law(np.array(labels), np.array([decided]), n)
            expected = by_enumeration(spread(labels), said)
            np.testing.assert_allclose(padded(found, n + 1), expected, atol=1e-13)


@pytest.mark.parametrize(
    ("labels", "decided"),
    [
        ([34, 33, 33], [30, 50, 20]),
        ([34, 33, 33], [34, 33, 33]),
        ([25, 25, 25, 25], [10, 20, 30, 30]),
        ([90, 20, 10], [100, 15, 5]),
        ([4] * 10 + [5] * 12, [0, 9, 3, 4, 8, 1, 2, 4, 4, 6, 20] + [3, 4] * 5 + [2]),
        ([60, 25, 20], [4, 1, 100]),
        ([70, 69], [3, 100]),
    ],
)
def test_matches_of_many_examples_are_those_of_rational_arithmetic(
    labels: list[int], decided: list[int]
) -> None:
    from mechprobe.stats import matches_law

    n = sum(labels)
    found = matches_law(np.array(labels), np.array([decided]), n)
    expected = by_fractions(labels, decided)
    got = padded(found, len(expected))
    np.testing.assert_allclose(got, expected, atol=1e-13)
    assert found.error[0] < 1e-9
    tails = [abs(got[t:].sum() - sum(expected[t:])) for t in range(len(expected))]
    assert max(tails) <= max(found.error[0], 1e-15)


def test_what_cancels_too_much_is_done_in_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.stats import exact

    done = []
    integers = exact._in_integers

    def counted(*args: Any) -> Any:
        done.append(args)
        return integers(*args)

    monkeypatch.setattr(exact, "_in_integers", counted)
    labels, decided = np.array([140, 40, 20]), np.array([[150, 30, 20], [60, 70, 70]])
    found = exact.matches_law(labels, decided, 200)
    assert len(done) == 1
    for i in range(2):
        expected = by_fractions(labels.tolist(), decided[i].tolist())
        np.testing.assert_allclose(found.share[i, : len(expected)], expected, atol=1e-13)


def test_two_kinds_are_hypergeometric() -> None:
    from scipy.stats import hypergeom

    from mechprobe.stats import matches_law

    for first, said in ((60, 75), (10, 140), (149, 3), (75, 0)):
        found = matches_law(np.array([first, 150 - first]), np.array([[said, 150 - said]]), 150)
        both = np.arange(max(0, first + said - 150), min(first, said) + 1)
        expected = np.zeros(151)
        expected[2 * both + 150 - first - said] = hypergeom.pmf(both, 150, first, said)
        np.testing.assert_allclose(found.share[0], expected, rtol=1e-11)


def test_a_tail_of_twenty_four_options_is_no_normal_one() -> None:
    from mechprobe.stats import matches_law

    # A normal tail at 14 of 100 is 1e-6.
    labels = np.bincount(np.arange(100) % 24)
    p, mid = matches_law(labels, labels[None], 100).tails(np.array([14]))
    expected = by_fractions(labels.tolist(), labels.tolist())
    assert p[0] == pytest.approx(sum(expected[14:]), rel=1e-6) == pytest.approx(8.635e-5, rel=1e-3)
    assert mid[0] == pytest.approx(sum(expected[15:]) + expected[14] / 2, rel=1e-6)


def orders(kinds: list[int], blocks: list[int]) -> Iterator[tuple[int, ...]]:
    """Return all ways to give the kinds to units of the same block."""
    for order in permutations(range(len(kinds))):
        if all(blocks[i] == blocks[j] for i, j in enumerate(order)):
            yield order


@pytest.mark.parametrize("n_labels", [2, 3])
def test_groups_of_unequal_sizes_exchange_one_label(n_labels: int) -> None:
    from mechprobe.stats import head_p_values
    from mechprobe.stats.permutation import exchange

    rng = np.random.default_rng(n_labels)
    sizes = [1, 3, 2, 2, 4, 2, 2]
    group = np.repeat(np.arange(7), sizes)
    answer = np.repeat([0, 1, n_labels - 1, 1, 0, 1, 0], sizes)
    answer[[-1, -3]] = [1, 0]
    swap = exchange(answer, group, np.full(16, 3), "whole groups")
    # The last two groups are mixed, of the same size; the other five are each of one label.
    assert len(np.unique(swap.pool[:5])) == len(np.unique(swap.pool[5:])) == 1
    labellings = set()
    for order in orders(swap.kind.tolist(), swap.pool.tolist()):
        given = [
            answer[group == order[g]][member if g > 4 else 0] for g in range(7) for member in range(sizes[g])
        ]
        labellings.add(tuple(given))
    assert 10**swap.log10_relabellings == pytest.approx(len(labellings))
    drawn = swap.permuted(3000, rng)
    assert {tuple(row) for row in drawn.tolist()} == labellings
    decided = rng.integers(0, 3, (16, 6))
    decided[:, 0] = answer
    found = head_p_values([decided], answer, [(np.arange(16), swap)], drawn)
    assert found.exact
    counts = (np.array(sorted(labellings))[:, :, None] == decided).sum(1)
    count = (decided == answer[:, None]).sum(0)
    np.testing.assert_allclose(found.p, (counts >= count).mean(0))
    mid = ((counts > count) + (counts == count) / 2).mean(0)
    np.testing.assert_allclose(found.mid, mid)
    assert found.p[0] == pytest.approx(1 / len(labellings))


def test_labels_stay_where_there_is_a_candidate_for_them() -> None:
    from mechprobe.stats.permutation import exchange

    group = np.repeat(np.arange(6), [2, 3, 2, 3, 2, 1])
    n_candidates = np.where(group < 3, 2, 4)
    n_candidates[-2] = 2
    answer = np.repeat([0, 1, 0, 3, 1, 2], [2, 3, 2, 3, 2, 1])
    swap = exchange(answer, group, n_candidates, "whole groups")
    labels = swap.permuted(200, np.random.default_rng(0))
    assert (labels < n_candidates).all()
    # Group 4 has two and four candidates, and no group is like it.
    assert (labels[:, group == 4] == 1).all()
    assert len(np.unique(labels, axis=0)) == round(10**swap.log10_relabellings) == 3 * 2


def test_laws_of_parts_and_blocks_are_convolved() -> None:
    from mechprobe.stats import head_p_values
    from mechprobe.stats.permutation import exchange

    rng = np.random.default_rng(4)
    answer, n_candidates = np.array([0, 1, 1, 0, 0, 1, 2, 0, 2, 1]), np.array([2] * 4 + [3] * 6)
    parts = [np.array([0, 1, 4, 5, 6]), np.array([2, 3, 7, 8, 9])]
    decided = rng.integers(0, n_candidates[:, None], (10, 8))
    alone = np.arange(10)
    swaps = [exchange(answer[p], alone[p], n_candidates[p], "examples") for p in parts]
    found = head_p_values([decided], answer, list(zip(parts, swaps, strict=True)), answer[None])
    orders_ = product(*map(permutations, ([0, 1], [2, 3], [4, 5, 6], [7, 8, 9])))
    rows = [answer[[*one, *two, *three, *four]] for one, two, three, four in orders_]
    counts = (np.array(rows)[:, :, None] == decided).sum(1)
    count = (decided == answer[:, None]).sum(0)
    np.testing.assert_allclose(found.p, (counts >= count).mean(0), atol=1e-11)


def test_many_kinds_of_whole_groups_are_counted_by_permutations() -> None:
    from mechprobe.stats import head_p_values
    from mechprobe.stats.permutation import exchange

    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), rng.integers(2, 5, 60))
    answer = (np.arange(60) % 6)[group]
    swap = exchange(answer, group, np.full(len(group), 6), "whole groups")
    decided = rng.integers(0, 6, (len(group), 3))
    decided[:, 0] = answer
    labels = swap.permuted(999, rng)
    found = head_p_values([decided], answer, [(np.arange(len(group)), swap)], labels)
    assert not found.exact
    assert found.p[0] == 0.001
    null = (labels[:, :, None] == decided).sum(1)
    count = (decided == answer[:, None]).sum(0)
    np.testing.assert_allclose(found.p, (1 + (null >= count).sum(0)) / 1000)


def test_units_that_all_have_one_label() -> None:
    """Nothing to exchange: the count is what it is."""
    from mechprobe.stats import units_law

    law = units_law(np.array([[[2], [0], [3]]]), np.array([3]))
    assert law.share.tolist() == [[0, 0, 0, 0, 0, 1]]
