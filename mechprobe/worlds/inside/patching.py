r"""Where is the state of the world kept? Put one prefix's stream into another's, and ask both ways.

The residual stream of a donor prefix, at one layer and position, takes the place of the
recipient's; everything behind the prefix is then read from the keys and values that were left. If
the stream there carries the state, the strings that tell the two states apart change sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mechprobe.models import Cursor, Model, alone, opened, stream_name
from mechprobe.models.protocol import Edit
from mechprobe.provenance import Call
from mechprobe.worlds.automata.arrays import Ids, Mask
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.inside.results import StatePatching
from mechprobe.worlds.inside.scores import Flips, patching_dataset
from mechprobe.worlds.inside.trials import CONDITIONS, Strings, Trials, draw_trials
from mechprobe.worlds.metrics.recall import followed
from mechprobe.worlds.metrics.request import checked
from mechprobe.worlds.metrics.scores import batches_of
from mechprobe.worlds.predictors.acceptance import Acceptance, Epsilon
from mechprobe.worlds.predictors.network import Edits, LanguageModel, NetworkCursor
from mechprobe.worlds.predictors.residual import chosen_layers
from mechprobe.worlds.predictors.subject import as_network

Extent = Literal["position", "tail"]
Stream = Float[Tensor, "row word d_model"]


@alone
def patch_states(
    model: LanguageModel | Model,
    world: World,
    n: int = 200,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] = (-1, -2, -3),
    extent: Extent = "position",
    k: int = 5,
    acceptance: Acceptance = Epsilon(0.01),  # noqa: B008 (frozen)
    seed: int = 0,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> StatePatching:
    r"""Swap states by patching the residual stream, and see whether the language swaps with them.

    A donor s and a recipient r are prefixes of equal length of unequal states. Of the strings that
    tell the states apart, :math:`B = B(q_s, q_r) \cup B(q_r, q_s)`, those on which the model is
    right after both prefixes can change sides; with :math:`L^m` the strings that it accepts and
    :math:`x_{l,p}` its stream after layer l at the p-th word from the end of the prefix,

    .. math:: \text{gained} &= P\big(a \in L^m(r \mid x_{l,p} \leftarrow x_{l,p}(s)) \mid
        a \in B(q_s, q_r)\big) \\
        \text{lost} &= P\big(a \notin L^m(r \mid x_{l,p} \leftarrow x_{l,p}(s)) \mid
        a \in B(q_r, q_s)\big) \\
        \text{swap} &= E \min(\text{gained}, \text{lost}),

    the lesser of both for every pair: 0 where the recipient's language is intact, 1 where it is the
    donor's, and 0 as well for a model that comes to refuse everything (it loses all and gains
    nothing) or to accept everything. A language that is swapped in part scores less than the share
    of its strings that changed; ``gained`` and ``lost`` stand beside it. Only the prefix is
    patched: what follows is read from the keys and values that this leaves. In the last layer
    nothing reads them, so that there only the first word of a string can change.

    Two controls stand beside each swap: a donor of the recipient's own state by another prefix (how
    many verdicts change: damage), and a donor of a third state (how much of the pair's donor it
    gives by chance). What a third state's own language would score bounds ``above_random`` of a
    perfect swap (``above_random_max``). A swap near 0 does not prove that the state is elsewhere: it
    may be kept twice.

    Args:
        model: A ``LanguageModel``, or a TransformerLens model whose folder says its words.
        world: Whose states they are.
        n: Pairs to draw, at least 1.
        layers: -1 for the embedding, l for the residual stream after block l; all if None.
        positions: Words counted from the end of the prefix, -1 the last; prefixes that are shorter
            than any of them are dropped, so that all cells have the same pairs.
        extent: ``"position"`` patches that word, ``"tail"`` all words from there to the end.
        k: Longest string that is followed, at least 1.
        acceptance: ``Epsilon``, ``TopK`` or ``TopP``.
        seed: Of pairs and donors.
        max_tokens: Words of prefix and string together; the world's ``max_length`` if None.
        batch_size: Pairs at once; None for as many as memory allows. Changes no draw.
        progress: Show a bar over patched passes.

    Returns:
        Swap and controls of every layer and position with 95 % intervals over states.

    Raises:
        TypeError: ``model`` is no TransformerLens model (an oracle or a function has nothing to
            patch), or ``acceptance`` is something else.
        ValueError: A setting, layer or position out of range, a model already read at a layer, a
            context that is too short, or no pair left (with the reasons).
        NotImplementedError: A model that keeps no cache to go on from, or discards edits.

    Example:
        >>> from mechprobe.worlds.training.shipped import load_shipped
        >>> net, world = load_shipped("random_walks")
        >>> last = int(net.model.cfg.n_layers) - 1
        >>> found = patch_states(net, world, n=9, k=1, layers=[last], positions=[-1, -2],
        ...                      progress=False)
        >>> found.data["swap"].values.tolist()  # the next word is read at the last one
        [[0.0, 1.0]]

    References:
        Vafa et al. (2024), https://arxiv.org/abs/2406.03689 (boundaries); Geiger et al., Finding
        Alignments Between Interpretable Causal Variables and Distributed Neural Representations
        (2023), https://arxiv.org/abs/2303.02536 (interchange interventions).
    """
    call = Call("patch_states", locals())
    request = checked(world, n, 1, k, acceptance, "corrected", max_tokens, seed)
    net = as_network(model, world)
    chosen = chosen_layers(net.name, int(net.model.cfg.n_layers), layers)
    places = _positions(positions, request.max_tokens, extent)
    net.require_room(request.max_tokens - 1)
    _require_cache(net)
    trials = draw_trials(world, request, -places[0])
    _require_heeded(net, chosen)
    cells = [(layer, position) for layer in chosen for position in places]
    flips = Flips.empty(len(trials.strings), len(cells))
    batches = batches_of(net, world, trials.pairs, trials.strings_each, batch_size)
    total = len(CONDITIONS) * len(cells) * len(batches)
    with tqdm(
        desc=f"{net.name}: patching", total=total, unit="pass", disable=not progress, leave=False
    ) as bar:
        for index in batches:
            _Batch.read(net, trials, index, acceptance, chosen, -places[0]).patch(cells, extent, flips, bar)
    data = patching_dataset(world, request, trials, flips, chosen, places, extent)
    read = [trials.pairs.prefixes1.tolist(), *(p.tolist() for p in trials.donors.values())]
    record = call.record(
        net.describe(),
        [world.digest(), read],
        seed=seed,
        **request.recorded(world),
        layers=chosen,
        positions=places,
    )
    return StatePatching(data, record)


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Some pairs, read as they are.

    Attributes:
        net: The model.
        recipients: Their prefixes.
        donors: By condition, prefixes as long.
        strings: That the model is right about after both; only these can change sides.
        place: Where each stands among all.
        acceptance: Which words the model accepts.
        layers: Layers to take donors' streams from.
        n_words: Words from the end of the prefix to take.
    """

    net: LanguageModel
    recipients: Ids
    donors: Mapping[str, Ids]
    strings: Strings
    place: Ids
    acceptance: Acceptance
    layers: Sequence[int]
    n_words: int

    @classmethod
    def read(
        cls,
        net: LanguageModel,
        trials: Trials,
        index: Ids,
        acceptance: Acceptance,
        layers: Sequence[int],
        n_words: int,
    ) -> "_Batch":
        """Read recipients and donors unpatched, and keep what the model is right about."""
        recipients = trials.pairs.prefixes1[index]
        donors = {name: prefixes[index] for name, prefixes in trials.donors.items()}
        strings, place = trials.strings.of_pairs(index)
        batch = cls(net, recipients, donors, strings, place, acceptance, layers, n_words)
        # Through the same hooks as a patched pass: no rounding tells the two apart.
        own, other = (
            batch.verdicts(read_streams(net, prefixes, layers, n_words)[0])
            for prefixes in (recipients, donors[CONDITIONS[0]])
        )
        right = (other == strings.of_donor) & (own != strings.of_donor)
        return cls(net, recipients, donors, strings.some(right), place[right], acceptance, layers, n_words)

    def verdicts(self, cursor: NetworkCursor) -> Mask:
        """Return which strings are accepted behind the prefixes that a cursor has read."""
        rows = np.arange(len(self.recipients))[None]
        return followed(cursor, rows, self.strings.strings, self.acceptance)[0]

    def patch(self, cells: Sequence[tuple[int, int]], extent: Extent, flips: Flips, bar: Any) -> None:
        """Patch every cell by every kind of donor, and note which strings change sides."""
        flips.right[self.place] = True
        for row, (_, prefixes) in enumerate(self.donors.items()):
            _, streams = read_streams(self.net, prefixes, self.layers, self.n_words)
            for column, (layer, position) in enumerate(cells):
                edits = patched(layer, position, extent, streams[layer])
                found = self.verdicts(NetworkCursor(self.net, self.recipients, edits))
                flips.flipped[row, column, self.place] = found == self.strings.of_donor
                bar.update()


