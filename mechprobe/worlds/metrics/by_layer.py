"""Where does a model become coherent? The metrics of a world, read at every layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from mechprobe.models import Model, alone
from mechprobe.provenance import Call
from mechprobe.stats import BAND_ENDS, Curve, Interval, accuracy_interval, curve, influence_of_groups
from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.metrics.dataset import METRICS, Outcome, over_positions, world_dataset
from mechprobe.worlds.metrics.drawing import PrefixKind, drawn_pairs, held_out_walks, named
from mechprobe.worlds.metrics.exam import Exam
from mechprobe.worlds.metrics.journal import Journal
from mechprobe.worlds.metrics.pairs import Pairs
from mechprobe.worlds.metrics.request import Request, checked
from mechprobe.worlds.metrics.results import WorldByLayer
from mechprobe.worlds.metrics.scores import TESTS
from mechprobe.worlds.predictors.acceptance import Acceptance, Epsilon
from mechprobe.worlds.predictors.network import LanguageModel
from mechprobe.worlds.predictors.oracles import legal_only, true_automaton, uniform
from mechprobe.worlds.predictors.predictor import Predictor
from mechprobe.worlds.predictors.residual import chosen_layers
from mechprobe.worlds.predictors.subject import answers, as_network


@alone
def world_by_layer(
    model: LanguageModel | Model,
    world: World,
    n: int = 300,
    suffixes: int = 30,
    k: int = 5,
    acceptance: Acceptance = Epsilon(0.01),  # noqa: B008 (frozen)
    mode: str = "corrected",
    *,
    layers: Sequence[int] | None = None,
    prefixes: PrefixKind | str | Sequence[Ids] = "random_walk",
    seed: int = 0,
    sequences: Sequence[Ids] | None = None,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    resume: str | Path | None = None,
) -> WorldByLayer:
    r"""Put what a logit lens reads at every layer to the metrics of ``evaluate_world_model``.

    The predictor of layer l is the model's own final norm and unembedding on its residual stream,

    .. math:: p_l = \mathrm{softmax}(f(\mathrm{norm}(x_l) W_U + b_U)),

    and all layers are asked about the same pairs of prefixes. Beside each stands its control, the
    true automaton that refuses legal words and accepts illegal ones, independently, as often as that
    layer does in the same test: a layer below its control is incoherent beyond its errors. It is a
    reading, not a cause: a layer may hold the state in directions that the unembedding does not read
    (see ``probe_states``, ``patch_states``).

    Args:
        model: A ``LanguageModel``, or a TransformerLens model whose folder says its words.
        world: What it should hold.
        n: Pairs of prefixes to draw for compression, and for distinction, at least 1.
        suffixes: Suffixes drawn for each pair (M), at least 1; not used by ``"exact"``.
        k: Longest string of the true boundary, and of the exact tree, at least 1.
        acceptance: ``Epsilon``, ``TopK`` or ``TopP``.
        mode: ``"corrected"``, ``"vafa2024"`` or ``"exact"``.
        layers: -1 for the embedding, l for the residual stream after block l; all if None.
        prefixes: ``"random_walk"``, ``"on_policy"`` (of the whole model), or sequences of ids.
        seed: Of everything drawn.
        sequences: What the next-token test reads; random walks if None.
        max_tokens: Words of prefix and suffix together; as ``evaluate_world_model``.
        batch_size: Pairs at once; None for as many as memory allows. Changes no draw.
        progress: Show a bar over pairs.
        resume: A file that finished batches are added to; as ``evaluate_world_model``.

    Returns:
        Metrics of every layer with 95 % intervals over states, their controls, and predictors of
        which it is known how they score.

    Raises:
        TypeError: ``model`` is no TransformerLens model (an oracle and a function have no layers),
            or ``acceptance`` is something else.
        ValueError: A setting or a layer out of range, a model already read at a layer, a context
            that is too short, a read-out path that is not the model's, no pair left, or a journal
            of another run.
        NotImplementedError: An architecture whose layers cannot be read.

    Example:
        >>> from mechprobe.worlds.training.shipped import load_shipped
        >>> net, world = load_shipped("random_walks")
        >>> found = world_by_layer(net, world, n=5, suffixes=2, k=1, layers=[-1], progress=False)
        >>> bool(found.data["next_token_validity"] < 0.9)
        True

    References:
        Vafa et al. (2024), https://arxiv.org/abs/2406.03689; nostalgebraist, "interpreting GPT:
        the logit lens" (2020).
    """
    call = Call("world_by_layer", locals())
    request = checked(world, n, suffixes, k, acceptance, mode, max_tokens, seed)
    net = as_network(model, world)
    chosen = chosen_layers(net.name, int(net.model.cfg.n_layers), layers)
    net.require_room(request.max_tokens - 1)
    at = {layer: net.at_layer(layer) for layer in chosen}
    about_model = net.describe()
    meant = {
        **request.recorded(world),
        "layers": chosen,
        "prefixes": named(prefixes),
        "sequences": named(sequences),
    }
    asked = {**call.told(**meant), "batch_size": None}  # which changes nothing that is kept
    run = {**asked, "world_digest": world.digest(), "model": about_model}
    journal = Journal(resume, run, lambda: answers(net, world, request.max_tokens))
    same, different = drawn_pairs(net, world, request, prefixes)
    walks = held_out_walks(world, request, sequences)
    exam = Exam(world, request, same, different, walks, journal, batch_size, progress)
    every = _outcomes(exam, at)
    data = _dataset(world, request, same, different, chosen, every)
    record = call.record(about_model, exam.read(), seed=seed, **meant)
    return WorldByLayer(data, record)


def _outcomes(exam: Exam, at: Mapping[int, Predictor]) -> dict[str, Outcome]:
    """Return what layers score, then their controls, then the references, in order."""
    layers = {f"layer {layer}": exam.outcome(f"layer {layer}", net) for layer, net in at.items()}
    controls = {f"control of {key}": exam.control(f"control of {key}", one) for key, one in layers.items()}
    oracles = [f(exam.world) for f in (uniform, legal_only, true_automaton)]
    return layers | controls | {oracle.name: exam.outcome(oracle.name, oracle) for oracle in oracles}


def _dataset(
    world: World,
    request: Request,
    same: Pairs,
    different: Pairs,
    layers: Sequence[int],
    outcomes: Mapping[str, Outcome],
) -> xr.Dataset:
    """Return the data of a ``WorldByLayer``: layers, controls and references apart."""
    every = world_dataset(world, request, same, different, outcomes).drop_vars("model_name")
    n, coords = len(layers), {"layer": np.array(layers, dtype=np.int64)}
    per_model = [name for name in every.data_vars if "model" in every[name].dims]
    shared = every.drop_vars([*per_model, "model"])
    own = every[per_model]
    parts = {
        "": own.isel(model=slice(0, n)).drop_vars("model").rename(model="layer"),
        "control_": own.isel(model=slice(n, 2 * n)).drop_vars("model").rename(model="layer"),
        "reference_": own.isel(model=slice(2 * n, None)).rename(model="reference"),
    }
    data = shared.assign_coords(coords)
    for prefix, part in parts.items():
        data = data.assign({f"{prefix}{name}": part[name].variable for name in per_model})
    data = data.assign_coords(reference=list(outcomes)[2 * n :])
    every_layer = list(outcomes.values())
    for prefix, some in (("", every_layer[:n]), ("control_", every_layer[n : 2 * n])):
        data = data.assign(_validity_band(prefix, some, request.seed))
    return _with_test_bands(data, same, different, request)


def _validity_band(prefix: str, outcomes: Sequence[Outcome], seed: int) -> dict[str, tuple[str, np.ndarray]]:
    """Return the bounds within which next-token validity lies at all layers together."""
    right = np.stack([o.validity.right for o in outcomes])
    sequence = outcomes[0].validity.sequence

    def interval(i: int, level: float) -> Interval:
        return accuracy_interval(right[i], sequence, level=level)

    found = curve(interval, influence_of_groups(right, sequence), seed=seed)
    return {f"{prefix}{METRICS[-1]}{end}": ("layer", v) for end, v in zip(BAND_ENDS, found, strict=True)}


def _with_test_bands(data: xr.Dataset, same: Pairs, different: Pairs, request: Request) -> xr.Dataset:
    """Return the data with bands over layers, and with layer minus control on the pairs of both."""
    above: list[Curve] = []
    for j, test in enumerate(data["test"].values.tolist()):
        pairs = same if test == TESTS[0] else different
        state, sampled = pairs.clusters(request.published), float(data["states_sampled"].values[j])
        own, control = (data[f"{p}score"].values[:, j, : len(pairs)] for p in ("", "control_"))
        for prefix, score in (("", own), ("control_", control)):
            found = over_positions(score, None, state, sampled, request.seed)
            bounds = zip(BAND_ENDS, found, strict=True)
            data = data.assign({f"{prefix}{test}{end}": ("layer", v) for end, v in bounds})
        above.append(over_positions(own, control, state, sampled, request.seed))
    bounds = zip(BAND_ENDS, zip(*above, strict=True), strict=True)
    dims = ("layer", "test")
    return data.assign({f"above_control{end}": (dims, np.stack(v, axis=1)) for end, v in bounds})
