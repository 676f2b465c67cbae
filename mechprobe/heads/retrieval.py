"""Retrieval heads: which head looks at the token that the model is about to copy?"""

import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mechprobe.models import PATTERN, Cursor, Session, attention_name, token_ids, token_spans
from mechprobe.tasks.words import COMMON_WORDS

_N_WORDS = 6
_N_FILLER = 24
_RECALL = 0.5


def retrieval_scores(
    session: Session, n_needles: int, seed: int, *, progress: bool = True
) -> npt.NDArray[np.float64]:
    r"""Return how often each head attends most to the token of the needle that comes next.

    A phrase of random words is hidden among filler and asked for; the model answers greedily. At
    each step a head scores where its most attended token lies in the phrase and is the token that
    is generated:

    .. math:: R_{lh} = \frac{|\{\text{steps} : t_{\arg\max a_{lh}} = \text{said}\}|}{|needle|}

    The mean is over answers that hold at least half of the phrase's tokens.

    Args:
        session: A model with a tokenizer and a key-value cache.
        n_needles: How many phrases to ask for.
        seed: Of words and places.
        progress: Show a bar.

    Returns:
        Scores in [0, 1] (layer, head); NaN where the model never found the phrase.

    Source: Wu et al. 2024 (arXiv 2404.15574), retrieval score.
    """
    from tqdm.auto import tqdm

    rng = random.Random(seed)
    found: list[npt.NDArray[np.float64]] = []
    for _ in tqdm(range(n_needles), desc="retrieval", disable=not progress, leave=False):
        prompt, phrase = _haystack(rng)
        ids = token_ids(session.model, prompt)[0]
        start = prompt.index(phrase)
        inside = [
            t
            for t, (a, b) in enumerate(token_spans(session.model, prompt, ids))
            if a < start + len(phrase) and b > start
        ]
        score, recall = _ask(session, ids, inside)
        if recall >= _RECALL:
            found.append(score)
    shape = (session.n_layers, int(session.cfg.n_heads))
    return np.mean(found, axis=0) if found else np.full(shape, np.nan)


def _haystack(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(COMMON_WORDS, _N_WORDS)
    filler = [
        f"The {rng.choice(COMMON_WORDS)} near the {rng.choice(COMMON_WORDS)} was not seen again."
        for _ in range(_N_FILLER)
    ]
    phrase = " ".join(words)
    filler.insert(rng.randrange(_N_FILLER), f"The secret phrase is: {phrase}.")
    return " ".join(filler) + "\nWhat is the secret phrase? The secret phrase is:", phrase


def _ask(session: Session, ids: list[int], inside: list[int]) -> tuple[npt.NDArray[np.float64], float]:
    """Answer greedily; return scores and the share of the needle's tokens that were said."""
    n_layers, n_heads = session.n_layers, int(session.cfg.n_heads)
    hits = np.zeros((n_layers, n_heads))
    first, last = inside[0], inside[-1]
    looked = np.zeros((n_layers, n_heads), np.int64)

    def sink(layer: int) -> Callable[[Tensor], None]:
        def take(pattern: Tensor) -> None:
            looked[layer] = pattern[0, :, -1].argmax(-1).cpu().numpy()

        return take

    capture = {attention_name(x, PATTERN): sink(x) for x in range(n_layers)}
    said: list[int] = []
    prompt = torch.tensor([ids], device=session.device)
    for token in Cursor(session).greedy(prompt, len(inside), capture=capture):
        within = (looked >= first) & (looked <= last)
        same = np.array(ids)[np.minimum(looked, len(ids) - 1)] == token
        hits += within & same
        said.append(token)
    needle = [ids[t] for t in inside]
    recall = len(set(needle) & set(said)) / len(set(needle))
    return hits / len(inside), recall
