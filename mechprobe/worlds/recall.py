r"""Whether a model knows what tells two states apart: distinction recall, without sampling.

.. math:: \frac{|B^W(q_1, q_2) \cap (L^m(s_1) \setminus L^m(s_2))|}{|B^W(q_1, q_2)|}

Source:
    Vafa et al. (2024), https://arxiv.org/abs/2406.03689, definition 2.6.
"""

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.acceptance import Acceptance
from mechprobe.worlds.language import Boundary
from mechprobe.worlds.predictor import Predictor
from mechprobe.worlds.predictors import accepted
from mechprobe.worlds.protocol import Ids, Mask


def recalled(
    predictor: Predictor, prefixes: Ids, boundary: Boundary, acceptance: Acceptance
) -> npt.NDArray[np.float64]:
    """Return for each pair which share of the true boundary the model has; NaN where it is empty.

    Args:
        predictor: The model.
        prefixes: The first prefixes of all pairs, then the second ones.
        boundary: True boundary of each pair.
        acceptance: Which words a model accepts.
    """
    known = _known(predictor, prefixes, boundary, acceptance)
    hits = np.bincount(boundary.pair, known, minlength=boundary.n_pairs)
    with np.errstate(invalid="ignore"):
        return np.where(boundary.sizes > 0, hits / boundary.sizes, np.nan)


def _known(predictor: Predictor, prefixes: Ids, boundary: Boundary, acceptance: Acceptance) -> Mask:
    """Return which strings the model accepts after the first prefix and not after the second.

    Strings of a pair share what they begin with; a string is left once the first prefix refuses a
    word, and no longer followed after the second once that one does.
    """
    n = boundary.n_pairs
    in1, in2 = np.ones((2, len(boundary)), dtype=np.bool_)
    if not len(boundary):
        return in1
    cursor = predictor.start(prefixes)
    node, row1, row2 = boundary.pair.copy(), np.arange(n), np.arange(n, 2 * n)
    for level in range(boundary.strings.shape[1]):
        going = np.flatnonzero((boundary.lengths > level) & in1)
        word = boundary.strings[going, level]
        allowed = accepted(cursor, acceptance)
        in1[going] &= allowed[row1[node[going]], word]
        in2[going] &= allowed[row2[node[going]], word]
        more = in1[going] & (boundary.lengths[going] > level + 1)
        going, word = going[more], word[more]
        if not len(going):
            break
        n_tokens = allowed.shape[1]
        said, first, to = np.unique(
            node[going] * n_tokens + word, return_index=True, return_inverse=True
        )
        parent, after = said // n_tokens, said % n_tokens
        followed = in2[going[first]]
        rows = np.concatenate([row1[parent], row2[parent[followed]]])
        cursor.advance(rows, np.concatenate([after, after[followed]]))
        # Where the second prefix has refused a word its row does not matter; any will do.
        row1, row2 = np.arange(len(said)), np.zeros(len(said), dtype=np.int64)
        row2[followed] = len(said) + np.arange(int(followed.sum()))
        node[going] = to
    return in1 & ~in2
