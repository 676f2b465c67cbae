"""Geometry of the unembedding: what can be said, and what the nearest thing to say is."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechprobe.kernels import nearest_columns, top_k
from mechprobe.kernels.vocabulary import Metric
from mechprobe.lens.lens import lens_reader
from mechprobe.lens.request import check_top_k, one_token, resolve_positions
from mechprobe.lens.results import Expressibility, VocabularyNeighbors
from mechprobe.models import (
    Model,
    Prompts,
    Session,
    TokenText,
    alone,
    describe,
    opened,
    require_encodable,
    require_tokenizer,
    storable,
    token_ids,
    tokenizer_of,
)
from mechprobe.provenance import Call


@alone
def vocabulary_neighbors(
    model: Model,
    query: Prompts | int | Mapping[str, float] | npt.NDArray[np.floating[Any]],
    *,
    at: tuple[int, int] | None = None,
    k: int = 10,
    metric: Metric = "dot",
) -> VocabularyNeighbors:
    r"""Return the tokens whose unembedding rows are nearest to a direction.

    .. math::
        x = \sum_t w_t \, \overline{W_U[:, t]}, \qquad
        s_v = x \cdot W_U[:, v] \quad\text{(or its cosine)}

    Args:
        model: A TransformerLens model.
        query: A token (text or id); a mixture ``{text: weight}``, as in word2vec arithmetic, where
            a text of several tokens stands for the mean of their rows; a vector ``[d_model]`` (as
            it would reach the unembedding); or, together with ``at``, a prompt.
        at: ``(layer, position)``: ask for the residual stream of the prompt ``query`` there, after
            the final norm. Layer -1 is the embedding. With ``"dot"`` the scores are then the
            logits of the lens, bias included.
        k: How many tokens, 1 to ``d_vocab``.
        metric: ``"dot"``, by which logits rank, or ``"cosine"`` (-1 to 1).

    Returns:
        A ``VocabularyNeighbors``, nearest first; tokens of the query itself are marked.

    Raises:
        ValueError: An empty mixture or text, a vector of another length, an unknown metric, or
            ``k``, ``at`` out of range, several prompts, or a vector or weight that is not finite.

    Example:
        >>> import mechprobe as mp
        >>> near = mp.vocabulary_neighbors(tiny_model, 3, k=2, metric="cosine")
        >>> int(near.data["token"][0]), round(float(near.data["score"][0]), 3)
        (3, 1.0)

    References:
        Mikolov et al., "Linguistic Regularities in Continuous Space Word Representations" (2013),
        https://aclanthology.org/N13-1090
    """
    call = Call("vocabulary_neighbors", locals())
    session = opened(model)
    _check_metric(metric)
    path = session.unembedding
    k = check_top_k(k, path.d_vocab)
    x, terms = _direction(session, query, at)
    if at is not None and metric == "dot":
        # The model's own ranking: bias and soft-cap belong to it.
        score, ids = top_k(path.normed_logits(x[None]).to(_wide(x)), k)
    else:
        score, ids = nearest_columns(x[None], path.W_U, k=k, metric=metric)
    text = TokenText(tokenizer_of(model))
    tokens = ids[0].cpu().numpy().astype(np.int32)
    inputs = {i for pieces, _ in terms.values() for i in pieces}
    data = xr.Dataset(
        {
            "token": ("k", tokens),
            "text": ("k", np.array([text.text(i) for i in tokens.tolist()], dtype=object)),
            "score": ("k", score[0].cpu().numpy()),
            "is_input": ("k", np.array([i in inputs for i in tokens.tolist()])),
        }
    )
    if terms:
        data = data.assign(
            weight=("term", np.array([w for _, w in terms.values()])),
            n_tokens=("term", np.array([len(p) for p, _ in terms.values()], np.int32)),
        ).assign_coords(term=np.array([storable(t) for t in terms], dtype=object))
    data["score"].attrs = {"long_name": metric, "units": "1"}
    return VocabularyNeighbors(data, call.record(describe(session), _numbers(x)))


def _direction(
    session: Session, query: Any, at: tuple[int, int] | None
) -> tuple[Float[Tensor, " d_model"], dict[str, tuple[list[int], float]]]:
    """Return the vector that was asked for, and the terms it is mixed of, where it is."""
    W_U = session.unembedding.W_U
    if at is not None:
        return _residual(session, query, at), {}
    if isinstance(query, Tensor | np.ndarray):
        return _vector(torch.as_tensor(query), W_U), {}
    terms = _terms(session.model, query)
    return _mixture(W_U, terms), terms


@alone
def expressible(model: Model, text: str, *, metric: Metric = "cosine") -> Expressibility:
    r"""Say whether one token means ``text``, and which other token comes nearest.

    With :math:`x` the mean of the unembedding rows of the text's tokens: ``own`` is the best score
    among those tokens, ``other`` the best among all the rest, and the margin own - other tells how
    safely a model that points exactly at :math:`x` says a part of the text. It is a fact about the
    unembedding, not about what the model ever points at.

    Args:
        model: A TransformerLens model with a tokenizer.
        text: What one would like to say; a leading space belongs to it.
        metric: ``"cosine"`` (-1 to 1) or ``"dot"``.

    Returns:
        An ``Expressibility``.

    Raises:
        ValueError: An empty text, an unknown metric, or a model without tokenizer.
    """
    call = Call("expressible", locals())
    session = opened(model)
    require_tokenizer(model, "what is asked")
    _check_metric(metric)
    path = session.unembedding
    pieces, _ = _terms(model, {text: 1.0})[text]
    x = _mixture(path.W_U, {text: (pieces, 1.0)})
    k = min(path.d_vocab, len(set(pieces)) + 1)
    every, _ = nearest_columns(x[None], path.W_U[:, sorted(set(pieces))], k=1, metric=metric)
    score, ids = nearest_columns(x[None], path.W_U, k=k, metric=metric)
    other = next(i for i, t in enumerate(ids[0].tolist()) if t not in pieces)
    read = TokenText(tokenizer_of(model))
    own, rival = float(every[0, 0]), float(score[0, other])
    data = xr.Dataset(
        {
            "asked": ((), np.array(storable(text), dtype=object)),
            "token": ("piece", np.array(pieces, np.int32)),
            "text": ("piece", np.array([read.text(i) for i in pieces], dtype=object)),
            "one_token": ((), len(pieces) == 1),
            "own": ((), own),
            "other": ((), rival),
            "other_token": ((), np.int32(ids[0, other])),
            "other_text": ((), np.array(read.text(int(ids[0, other])), dtype=object)),
            "margin": ((), own - rival),
        }
    )
    for score_name in ("own", "other", "margin"):
        data[score_name].attrs = {"long_name": metric, "units": "1"}
    return Expressibility(data, call.record(describe(session), _numbers(x)))


def _check_metric(metric: str) -> None:
    if metric not in ("dot", "cosine"):
        msg = f"metric must be 'dot' or 'cosine'; found {metric!r}."
        raise ValueError(msg)


def _terms(model: Model, query: Any) -> dict[str, tuple[list[int], float]]:
    """Return the token ids and weight of each term of a mixture."""
    if isinstance(query, int | np.integer):
        token = one_token(model, int(query))
        return {TokenText(tokenizer_of(model)).text(token): ([token], 1.0)}
    mixture: Mapping[str, float] = {query: 1.0} if isinstance(query, str) else query
    if not mixture:
        msg = "the mixture is empty; give at least one {text: weight}."
        raise ValueError(msg)
    require_tokenizer(model, "a query")
    out: dict[str, tuple[list[int], float]] = {}
    for term, weight in mixture.items():
        require_encodable(term, "a query")
        if not math.isfinite(weight):
            msg = f"the weight of {term!r} is {weight}; it must be finite."
            raise ValueError(msg)
        ids: list[int] = tokenizer_of(model)(term, add_special_tokens=False)["input_ids"]
        if not ids:
            msg = f"{term!r} is no token at all; there is no direction to look along."
            raise ValueError(msg)
        out[term] = (ids, float(weight))
    return out


def _mixture(
    W_U: Float[Tensor, "d_model d_vocab"], terms: Mapping[str, tuple[list[int], float]]
) -> Float[Tensor, " d_model"]:
    rows = [weight * W_U[:, ids].to(_wide(W_U)).mean(-1) for ids, weight in terms.values()]
    return torch.stack(rows).sum(0)


def _vector(query: Tensor, W_U: Float[Tensor, "d_model d_vocab"]) -> Float[Tensor, " d_model"]:
    if query.shape != W_U.shape[:1] or not query.is_floating_point():
        msg = (
            f"a query vector must be real and of length d_model = {W_U.shape[0]}; found "
            f"{query.dtype} of shape {tuple(query.shape)}."
        )
        raise ValueError(msg)
    if not bool(torch.isfinite(query).all()):
        msg = "the query vector holds NaN or infinity; there is nothing it is near to."
        raise ValueError(msg)
    return query.detach().to(W_U)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _residual(session: Session, prompt: Any, at: tuple[int, int]) -> Float[Tensor, " d_model"]:
    layer, position = at
    if isinstance(prompt, Mapping):
        msg = f"at={at} asks for one place in one prompt; found a mixture of tokens."
        raise ValueError(msg)
    ids = token_ids(session.model, prompt)
    if len(ids) != 1:
        msg = f"at={at} asks for one place in one prompt; found {len(ids)} prompts."
        raise ValueError(msg)
    where = resolve_positions(position, [len(ids[0])])
    reader = lens_reader(session, [layer], "resid_post", "final", None)
    rows = reader.rows(torch.tensor(ids, device=session.device), torch.tensor(where), check=True)
    return rows[reader.source[0], 0, 0]


def _numbers(x: Tensor) -> list[float]:
    return x.detach().double().cpu().tolist()