def read_streams(
    net: LanguageModel, prefixes: Ids, layers: Sequence[int], n_words: int
) -> tuple[NetworkCursor, dict[int, Stream]]:
    """Read prefixes and keep the residual stream of their last words.

    Args:
        net: A model that keeps a cache.
        prefixes: ``[n, length]``, filled up with -1 on the right, of ``n_words`` words at least.
        layers: -1 for the embedding, l for the stream after block l.
        n_words: Words from the end.

    Returns:
        A cursor behind the prefixes, and the stream of each layer.
    """
    parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    order: list[Ids] = []

    def keeping(out: list[Tensor]) -> Edit:
        def keep(resid: Tensor) -> Tensor:
            out.append(resid[:, -n_words:].clone())
            return resid

        return keep

    def edits(rows: Ids) -> dict[str, Edit]:
        order.append(rows)
        return {stream_name(layer): keeping(out) for layer, out in parts.items()}

    cursor = NetworkCursor(net, prefixes, edits)
    back = torch.as_tensor(np.argsort(np.concatenate(order)))
    return cursor, {layer: torch.cat(out)[back.to(out[0].device)] for layer, out in parts.items()}


def patched(layer: int, position: int, extent: Extent, stream: Stream) -> Edits:
    """Return the edits that put a stream into prefixes while they are read.

    Args:
        layer: -1 for the embedding, l for the stream after block l.
        position: Word counted from the end, -1 the last.
        extent: ``"position"`` for that word, ``"tail"`` for all from there to the end.
        stream: The donors', of the last words of every prefix.
    """
    end = None if extent == "tail" or position == -1 else position + 1
    span = slice(position, end)

    def edits(rows: Ids) -> dict[str, Edit]:
        new = stream[torch.as_tensor(rows, device=stream.device)]

        def change(resid: Tensor) -> Tensor:
            out = resid.clone()
            out[:, span] = new[:, span].to(out)
            return out

        return {stream_name(layer): change}

    return edits


