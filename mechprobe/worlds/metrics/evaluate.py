"""Does a next-word predictor hold the world? Metrics, baselines, and how sure they are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mechprobe.models import alone
from mechprobe.provenance import Call
from mechprobe.stats import Interval, unit_interval
from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.metrics.dataset import add_sensitivity, world_dataset
from mechprobe.worlds.metrics.drawing import PrefixKind, drawn_pairs, held_out_walks, named
from mechprobe.worlds.metrics.exam import Exam
from mechprobe.worlds.metrics.journal import Journal
from mechprobe.worlds.metrics.request import Request, checked, require_room
from mechprobe.worlds.metrics.results import WorldModelResult
from mechprobe.worlds.metrics.scores import TESTS, Test
from mechprobe.worlds.predictors.acceptance import Acceptance, Epsilon
from mechprobe.worlds.predictors.oracles import NOISY, legal_only, true_automaton, uniform
from mechprobe.worlds.predictors.predictor import Predictor
from mechprobe.worlds.predictors.subject import Subject, about, answers, as_predictor

GIVEN = "given"
# Pairs of each point of the sensitivity curves, at most.
SENSITIVITY_PAIRS = 200
EPSILONS = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1)
SUFFIXES = (1, 5, 30, 100)
DEPTHS = (1, 2, 3, 4, 5)


@alone
def evaluate_world_model(
    model: Subject,
    world: World,
    n: int = 1000,
    suffixes: int = 30,
    k: int = 5,
    acceptance: Acceptance = Epsilon(0.01),  # noqa: B008 (frozen)
    mode: str = "corrected",
    prefixes: PrefixKind | str | Sequence[Ids] = "random_walk",
    *,
    seed: int = 0,
    sequences: Sequence[Ids] | None = None,
    max_tokens: int | None = None,
    baselines: bool = True,
    sensitivity: bool = False,
    batch_size: int | None = None,
    progress: bool = True,
    resume: str | Path | None = None,
) -> WorldModelResult:
    r"""Measure whether a predictor holds the world: compression, distinction and next words.

    With :math:`L^m(s)` the strings that the model accepts after prefix s, word by word, and
    :math:`B^m`, :math:`B^W` the boundaries (strings in the first language and not in the second,
    minimal) of the model and of the world:

    .. math::
        \text{compression precision} &= P(B^m(s_1, s_2) = \emptyset \mid q_1 = q_2) \\
        \text{distinction precision} &= E\, |B^m \cap (L^W(q_1) \setminus L^W(q_2))| / |B^m| \\
        \text{distinction recall} &= E\, |B^W \cap (L^m(s_1) \setminus L^m(s_2))| / |B^W|

    ``"vafa2024"`` does as the published code: suffixes are drawn from the 50 most likely words,
    renormalised, scored by another rule; pairs with an empty boundary count 1; boundaries never
    hold ``end``; prefixes that could not be drawn are missing (here they are counted).
    ``"corrected"`` draws and scores by one rule, takes ``end`` into boundaries, drops empty
    boundaries and counts them, draws equal prefixes again. ``"exact"`` is ``"corrected"`` with
    the whole tree of accepted strings up to k words in place of samples.

    Samples find violations: precision falls as ``suffixes`` grows, so that numbers of different M
    do not compare. ``suffix_error``, the share of the drawn suffixes that the second prefix of a
    state refuses, does not depend on M; with x of M refused, ``compression_curve`` gives for every
    smaller M' the chance that none of M' is, :math:`\binom{M - x}{M'} / \binom{M}{M'}`.

    Args:
        model: A predictor (``load_sequence_model``, ``language_model``, ``callable_model``), a
            TransformerLens model with ``tokens.json`` beside its weights, or a function of ids
            ``[n, length]`` to next-word log-probabilities.
        world: What it should hold.
        n: Pairs of prefixes to draw for compression, and for distinction.
        suffixes: Suffixes drawn for each pair (M); not used by ``"exact"``.
        k: Longest string of the true boundary, and of the exact tree.
        acceptance: ``Epsilon``, ``TopK`` or ``TopP``.
        mode: ``"corrected"``, ``"vafa2024"`` or ``"exact"``.
        prefixes: ``"random_walk"`` (drawn from the world), ``"on_policy"`` (beginnings of what
            the model itself says) or sequences of ids whose beginnings are used.
        seed: Of everything drawn.
        sequences: What the next-token test reads; random walks if None.
        max_tokens: Words of prefix and suffix together; the world's ``max_length`` if None (128 in
            ``"vafa2024"``, for worlds whose sequences end).
        baselines: Put the same pairs to ``uniform``, ``legal_only``, the true automaton and an
            oracle that refuses legal words and accepts illegal ones as often as the model does in
            the same test.
        sensitivity: Also give curves over epsilon, M and k, on at most 200 pairs.
        batch_size: Pairs at once; None for as many as memory allows. Changes no draw.
        progress: Show a bar over pairs.
        resume: A file that finished batches are added to; a run that was interrupted goes on from
            there when it is called again with the same arguments.

    Returns:
        Metrics with 95 % intervals over states, beside the baselines; what was drawn, kept and
        dropped.

    Raises:
        ValueError: A setting out of range, a model that lacks a word of the world or whose context
            is too short, NaN probabilities, no pair left (with the counts), or a journal of another
            run.
        TypeError: ``model`` or ``acceptance`` is something else.

    Example:
        >>> from mechprobe.worlds import Dyck, true_automaton
        >>> world = Dyck(1, 3)
        >>> out = evaluate_world_model(
        ...     true_automaton(world), world, n=20, baselines=False, progress=False
        ... )
        >>> float(out.data["distinction_recall"].sel(model="given"))
        1.0

    Source:
        Vafa, Chen, Rambachan, Kleinberg, Mullainathan, "Evaluating the World Model Implicit in a
        Generative Model" (2024), https://arxiv.org/abs/2406.03689.
    """
    call = Call("evaluate_world_model", locals())
    request = checked(world, n, suffixes, k, acceptance, mode, max_tokens, seed)
    predictor = as_predictor(model, world)
    require_room(predictor, request)
    about_model = about(predictor)
    meant = {**request.recorded(world), "prefixes": named(prefixes), "sequences": named(sequences)}
    asked = {**call.told(**meant), "batch_size": None}  # which changes nothing that is kept
    run = {**asked, "world_digest": world.digest(), "model": about_model}
    journal = Journal(resume, run, lambda: answers(predictor, world, request.max_tokens))
    same, different = drawn_pairs(predictor, world, request, prefixes)
    walks = held_out_walks(world, request, sequences)
    exam = Exam(world, request, same, different, walks, journal, batch_size, progress)
    outcomes = {GIVEN: exam.outcome(GIVEN, predictor)}
    if baselines:
        for oracle in (uniform(world), legal_only(world), true_automaton(world)):
            outcomes[oracle.name] = exam.outcome(oracle.name, oracle)
        outcomes[NOISY] = exam.control(NOISY, outcomes[GIVEN])
    data = world_dataset(world, request, same, different, outcomes)
    if sensitivity:
        data = add_sensitivity(data, _curves(exam, predictor))
    record = call.record(about_model, exam.read(), seed=seed, **meant)
    return WorldModelResult(data, record)


def _curves(exam: Exam, predictor: Predictor) -> dict[tuple[str, float], dict[str, Interval]]:
    """Return means over epsilon, M and k, each on the same first pairs."""
    request = exam.request
    settings: list[tuple[str, float, Request]] = []
    if isinstance(request.acceptance, Epsilon):
        settings += [("epsilon", e, replace(request, acceptance=Epsilon(e))) for e in EPSILONS]
    if request.mode != "exact":
        settings += [("suffixes", m, replace(request, suffixes=m)) for m in SUFFIXES]
    settings += [("k", d, replace(request, k=d)) for d in sorted({*DEPTHS, request.k})]
    affected: dict[str, tuple[Test, ...]] = {
        "epsilon": TESTS,
        "suffixes": TESTS[:2],
        "k": TESTS if request.mode == "exact" else TESTS[2:],
    }
    out: dict[tuple[str, float], dict[str, Interval]] = {}
    for knob, value, changed in settings:
        curve = exam.scores("curve", affected[knob], predictor, changed, SENSITIVITY_PAIRS)
        found: dict[str, Interval] = {}
        for test, gathered in curve.items():
            n = len(gathered.values)
            pairs = (exam.same if test == "compression_precision" else exam.different).first(n)
            sampled, cluster = pairs.sampled(request.published), pairs.clusters(request.published)
            found[test] = unit_interval(gathered.values, cluster, sampled=sampled)
        out[knob, float(value)] = found
    return out
