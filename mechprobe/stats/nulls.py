"""What chance alone scores when the best of many heads is taken, and which heads beat chance."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import bdtrc

from mechprobe.stats.choice import right_counts
from mechprobe.stats.permutation import exchange, permutation_scheme


def expected_best_by_chance(n_heads: int, n_examples: int, n_candidates: int = 2) -> float:
    r"""Return the accuracy that the best of ``n_heads`` guessing heads is expected to have.

    With :math:`F` the distribution function of Binomial(n, 1/c),

    .. math:: E[\max_h X_h] / n = \frac{1}{n} \sum_{x=0}^{n-1} \left(1 - F(x)^H\right)

    exactly, for heads that guess independently and right answers that are balanced over the c
    candidates. Heads of one model resemble each other, so it is a ceiling of what they reach by
    chance; where answers are not balanced it is none: of 71 % "yes" a head that always says so gets
    0.71. ``best_by_permutation`` takes heads and answers as they are.

    Args:
        n_heads: Heads among which the best is taken, at least 1.
        n_examples: Questions, at least 1.
        n_candidates: Answers to choose from, at least 2.

    Returns:
        Accuracy in (0, 1).

    Raises:
        ValueError: An argument is below its least value.

    Example:
        >>> round(expected_best_by_chance(1024, 100), 3)
        0.661

    References:
        David & Nagaraja, Order Statistics (3rd ed., 2003), chapters 2 and 3.
    """
    below = _all_heads_at_most(n_heads, n_examples, n_candidates)
    return float((1 - below[:-1]).sum() / n_examples)


def best_by_chance_quantile(
    n_heads: int, n_examples: int, n_candidates: int = 2, *, q: float = 0.95
) -> float:
    r"""Return the accuracy that the best guessing head stays at or below with probability ``q``.

    The smallest :math:`x / n` with :math:`F(x)^H \ge q`, for balanced answers; see
    ``expected_best_by_chance``.

    Args:
        n_heads: Heads among which the best is taken, at least 1.
        n_examples: Questions, at least 1.
        n_candidates: Answers to choose from, at least 2.
        q: Probability in (0, 1).

    Returns:
        Accuracy in [0, 1].

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> best_by_chance_quantile(1024, 100)
        0.69
    """
    if not 0 < q < 1:
        msg = f"q must lie between 0 and 1; got {q}."
        raise ValueError(msg)
    below = _all_heads_at_most(n_heads, n_examples, n_candidates)
    return float(np.searchsorted(below, q) / n_examples)


def best_by_permutation(
    decided: Int[np.ndarray, "example head"],
    answer: Int[np.ndarray, " example"],
    group: Int[np.ndarray, " example"],
    n_candidates: Int[np.ndarray, " example"],
    *,
    block: Int[np.ndarray, " example"] | None = None,
    n_permutations: int = 200,
    seed: int = 0,
) -> float:
    r"""Return the accuracy that the best of these heads is expected to have if none knows answers.

    .. math:: \frac{1}{B} \sum_b \max_h \mathrm{acc}(\hat y_h,\, y^{(b)})

    over random permutations of the answers. Decisions stay as they are, and with them how often a
    head gives each answer and how alike heads are; answers keep their frequencies and their groups.

    Args:
        decided: Index of a candidate.
        answer: Index of the right one.
        group: Which group an example belongs to.
        n_candidates: How many candidates an example has.
        block: Which block inside its group; each example by itself by default.
        n_permutations: B, at least 1.
        seed: Of the permutations.

    Returns:
        Accuracy in [0, 1]; NaN where the groups leave nothing to permute.

    Raises:
        ValueError: ``n_permutations`` is below 1.

    Example:
        >>> yes = np.ones((10, 3), int)
        >>> answer = np.arange(10) % 4 % 3 % 2
        >>> round(best_by_permutation(yes, answer, np.arange(10), np.full(10, 2)), 3)
        0.3

    References:
        Westfall & Young, Resampling-Based Multiple Testing (1993), chapter 2 (the maximum over
        tests under permutation).
    """
    if n_permutations < 1:
        msg = f"n_permutations must be at least 1; got {n_permutations}."
        raise ValueError(msg)
    swap = exchange(answer, group, n_candidates, permutation_scheme(answer, group, block), block)
    if swap.log10_relabellings == 0:
        return float("nan")
    labels = swap.permuted(n_permutations, np.random.default_rng(seed))
    return float(right_counts(decided, labels).max(1).mean() / len(answer))


def _all_heads_at_most(n_heads: int, n_examples: int, n_candidates: int) -> Float[np.ndarray, " n"]:
    """Return P(no head gets more than x right) for x = 0..n."""
    for name, value, least in (
        ("n_heads", n_heads, 1),
        ("n_examples", n_examples, 1),
        ("n_candidates", n_candidates, 2),
    ):
        if value < least:
            msg = f"{name} must be at least {least}; got {value}."
            raise ValueError(msg)
    x = np.arange(n_examples + 1.0)
    above = bdtrc(x, n_examples, 1 / n_candidates)
    # The logarithm of 1 - tiny is lost in double precision, but not that of log1p(-tiny).
    log_below = np.full(n_examples + 1, -np.inf)
    log_below[above < 1] = np.log1p(-above[above < 1])
    return np.exp(n_heads * log_below)


def discoveries(p: Float[np.ndarray, " head"], q: float = 0.05) -> Bool[np.ndarray, " head"]:
    r"""Return which p-values are small enough that at most a share ``q`` of the finds is false.

    Benjamini and Hochberg's step-up rule, :math:`p_{(i)} \le q\, i / H`; it holds for independent
    and for positively dependent tests.

    Args:
        p: One p-value per head, in [0, 1].
        q: False discovery rate, in (0, 1).

    Returns:
        True for the heads found.

    Raises:
        ValueError: ``q`` is out of its range.

    Example:
        >>> discoveries(np.array([0.001, 0.02, 0.8])).tolist()
        [True, True, False]

    References:
        Benjamini & Hochberg, Controlling the False Discovery Rate (1995), eq. 1.
    """
    if not 0 < q < 1:
        msg = f"the false discovery rate must lie between 0 and 1; got {q}."
        raise ValueError(msg)
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p) <= q)