def _positions(positions: Sequence[int], max_tokens: int, extent: str) -> list[int]:
    if extent not in get_args(Extent):
        msg = f"extent={extent!r} is unknown; choose from {', '.join(get_args(Extent))}."
        raise ValueError(msg)
    chosen = sorted(positions)
    wrong = [p for p in chosen if not -max_tokens < p < 0]
    if wrong or not chosen or len(set(chosen)) < len(chosen):
        msg = (
            f"positions={list(positions)}: words are counted from the end of the prefix, -1 the "
            f"last, and a prefix has at most {max_tokens - 1} of them (max_tokens={max_tokens}); "
            "name each position once."
        )
        raise ValueError(msg)
    return chosen


def _require_cache(net: LanguageModel) -> None:
    if not net.keeps_cache:
        msg = (
            f"{net.name} keeps no cache whose rows can be repeated, and strings are followed from "
            "the keys and values of a patched prefix; pass a TransformerBridge with full attention "
            "(and leave cached=None)."
        )
        raise NotImplementedError(msg)


def _require_heeded(net: LanguageModel, layers: Sequence[int]) -> None:
    """Refuse a model that does not go on with what is put into it, on a few words."""
    session = opened(net.model)
    ids = net.rectangle(np.arange(min(len(net.ids), net.longest, 4))[None])
    for layer in layers:
        hook = stream_name(layer)
        own, other = (
            Cursor(session).read(ids, edit={hook: change}, keep=False)
            for change in (torch.clone, torch.zeros_like)
        )
        if own is not None and other is not None and torch.equal(own, other):
            msg = (
                f"changing {hook} changes nothing in {session.name}: what its hook "
                "returns is not what the model goes on with."
            )
            raise NotImplementedError(msg)
