r"""Whether a model knows what tells two states apart: distinction recall, without sampling.

.. math:: \frac{|B^W(q_1, q_2) \cap (L^m(s_1) \setminus L^m(s_2))|}{|B^W(q_1, q_2)|}

Source:
    Vafa et al. (2024), https://arxiv.org/abs/2406.03689, definition 2.6.
"""

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import Ids, Mask
from mechprobe.worlds.automata.language import Boundary
from mechprobe.worlds.metrics.judged import Tally
from mechprobe.worlds.predictors.acceptance import Acceptance
from mechprobe.worlds.predictors.callables import accepted
from mechprobe.worlds.predictors.predictor import Cursor, Predictor


def recalled(
    predictor: Predictor,
    prefixes: Ids,
    boundary: Boundary,
    acceptance: Acceptance,
    tally: Tally | None = None,
) -> npt.NDArray[np.float64]:
    """Return for each pair which share of the true boundary the model has; NaN where it is empty.

    Args:
        predictor: The model.
        prefixes: The first prefixes of all pairs, then the second ones.
        boundary: True boundary of each pair.
        acceptance: Which words a model accepts.
        tally: Counts the words judged, where given.
    """
    known = _known(predictor, prefixes, boundary, acceptance, tally)
    hits = np.bincount(boundary.pair, known, minlength=boundary.n_pairs)
    with np.errstate(invalid="ignore"):
        return np.where(boundary.sizes > 0, hits / boundary.sizes, np.nan)


def _known(
    predictor: Predictor, prefixes: Ids, boundary: Boundary, acceptance: Acceptance, tally: Tally | None
) -> Mask:
    """Return which strings the model accepts after the first prefix and not after the second."""
    rows = np.arange(2 * boundary.n_pairs).reshape(2, -1)
    if not len(boundary):
        return np.ones(0, dtype=np.bool_)
    cursor = predictor.start(prefixes)
    in1, in2 = followed(cursor, rows, boundary, acceptance, first_decides=True, tally=tally)
    return in1 & ~in2


def followed(
    cursor: Cursor,
    rows: Ids,
    strings: Boundary,
    acceptance: Acceptance,
    *,
    first_decides: bool = False,
    tally: Tally | None = None,
) -> Mask:
    """Return which strings a model accepts, word by word, after one prefix or several.

    Strings of a pair share what they begin with. A string is no longer followed after a prefix
    that refuses one of its words.

    Args:
        cursor: Stands behind the prefixes; goes on from there.
        rows: Its row for each prefix of each pair, ``[side, pair]``.
        strings: Of each pair; need be no boundary.
        acceptance: Which words a model accepts.
        first_decides: Leave a string altogether once the first side refuses a word.
        tally: Counts the words judged, where given; its rows are the cursor's.

    Returns:
        ``[side, string]``; what ``first_decides`` left out is as far as it came.
    """
    inside = np.ones((len(rows), len(strings)), dtype=np.bool_)
    node, at = strings.pair.copy(), rows
    deciding = slice(0, 1 if first_decides else None)
    for level in range(strings.strings.shape[1]):
        going = np.flatnonzero((strings.lengths > level) & inside[deciding].any(axis=0))
        word = strings.strings[going, level]
        allowed = accepted(cursor, acceptance)
        if tally is not None:
            tally.judge(allowed, np.arange(len(allowed)))
        inside[:, going] &= allowed[at[:, node[going]], word]
        more = inside[deciding][:, going].any(axis=0) & (strings.lengths[going] > level + 1)
        going, word = going[more], word[more]
        if not len(going):
            break
        n_tokens = allowed.shape[1]
        said, first, to = np.unique(node[going] * n_tokens + word, return_index=True, return_inverse=True)
        parent, after = said // n_tokens, said % n_tokens
        side, new = np.nonzero(inside[:, going[first]])
        before = at[side, parent[new]]
        cursor.advance(before, after[new])
        if tally is not None:
            tally.advance(before, after[new])
        # Where a side has refused a word its row does not matter; any will do.
        at = np.zeros((len(rows), len(said)), dtype=np.int64)
        at[side, new] = np.arange(len(side))
        node[going] = to
    return inside
