"""Choose a head on calibration examples, test it on others, and ask what chance would score.

Example:
    >>> rng = np.random.default_rng(0)
    >>> answer = rng.integers(0, 2, 80)
    >>> score = rng.normal(size=(80, 2, 6))
    >>> score[np.arange(80), answer, 4] += 3.0
    >>> found = select_heads(score, answer, np.arange(80), calibration=40)
    >>> found.chosen.head[0].tolist(), found.p_value < 0.01
    ([4], True)
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mechprobe.stats.choice import METHODS, Chosen, Method, highest, label_free_quality, predict, right_counts
from mechprobe.stats.decisions import Readings, accuracy, check_scores, readings
from mechprobe.stats.head_p import HeadP, head_p_values, permutation_p
from mechprobe.stats.permutation import Exchange, Scheme, exchange, permutation_scheme
from mechprobe.stats.split import Calibration, group_weights, split_groups


@dataclass(frozen=True, slots=True)
class Selected:
    """What a selection found, and what it would have found by chance.

    Attributes:
        heads: Scores, decisions and the split.
        chosen: The heads, in one draw.
        decided: What they decide on the test examples.
        right: Whether that is right.
        accuracy_calibration: Of every head, in the direction that the calibration set prefers.
        accuracy_test: The same on the test examples.
        turned: Heads that the calibration set prefers inverted; none unless that is allowed.
        picked: Share of resampled calibration sets (groups drawn with replacement) that choose
            the head, among its first k.
        null_accuracy: Test accuracy of the whole selection repeated on permuted labels.
        null_best: Highest calibration accuracy of any head on the same permuted labels.
        p_value: (1 + permutations at least as accurate on the test set) / (1 + permutations).
        p_mid: The same with half of those that are equally accurate, the given labels among them.
        p_least: No labels of these groups could give a smaller p.
        log10_relabellings: How many labellings there are: of all examples, and of the test set.
        by_head: p-values of each head by itself, on all examples.
        scheme: How labels were permuted.
    """

    heads: Readings
    chosen: Chosen
    decided: Int[np.ndarray, " test"]
    right: Bool[np.ndarray, " test"]
    accuracy_calibration: Float[np.ndarray, " head"]
    accuracy_test: Float[np.ndarray, " head"]
    turned: Bool[np.ndarray, " head"]
    picked: Float[np.ndarray, " head"]
    null_accuracy: Float[np.ndarray, " permutation"]
    null_best: Float[np.ndarray, " permutation"]
    p_value: float
    p_mid: float
    p_least: float
    log10_relabellings: tuple[float, float]
    by_head: HeadP
    scheme: Scheme


@dataclass(frozen=True, slots=True)
class _Rule:
    """How heads are chosen from counts of right decisions."""

    method: Method
    k: int
    flip: bool
    is_attention: bool

    def choose(
        self,
        heads: Readings,
        labels: Int[np.ndarray, "draw chosen"],
        weights: Float[np.ndarray, "draw chosen"] | None = None,
    ) -> tuple[Chosen, Float[np.ndarray, " draw"]]:
        """Return the heads of each draw and the highest count of any head."""
        index = heads.split.calibration
        upright = right_counts(heads.upright[index], labels, weights)
        inverted = right_counts(heads.inverted[index], labels, weights) if self.flip else None
        best = upright.max(1) if inverted is None else np.maximum(upright, inverted).max(1)
        if self.method != "unsupervised":
            return highest(upright, inverted, self.k), best
        if weights is None:
            weights = np.ones((1, len(index)))
        quality = label_free_quality(heads, weights, is_attention=self.is_attention)
        chosen = highest(quality, None, self.k)
        n_draws = len(labels)
        return Chosen(*(np.broadcast_to(a, (n_draws, self.k)) for a in chosen)), best


def select_heads(
    score: Float[np.ndarray, "example candidate head"],
    answer: Int[np.ndarray, " example"],
    group: Int[np.ndarray, " example"],
    *,
    block: Int[np.ndarray, " example"] | None = None,
    calibration: Calibration = 0.5,
    method: Method = "best",
    k: int = 5,
    flip: bool = False,
    centre: bool = False,
    is_attention: bool = False,
    exists: Bool[np.ndarray, "example candidate"] | None = None,
    seed: int = 0,
    n_permutations: int = 1000,
    n_bootstrap: int = 1000,
) -> Selected:
    r"""Choose heads on one part of the examples and test them on the rest.

    The permutation test repeats the whole selection: labels of both parts are permuted, heads
    chosen anew (inverted ones too), and tested on the permuted test labels,

    .. math:: p = \frac{1 + \#\{b : A_b \ge A\}}{1 + B}

    and, nearer to nominal where accuracies are few, with half weight to those that are equal,

    .. math:: p_\mathrm{mid} = \frac{\#\{b : A_b > A\} + (1 + \#\{b : A_b = A\}) / 2}{1 + B}

    Centring and z-scoring see no label, and so are the same in every permutation. Each head's own
    p-value is for its accuracy over *all* examples, since nothing was chosen by them; B permutations
    cannot resolve what a correction for many heads needs, so it is exact where that is possible (see
    ``head_p_values``).

    With R labellings of these groups that differ no p can be below 1/R, and a warning says so where
    that is above 0.05.

    Args:
        score: NaN where an example has fewer candidates.
        answer: Index of the right candidate.
        group: Which group (theory, context, passage) an example belongs to; never cut.
        block: Which block inside its group (see ``tasks.Design``); each example by itself by default.
        calibration: Number of examples, share of them, or their indices.
        method: ``"best"`` (highest calibration accuracy; of equals the lowest layer, then head),
            ``"top_k_vote"`` (majority of the k best), ``"zscore_sum"`` (sum of the k best heads'
            scores in calibration standard deviations) or ``"unsupervised"`` (no labels; see
            ``label_free_quality``).
        k: Heads of a vote or sum; cut to as many as there are.
        flip: Heads that are wrong more often than right may be inverted.
        centre: Take away each head's calibration median of each candidate.
        is_attention: Scores are attention weights (only ``"unsupervised"`` asks).
        exists: Which candidates exist; without it, those that any head has a score of.
        seed: Of split, permutations and resamples.
        n_permutations: B, at least 1.
        n_bootstrap: Resampled calibration sets for ``picked``, at least 1.

    Returns:
        The heads, how they did, and how they would have done by chance.

    Raises:
        ValueError: Scores that cannot be compared, an unknown method, ``flip`` without labels, a
            calibration set that is too large, cuts a group or has one answer only, or a count
            below 1.

    References:
        Tulchinskii et al., Listening to the Wise Few (2024), p. 4 (selection of one head);
        Phipson & Smyth, Permutation P-values Should Never Be Zero (2010);
        Lancaster, Significance Tests in Discrete Distributions (1961) (mid-p).
    """
    _check_request(method, k, flip, n_permutations, n_bootstrap)
    check_scores(score, answer, exists)
    split = split_groups(group, calibration, seed=seed)
    check_classes(answer[split.calibration], method)
    heads = readings(score, group, split, centre=centre)
    rule = _rule(method, k, flip, is_attention, heads)
    rng = np.random.default_rng(seed)
    chosen, _ = rule.choose(heads, answer[None, split.calibration])
    decided = predict(heads, split.test, chosen, method)[0]
    turned, on_calibration, on_test = _accuracies(heads, answer, flip)
    right = decided == answer[split.test]
    block = np.arange(len(answer)) if block is None else block
    scheme = permutation_scheme(answer, group, block)
    swaps = [exchange(answer[p], group[p], heads.n_candidates[p], scheme, block[p]) for p in split]
    labels = _permuted(heads, answer, swaps, n_permutations, rng)
    null_right, null_best = _null(heads, rule, labels)
    # Counts, not shares: equal shares of different roundings would not compare as equal.
    p, p_mid = permutation_p(null_right[:, None], right.sum()[None])
    by_calibration, by_test = (swap.log10_relabellings for swap in swaps)
    # A choice without labels is the same under all labels of the calibration set.
    least = 10 ** -(by_test if method == "unsupervised" else by_calibration + by_test)
    _warn_of_few(least, scheme)
    directions = [heads.upright, heads.inverted] if flip else [heads.upright]
    return Selected(
        heads=heads,
        chosen=chosen,
        decided=decided,
        right=right,
        accuracy_calibration=on_calibration,
        accuracy_test=on_test,
        turned=turned,
        picked=_stability(heads, rule, answer, n_bootstrap, rng),
        null_accuracy=null_right / len(split.test),
        null_best=null_best / len(split.calibration),
        p_value=float(p[0]),
        p_mid=float(p_mid[0]),
        p_least=max(least, 1 / (1 + n_permutations)),
        log10_relabellings=(by_calibration + by_test, by_test),
        by_head=head_p_values(directions, answer, list(zip(split, swaps, strict=True)), labels),
        scheme=scheme,
    )


def choose_heads(
    heads: Readings,
    answer: Int[np.ndarray, " example"],
    *,
    method: Method = "best",
    k: int = 5,
    flip: bool = False,
    is_attention: bool = False,
) -> Chosen:
    """Choose heads on the calibration examples and do nothing else.

    Args:
        heads: From ``readings``.
        answer: Index of the right candidate.
        method: As for ``select_heads``.
        k: Heads of a vote or sum; cut to as many as there are.
        flip: Heads that are wrong more often than right may be inverted.
        is_attention: Scores are attention weights.

    Returns:
        The heads, in one draw.

    Raises:
        ValueError: An unknown method, ``flip`` without labels, ``k`` below 1, or a calibration set
            with one answer only.

    Example:
        >>> score = np.array([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]] * 2)
        >>> heads = readings(score, np.arange(4), split_groups(np.arange(4), [0, 1]))
        >>> choose_heads(heads, np.array([0, 1, 0, 1])).head.tolist()
        [[1]]
    """
    _check_request(method, k, flip, 1, 1)
    labels = answer[None, heads.split.calibration]
    check_classes(labels[0], method)
    return _rule(method, k, flip, is_attention, heads).choose(heads, labels)[0]


def _rule(method: Method, k: int, flip: bool, is_attention: bool, heads: Readings) -> _Rule:
    wide = method in ("top_k_vote", "zscore_sum")
    return _Rule(method, min(k, heads.score.shape[2]) if wide else 1, flip, is_attention)


def _check_request(method: str, k: int, flip: bool, n_permutations: int, n_bootstrap: int) -> None:
    if method not in METHODS:
        msg = f"there is no selection method {method!r}; the methods are {', '.join(METHODS)}."
        raise ValueError(msg)
    if method == "unsupervised" and flip:
        msg = "without labels nobody can tell which heads to invert; drop flip=True."
        raise ValueError(msg)
    for name, value in (("k", k), ("n_permutations", n_permutations), ("n_bootstrap", n_bootstrap)):
        if value < 1:
            msg = f"{name} must be at least 1; got {value}."
            raise ValueError(msg)


def check_classes(answer: Int[np.ndarray, " calibration"], method: str) -> None:
    """Refuse a calibration set on which a head that always says the same is perfect.

    Args:
        answer: Right candidates of the calibration examples.
        method: Method of selection; ``"unsupervised"`` needs no labels.

    Raises:
        ValueError: All answers are the same.
    """
    if method != "unsupervised" and len(np.unique(answer)) < 2:
        msg = (
            f"all {len(answer)} calibration examples have the answer {int(answer[0])}, so a head "
            "that always says so would be the best; take more examples, or another seed."
        )
        raise ValueError(msg)


def _accuracies(
    heads: Readings, answer: Int[np.ndarray, " example"], flip: bool
) -> tuple[Bool[np.ndarray, " head"], Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
    """Return which heads to invert, and accuracies on both parts in that direction."""
    both = [
        (accuracy(heads.upright[part], answer[part]), accuracy(heads.inverted[part], answer[part]))
        for part in heads.split
    ]
    turned = both[0][1] > both[0][0] if flip else np.zeros(len(both[0][0]), bool)
    calibration, test = (np.where(turned, inverted, upright) for upright, inverted in both)
    return turned, calibration, test


def _permuted(
    heads: Readings,
    answer: Int[np.ndarray, " example"],
    swaps: list[Exchange],
    n_permutations: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "permutation example"]:
    """Permute labels inside the calibration set and inside the test set."""
    labels = np.empty((n_permutations, len(answer)), answer.dtype)
    for part, swap in zip(heads.split, swaps, strict=True):
        labels[:, part] = swap.permuted(n_permutations, rng)
    return labels


def _warn_of_few(least: float, scheme: Scheme) -> None:
    if least > 0.05 * (1 + 1e-9):
        msg = (
            f"permuting labels ({scheme}) gives few labellings: {round(1 / least)}. No p-value can be "
            f"below {least:.2g}, however good a head is; take more groups, or groups that are alike."
        )
        warnings.warn(msg, UserWarning, stacklevel=4)


def _null(
    heads: Readings, rule: _Rule, labels: Int[np.ndarray, "permutation example"]
) -> tuple[Int[np.ndarray, " permutation"], Float[np.ndarray, " permutation"]]:
    """Return right test decisions of the selection under permuted labels, and the best count."""
    chosen, best = rule.choose(heads, labels[:, heads.split.calibration])
    decided = predict(heads, heads.split.test, chosen, rule.method)
    return (decided == labels[:, heads.split.test]).sum(1), best.astype(np.float64)


def _stability(
    heads: Readings,
    rule: _Rule,
    answer: Int[np.ndarray, " example"],
    n_bootstrap: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " head"]:
    calibration = heads.split.calibration
    codes = np.unique(heads.group[calibration], return_inverse=True)[1]
    weights = group_weights(int(codes.max()) + 1, n_bootstrap, rng)[:, codes]
    labels = np.broadcast_to(answer[calibration], weights.shape)
    chosen, _ = rule.choose(heads, labels, weights)
    return np.bincount(chosen.head.ravel(), minlength=heads.upright.shape[1]) / n_bootstrap
