"""The exact law of how often a head is right when labels are permuted among exchangeable units."""

from functools import lru_cache
from math import comb, factorial
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Int
from scipy.linalg import eigh_tridiagonal
from scipy.special import gammaln

# Probabilities below this are left out; they are below the rounding of those that are kept.
_NOTHING = 1e-18
# Rounding of a probability per unit of cancellation, and the most of it that is put up with.
_ROUNDING, _CANCELLATION = 2e-13, 1e3
# Weights (their log) that could not be shared out among the kinds without running under.
_TINY = -600
# Complex numbers held at once.
_ROOM = 2**20


class Law(NamedTuple):
    """Probabilities of counts, of several heads.

    Attributes:
        share: Probability of every count from 0 on.
        error: What any sum of them may be wrong by.
    """

    share: Float[np.ndarray, "head count"]
    error: Float[np.ndarray, " head"]

    def plus(self, other: "Law") -> "Law":
        """Return the law of the sum of two independent counts."""
        a, b = sorted((self.share, other.share), key=lambda share: share.shape[1])
        share = np.zeros((len(a), a.shape[1] + b.shape[1] - 1))
        for i in range(a.shape[1]):
            share[:, i : i + b.shape[1]] += a[:, i : i + 1] * b
        return Law(share, self.error + other.error)

    def tails(
        self, count: Int[np.ndarray, " head"]
    ) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
        r"""Return :math:`P(T \ge t)`, not below its error, and :math:`P(T > t) + P(T = t) / 2`."""
        above = np.cumsum(self.share[:, ::-1], axis=1)[:, ::-1]
        above = np.concatenate([above, np.zeros((len(above), 1))], axis=1)
        row = np.arange(len(count))
        least, more = above[row, count], above[row, count + 1]
        return np.minimum(1, least + self.error), np.minimum(1, (least + more) / 2 + self.error)


def matches_law(labels: Int[np.ndarray, " kind"], decided: Int[np.ndarray, "head kind"], n: int) -> Law:
    r"""Return the law of the number of matches between permuted labels and fixed decisions.

    Of ``n`` examples :math:`r_k` have label k and :math:`s_k` the decision k. With the rook numbers
    :math:`\rho_j` of the matching cells, the generating function of the matches T is

    .. math:: E[z^T] = \sum_j \rho_j \frac{(n-j)!}{n!} (z-1)^j
              = E_x \prod_k \sum_j \binom{r_k}{j} \binom{s_k}{j} j! \left(\frac{z-1}{x}\right)^j

    for x of Gamma(n + 1). The sum over j loses all digits; the mean over x does not: it is a finite
    sum of Gauss and Radau's, exact for these polynomials in 1/x, and z runs over roots of unity.
    What cancels there is measured, and where it is too much, the sum over j is done in integers.
    With two kinds and no other decision the law is hypergeometric.

    Args:
        labels: How many examples have each label; all at least 1.
        decided: How many each head decides so; other decisions match no label.
        n: Examples, the sum of ``labels``.

    Returns:
        The law of every head.

    Example:
        >>> matches_law(np.array([2, 2]), np.array([[2, 2]]), 4).share.round(3).tolist()
        [[0.167, 0.0, 0.667, 0.0, 0.167]]

    References:
        Riordan, An Introduction to Combinatorial Analysis (1958), chapters 7 and 8 (rook numbers);
        Barton, The Matching Distributions (1958); Golub, Some Modified Matrix Eigenvalue Problems
        (1973), section 7 (Gauss-Radau).
    """
    # Kinds of equally many labels are alike, so that many heads share a law.
    pairs = np.sort(labels * (n + 1) + decided, axis=1)
    rows, which = np.unique(pairs, axis=0, return_inverse=True)
    of_kind, decided = rows[0] // (n + 1), rows % (n + 1)
    if len(labels) == 1:
        law = Law(np.eye(n + 1)[decided[:, 0]], np.zeros(len(rows)))
    elif len(labels) == 2 and (decided.sum(1) == n).all():
        law = _hypergeometric(int(of_kind[0]), decided[:, 0], n)
    else:
        law = _by_quadrature(of_kind, decided, n)
    which = which.reshape(-1)
    return Law(law.share[which], law.error[which])


def _hypergeometric(first: int, decided: Int[np.ndarray, " head"], n: int) -> Law:
    right = np.arange(first + 1)
    s = decided[:, None]
    log = gammaln(first + 1) + gammaln(n - first + 1) + gammaln(s + 1) + gammaln(n - s + 1) - gammaln(n + 1)
    parts = (right + 0 * s, first - right + 0 * s, s - right, n - first - s + right)
    possible = np.minimum(*parts[2:]) >= 0
    log = log - sum(gammaln(np.maximum(part, 0) + 1) for part in parts)
    share = np.zeros((len(decided), n + 1))
    head, k = np.nonzero(possible)
    share[head, (parts[0] + parts[3])[head, k]] = np.exp(log[head, k])
    return Law(share, np.zeros(len(decided)))


