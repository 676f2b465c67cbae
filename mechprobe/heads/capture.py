"""Scores of all heads for a micro-batch, keeping only the vectors that a score needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.heads.lead import Lead
from mechprobe.heads.places import Place, Spelling
from mechprobe.heads.rows import at_row, keep_at
from mechprobe.kernels.alignment import attention_logits, attention_weights, cosine_alignment, qk_alignment
from mechprobe.models import PATTERN, AttentionPath, Batch, last_stream


@dataclass(frozen=True, slots=True)
class KeyPlaces:
    """Key tokens as arrays.

    Attributes:
        at: Positions; candidates that share their key tokens are one.
        weight: One over the number of tokens of a candidate; 0 for padding.
    """

    at: Int[Tensor, "row candidate token"]
    weight: Float[Tensor, "row candidate token"]

    def rows(self, index: Tensor) -> "KeyPlaces":
        """Return the keys of some rows, with repetitions."""
        return KeyPlaces(self.at[index], self.weight[index])


def key_places(places: Sequence[Place], device: torch.device) -> KeyPlaces:
    """Return the key tokens of a batch, padded to a rectangle."""
    n_candidates = max(len(p.keys) for p in places)
    n_tokens = max(len(tokens) for p in places for tokens in p.keys)
    at = torch.zeros(len(places), n_candidates, n_tokens, dtype=torch.long)
    weight = torch.zeros(len(places), n_candidates, n_tokens, dtype=torch.float64)
    for i, place in enumerate(places):
        for c, tokens in enumerate(place.keys):
            at[i, c, : len(tokens)] = torch.tensor(tokens)
            weight[i, c, : len(tokens)] = 1.0 / len(tokens)
    return KeyPlaces(at.to(device), weight.to(device, torch.float32))


@dataclass(frozen=True)
class HeadReader:
    """Reads the scores of all heads.

    Attributes:
        path: How to read this model.
        layers: Layers to read.
        spelling: How candidates are spelled behind the prompt.
        lead: What all prompts begin with; ``full`` reads it again.
    """

    path: AttentionPath
    layers: list[int]
    spelling: Spelling
    lead: Lead = field(default_factory=Lead)

    def last(
        self, batch: Batch, places: Sequence[Place]
    ) -> tuple[Float[Tensor, "row candidate layer n_heads"], Tensor]:
        """Score options in the keys by the query of the last prompt token: one pass.

        Returns:
            Scores, NaN for candidates that an example does not have, and the last ``resid_post``
            at every prompt's last token.
        """
        keys = key_places(places, batch.ids.device)
        ends = torch.tensor([len(p.ids) - 1 for p in places], device=batch.ids.device)
        return self._rows(batch, ends, keys, ends, self.lead)

    def full(
        self, batch: Batch, places: Sequence[Place]
    ) -> tuple[Float[Tensor, "row candidate layer n_heads"], Tensor]:
        """Score candidates in the query by running every whole text.

        For models that cannot continue from a padded cache; ``branched`` gives the same.

        Returns:
            Scores, NaN for candidates that an example does not have, and the last ``resid_post``
            at every prompt's last token.
        """
        device = batch.ids.device
        owner, candidate, tokens = self._answers(places, device)
        ends = torch.tensor([len(p.ids) for p in places], device=device)[owner]
        ids = torch.cat([batch.ids, batch.ids[:, -1:]], dim=1)[owner]
        ids[torch.arange(len(owner), device=device), ends] = tokens
        pos = torch.arange(ids.shape[1], device=device)
        mask = (pos <= ends[:, None]).long()
        keys = _per_candidate(key_places(places, device), owner, candidate)
        texts = Batch([], ids, None if bool(mask.all()) else mask)
        scores, resid = self._rows(texts, ends, keys, ends - 1, Lead())
        out = self._empty(places, device)
        out[owner, candidate] = scores[:, 0]
        return out, resid[candidate == 0]

    def branched(
        self, batch: Batch, places: Sequence[Place]
    ) -> tuple[Float[Tensor, "row candidate layer n_heads"], Tensor]:
        """Score candidates in the query: the prompt once, then one token for each candidate.

        Returns:
            As ``full``.
        """
        device = batch.ids.device
        session, keys = self.path.session, key_places(places, device)
        lengths = torch.tensor([len(p.ids) for p in places], device=device)
        owner, candidate, tokens = self._answers(places, device)
        k: dict[int, Tensor] = {}
        resid: dict[int, Tensor] = {}
        attention = self.path.score == "attention"  # whose weights are read in the branches
        lead = self.lead
        capture = {} if attention else self._captures(lambda x: self._key_sink(k, x, keys, lead))
        capture[last_stream(session.model)] = keep_at(resid, 0, lead.after(lengths - 1))
        prompts = lead.read(session, batch, capture, keep=True)
        own = _per_candidate(keys, owner, candidate)
        # A sliding window keeps the last tokens only: the branches may see fewer columns.
        read = _Branches(self.path, lengths[owner], own, batch.ids.shape[1] + 1)
        answers = self._captures(read.sink, read.hook)
        prompts.advance(owner.cpu().numpy(), tokens, answers, logits="none")
        out = self._empty(places, device)
        for i, layer in enumerate(self.layers):
            found = read.kept[layer]
            if attention:
                weights = attention_weights(found, own.weight.to(found))
                out[owner, candidate, i] = weights[:, 0].to(out)
                continue
            q = found.new_zeros(*out.shape[:2], *found.shape[1:])
            q[owner, candidate] = found
            scores = self._score(layer, q, k[layer], keys.weight)
            out[owner, candidate, i] = scores[owner, candidate].to(out)
        return out, resid[0]

    def _rows(
        self,
        batch: Batch,
        query_at: Int[Tensor, " row"],
        keys: KeyPlaces,
        resid_at: Int[Tensor, " row"],
        lead: Lead,
    ) -> tuple[Tensor, Tensor]:
        """Score one query per row against the row's keys, in one pass."""
        q: dict[int, Tensor] = {}
        k: dict[int, Tensor] = {}
        resid: dict[int, Tensor] = {}
        if self.path.score == "attention":
            row = lead.after(query_at)
            capture = self._captures(lambda x: _pattern_sink(q, x, row, keys), PATTERN)
        else:
            capture = self._captures(lambda x: self._key_sink(k, x, keys, lead))
            capture |= self._captures(lambda x: self._query_sink(q, x, query_at, lead), self.path.q_hook)
        capture[last_stream(self.path.session.model)] = keep_at(resid, 0, lead.after(resid_at))
        lead.read(self.path.session, batch, capture)
        shape = (*keys.at.shape[:2], len(self.layers), self.path.n_heads)
        out = torch.full(shape, torch.nan, device=batch.ids.device)
        for i, layer in enumerate(self.layers):
            if self.path.score == "attention":
                out[:, :, i] = attention_weights(q[layer], keys.weight.to(q[layer])).to(out)
            else:
                out[:, :, i] = self._score(layer, q[layer], k[layer], keys.weight).to(out)
        out[keys.weight.sum(-1) == 0] = torch.nan  # candidates that an example does not have
        return out, resid[0]

    def _captures(
        self, sink: Callable[[int], Callable[[Tensor], None]], hook: str = ""
    ) -> dict[str, Callable[[Tensor], None]]:
        return {self.path.name(x, hook or self.path.k_hook): sink(x) for x in self.layers}

    def _query_sink(
        self, kept: dict[int, Tensor], layer: int, query_at: Tensor, lead: Lead
    ) -> Callable[[Tensor], None]:
        def take(activation: Tensor) -> None:
            q = at_row(self.path.queries(activation), lead.after(query_at))[:, None]
            kept[layer] = self.path.at(q, query_at[:, None])

        return take

    def _key_sink(
        self, kept: dict[int, Tensor], layer: int, keys: KeyPlaces, lead: Lead
    ) -> Callable[[Tensor], None]:
        def take(activation: Tensor) -> None:
            heads = self.path.keys(activation)
            at = keys.at.flatten(1).to(heads.device)
            row = torch.arange(len(at), device=heads.device)[:, None]
            # Padding of the keys, at 0, may lie in the lead; its weight is 0.
            picked = self.path.at(heads[row, lead.after(at).clamp(min=0)], at)
            kept[layer] = picked.unflatten(1, keys.at.shape[1:])

        return take

    def _score(self, layer: int, q: Tensor, k: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(k.device)
        if self.path.score == "cosine":
            return cosine_alignment(q, k, weight)
        if self.path.score == "rotated":
            return attention_logits(q, k, weight, self.path.scale(layer), self.path.soft_cap())
        return qk_alignment(q, k, weight)

    def _answers(self, places: Sequence[Place], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return (example, candidate, token) of every candidate of a batch."""
        rows = [
            (i, c, answer[self.spelling])
            for i, place in enumerate(places)
            for c, answer in enumerate(place.answers)
        ]
        owner, candidate, tokens = torch.tensor(rows, device=device).T
        return owner, candidate, tokens

    def _empty(self, places: Sequence[Place], device: torch.device) -> Tensor:
        n_candidates = max(len(p.answers) for p in places)
        shape = (len(places), n_candidates, len(self.layers), self.path.n_heads)
        return torch.full(shape, torch.nan, device=device)


class _Branches:
    """What is read of the one token of every branch: its queries, or the attention it pays."""

    def __init__(self, path: AttentionPath, positions: Tensor, keys: KeyPlaces, n_columns: int) -> None:
        self._path, self._positions, self._keys, self._n = path, positions, keys, n_columns
        self.hook = PATTERN if path.score == "attention" else path.q_hook
        self.kept: dict[int, Tensor] = {}

    def sink(self, layer: int) -> Callable[[Tensor], None]:
        """Return what keeps one layer."""

        def take(activation: Tensor) -> None:
            if self._path.score == "attention":
                gone = self._n - activation.shape[-1]
                first = torch.zeros_like(self._positions)
                self.kept[layer] = _pattern_at(activation, first, self._keys, gone)
                return
            q = self._path.at(self._path.queries(activation), self._positions[:, None])
            self.kept[layer] = q[:, 0]

        return take


def _pattern_sink(
    kept: dict[int, Tensor], layer: int, query_at: Tensor, keys: KeyPlaces
) -> Callable[[Tensor], None]:
    def take(pattern: Tensor) -> None:
        kept[layer] = _pattern_at(pattern, query_at, keys)

    return take


def _pattern_at(pattern: Tensor, query_at: Tensor, keys: KeyPlaces, gone: int = 0) -> Tensor:
    """Pick ``[row, candidate, head, token]`` of a pattern ``[row, head, query, key]``.

    To the first ``gone`` tokens, which the pattern has no columns for, no attention is paid.
    """
    row = torch.arange(len(query_at), device=pattern.device)
    of_query = pattern[row, :, query_at.to(pattern.device)]
    at = keys.at.to(pattern.device) - gone
    picked = of_query[row[:, None, None], :, at.clamp(min=0)] * (at >= 0)[..., None]
    return picked.movedim(-1, 2)


def _per_candidate(keys: KeyPlaces, owner: Tensor, candidate: Tensor) -> KeyPlaces:
    """Return keys with one row per (example, candidate)."""
    own = candidate if keys.at.shape[1] > 1 else torch.zeros_like(candidate)
    return KeyPlaces(keys.at[owner, own][:, None], keys.weight[owner, own][:, None])