def _by_quadrature(labels: Int[np.ndarray, " kind"], decided: Int[np.ndarray, "head kind"], n: int) -> Law:
    cells, most = int((decided @ labels).max()), int(np.minimum(labels, decided).sum(1).max())
    j = np.arange(most + 1)
    # An upper bound of E[binomial(T, j)]: rook numbers without two rooks in one line are fewer.
    log = j * np.log(max(cells, 1)) - gammaln(j + 1) + gammaln(n - j + 1) - gammaln(n + 1)
    n_counts = int(np.flatnonzero(log > np.log(_NOTHING)).max()) + 1
    degree = int(np.flatnonzero(log + j * np.log(2) > np.log(_NOTHING / n)).max())
    y, log_weight = _nodes(n, min(degree // 2 + 1, (n + 1) // 2))
    pairs = [_Pairs.of(int(r), s) for r, s in zip(labels, decided.T, strict=True)]
    needed = log_weight + sum(pair.bound(y) for pair in pairs) > np.log(_NOTHING / n)
    tiny = log_weight < _TINY
    known = needed.any(0) & ~tiny
    z = np.exp(2j * np.pi * np.arange(n_counts // 2 + 1) / n_counts)
    # What runs over is no number of a size, and so done in integers.
    with np.errstate(over="ignore", invalid="ignore"):
        mean, size = _means(pairs, y[known], log_weight[known], z)
    share = np.zeros((len(decided), most + 1))
    usable = (size <= _CANCELLATION) & ~needed[:, tiny].any(1)
    share[usable, :n_counts] = np.maximum(0, np.fft.irfft(mean[usable].conj(), n_counts))
    # Where n is even, its own power is beyond the quadrature.
    highest = gammaln(labels + 1).sum() - gammaln(n + 1) + n * np.log(2) > np.log(_NOTHING / n)
    usable &= ~(highest & (decided == labels).all(1))
    for i in np.flatnonzero(~usable):
        share[i] = _in_integers(labels.tolist(), decided[i].tolist(), n, most)
    return Law(share, np.where(usable, _ROUNDING * size, 0))


class _Pairs(NamedTuple):
    """Rook polynomials of one kind: as many rows as labels, as many columns as a head's decisions.

    That of r rows and s columns is prod_i (1 + w_i v), where w are the roots of the Laguerre
    polynomial of degree min(r, s) and order abs(r - s).
    """

    roots: list[Float[np.ndarray, " root"]]
    place: Int[np.ndarray, " head"]

    @classmethod
    def of(cls, r: int, decided: Int[np.ndarray, " head"]) -> "_Pairs":
        """Return those of ``r`` labels and of what each head decides."""
        values, place = np.unique(decided, return_inverse=True)
        return cls([_laguerre_roots(min(r, s), abs(r - s)) for s in values.tolist()], place)

    def bound(self, y: Float[np.ndarray, " node"]) -> Float[np.ndarray, "head node"]:
        """Return the log of an upper bound on the circle: a factor's largest value is at 1 or -1."""
        bounds = [np.log(np.maximum(1, 2 * w[:, None] * y - 1)).sum(0) for w in self.roots]
        return np.stack(bounds)[self.place]

    def values(self, v: Complex[np.ndarray, "node z"]) -> Complex[np.ndarray, "value node z"]:
        """Return the polynomials at ``v``."""
        found = np.ones((len(self.roots), *v.shape), complex)
        for product, roots in zip(found, self.roots, strict=True):
            for w in roots.tolist():
                product *= 1 + w * v
        return found


def _means(
    pairs: list[_Pairs],
    y: Float[np.ndarray, " node"],
    log_weight: Float[np.ndarray, " node"],
    z: Complex[np.ndarray, " z"],
) -> tuple[Complex[np.ndarray, "head z"], Float[np.ndarray, " head"]]:
    """Return the means over nodes of the products of all kinds, and the largest mean of their sizes."""
    n_heads = len(pairs[0].place)
    mean, size = np.empty((n_heads, len(z)), complex), np.zeros(n_heads)
    # The weight goes to all kinds in equal parts, so that no product runs over.
    weight = np.exp(log_weight[:, None] / len(pairs))
    wide = max(1, _ROOM // (len(y) * sum(len(pair.roots) for pair in pairs)))
    for i in range(0, len(z), wide):
        tables = [weight * pair.values(y[:, None] * (z[i : i + wide] - 1)) for pair in pairs]
        high = max(1, _ROOM // (8 * tables[0][0].size))
        for j in range(0, n_heads, high):
            product = tables[0][pairs[0].place[j : j + high]]
            for table, pair in zip(tables[1:], pairs[1:], strict=True):
                product *= table[pair.place[j : j + high]]
            mean[j : j + high, i : i + wide] = product.sum(1)
            size[j : j + high] = np.maximum(size[j : j + high], np.abs(product).sum(1).max(1))
    return mean, size


@lru_cache(maxsize=2048)
def _laguerre_roots(degree: int, order: int) -> Float[np.ndarray, " root"]:
    m = np.arange(float(degree))
    if degree == 0:
        return np.zeros(0)
    off = np.sqrt(m[1:] * (m[1:] + order))
    return np.asarray(eigh_tridiagonal(2 * m + order + 1, off, eigvals_only=True))


def _nodes(n: int, count: int) -> tuple[Float[np.ndarray, " node"], Float[np.ndarray, " node"]]:
    """Return nodes and log weights of 1/x for x of Gamma(n + 1), exact up to degree ``2 count - 1``.

    Nodes are those of Laguerre, where they are best conditioned; weights come from the recurrence
    of the Bessel polynomials, whose measure is the one that counts.
    """
    y = 1 / _laguerre_roots(count, n - 2 * count + 1)
    before, now, total, log = np.zeros(count), np.ones(count), np.ones(count), np.zeros(count)
    side = 0.0
    for i in range(count - 1):
        middle = (n + 2) / ((n - 2 * i) * (n + 2 - 2 * i))
        k = i + 1
        following = np.sqrt(k * (n + 2 - k) / ((n + 1 - 2 * k) * (n + 3 - 2 * k))) / (n + 2 - 2 * k)
        before, now = now, ((y - middle) * now - side * before) / following
        side = following
        scale = np.maximum(1, np.abs(now))
        before, now, total, log = before / scale, now / scale, total / scale**2, log + np.log(scale)
        total += now**2
    return y, -np.log(total) - 2 * log


def _in_integers(labels: list[int], decided: list[int], n: int, most: int) -> Float[np.ndarray, " count"]:
    """Return the law by inclusion and exclusion; polynomials are integers with a digit per power."""
    # A digit holds n!, whole bytes: no rook number and no number of permutations is larger.
    width = factorial(n).bit_length() // 8 + 1
    rooks = 1
    for r, s in zip(labels, decided, strict=True):
        rooks *= sum(comb(r, j) * comb(s, j) * factorial(j) << 8 * width * j for j in range(min(r, s) + 1))
    digits = rooks.to_bytes(width * (most + 1), "little")
    ways = 0
    for j in range(most, -1, -1):
        rook = int.from_bytes(digits[width * j : width * (j + 1)], "little")
        ways = (ways << 8 * width) - ways + rook * factorial(n - j)
    digits = ways.to_bytes(width * (most + 1), "little")
    counts = (int.from_bytes(digits[width * t : width * (t + 1)], "little") for t in range(most + 1))
    return np.array([count / factorial(n) for count in counts])


def units_law(right: Int[np.ndarray, "head unit kind"], kinds: Int[np.ndarray, " kind"]) -> Law:
    r"""Return the law of right decisions when whole units of examples exchange their labels.

    Units take labels one after the other; a state is how many of each kind were taken, and

    .. math:: P_{i+1}(q + e_k,\, t + a_{ik}) \mathrel{+}= P_i(q, t)\, \frac{m_k - q_k}{N - i}

    (the shift algorithm for general scores). No term is negative, so every probability is good to
    rounding.

    Args:
        right: How many examples of a unit a head gets right if the unit has this kind of labels.
        kinds: How many units have each kind.

    Returns:
        The law of every head.

    Example:
        >>> right = np.array([[[2, 0], [0, 3]]])  # one head, two groups of 2 and 3, always right
        >>> units_law(right, np.array([1, 1])).share.tolist()
        [[0.5, 0.0, 0.0, 0.0, 0.0, 0.5]]

    References:
        Streitberg & Röhmel, Exact distributions for permutation and rank tests (1986); Pagano &
        Tritchler, On Obtaining Permutation Distributions in Polynomial Time (1983).
    """
    n_heads, n_units, _ = right.shape
    # How many of the last kind were taken follows from the others, so the commonest is the last.
    order = np.argsort(kinds, kind="stable")
    right, kinds = right[:, :, order], kinds[order]
    shape = tuple(kinds[:-1] + 1)
    taken = np.indices(shape).reshape(len(shape), int(np.prod(shape)))
    steps = np.append(np.array([np.prod(shape[i + 1 :], dtype=int) for i in range(len(shape))], int), 0)
    size = int(right.max(2).sum(1).max()) + 1
    share = np.zeros((n_heads, taken.shape[1], size))
    share[:, 0, 0] = 1
    for i in range(n_units):
        following = np.zeros_like(share)
        left = np.vstack([kinds[:-1, None] - taken, kinds[-1] - i + taken.sum(0)])
        for k, step in enumerate(steps.tolist()):
            states = np.flatnonzero(left[k] > 0)
            chance = left[k, states] / (n_units - i)
            for a in np.unique(right[:, i, k]).tolist():
                heads = np.flatnonzero(right[:, i, k] == a)
                moved = share[np.ix_(heads, states)][:, :, : size - a] * chance[:, None]
                following[np.ix_(heads, states + step, np.arange(a, size))] += moved
        share = following
    return Law(share[:, -1], np.zeros(n_heads))
