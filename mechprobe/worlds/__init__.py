"""Worlds: deterministic automata over words, which a next-token predictor may or may not hold.

Every world steps many states at once. A state is a row of integers, reject a row that begins with
a negative number; words are ids. For metrics, four calls go together::

    states = world.sample_states(rng, 1000)
    prefixes = world.sample_prefixes(states, rng)             # which lead to exactly these states
    again = world.sample_prefixes(states, rng, prefixes.lengths)   # others of the same length
    apart = boundary(world, states1, states2, k=5)            # what tells two states apart

and ``world.step(states, tokens)``, ``legal``, ``moves`` and ``accepts`` follow a batch of
continuations in lockstep. ``published=True`` draws as the code of the paper does, its failures
included; everything is drawn from the ``numpy.random.Generator`` that is passed.

Worlds are ``StreetMap``, ``Othello``, ``Seating``, ``CumulativeConnect4``, ``Dyck``, ``Automaton``,
``Counter`` and ``Group``; ``named("seating:3")`` makes one of a name. ``docs/guide/worlds.md`` says
what their words and states are.

A model is asked through a ``Predictor``: ``load_sequence_model(folder, world)``,
``language_model(model, world, vocabulary)``, ``callable_model(fn, world)``, or an oracle
(``uniform``, ``legal_only``, ``true_automaton``, ``noisy_oracle``) of which it is known how it
scores; ``evaluate_world_model`` puts them to the metrics. Only the names that need torch load it.

Source:
    Vafa, Chen, Rambachan, Kleinberg, Mullainathan, "Evaluating the World Model Implicit in a
    Generative Model" (2024), https://arxiv.org/abs/2406.03689.
"""

from typing import TYPE_CHECKING

from mechprobe._lazy import lazy
from mechprobe.worlds.automata.algebra import Counter as Counter
from mechprobe.worlds.automata.algebra import Group as Group
from mechprobe.worlds.automata.arrays import Ids as Ids
from mechprobe.worlds.automata.arrays import Mask as Mask
from mechprobe.worlds.automata.arrays import Prefixes as Prefixes
from mechprobe.worlds.automata.arrays import States as States
from mechprobe.worlds.automata.arrays import pad as pad
from mechprobe.worlds.automata.automaton import Automaton as Automaton
from mechprobe.worlds.automata.base import World as World
from mechprobe.worlds.automata.connect4 import CumulativeConnect4 as CumulativeConnect4
from mechprobe.worlds.automata.dyck import Dyck as Dyck
from mechprobe.worlds.automata.language import Boundary as Boundary
from mechprobe.worlds.automata.language import boundary as boundary
from mechprobe.worlds.automata.language import boundary_sizes as boundary_sizes
from mechprobe.worlds.automata.language import distinguishing_length as distinguishing_length
from mechprobe.worlds.automata.minimise import nerode_classes as nerode_classes
from mechprobe.worlds.automata.named import named as named
from mechprobe.worlds.automata.othello import Othello as Othello
from mechprobe.worlds.automata.seating import Seating as Seating
from mechprobe.worlds.automata.sequences import first_illegal as first_illegal
from mechprobe.worlds.automata.sequences import read_sequences as read_sequences
from mechprobe.worlds.automata.table import TableWorld as TableWorld
from mechprobe.worlds.metrics.next_word import Validity as Validity
from mechprobe.worlds.metrics.next_word import next_token_validity as next_token_validity
from mechprobe.worlds.predictors.acceptance import Acceptance as Acceptance
from mechprobe.worlds.predictors.acceptance import Epsilon as Epsilon
from mechprobe.worlds.predictors.acceptance import TopK as TopK
from mechprobe.worlds.predictors.acceptance import TopP as TopP
from mechprobe.worlds.predictors.callables import callable_model as callable_model
from mechprobe.worlds.predictors.oracles import Oracle as Oracle
from mechprobe.worlds.predictors.oracles import legal_only as legal_only
from mechprobe.worlds.predictors.oracles import noisy_oracle as noisy_oracle
from mechprobe.worlds.predictors.oracles import true_automaton as true_automaton
from mechprobe.worlds.predictors.oracles import uniform as uniform
from mechprobe.worlds.predictors.policy import own_sequences as own_sequences
from mechprobe.worlds.predictors.predictor import Cursor as Cursor
from mechprobe.worlds.predictors.predictor import Predictor as Predictor
from mechprobe.worlds.streets.street_map import StreetMap as StreetMap
from mechprobe.worlds.streets.traversals import Traversals as Traversals
from mechprobe.worlds.streets.traversals import valid_traversals as valid_traversals

if TYPE_CHECKING:
    from mechprobe.worlds.inside.patching import patch_states as patch_states
    from mechprobe.worlds.inside.probes import probe_states as probe_states
    from mechprobe.worlds.inside.results import StatePatching as StatePatching
    from mechprobe.worlds.inside.results import StateProbes as StateProbes
    from mechprobe.worlds.metrics.by_layer import world_by_layer as world_by_layer
    from mechprobe.worlds.metrics.evaluate import evaluate_world_model as evaluate_world_model
    from mechprobe.worlds.metrics.results import WorldByLayer as WorldByLayer
    from mechprobe.worlds.metrics.results import WorldModelResult as WorldModelResult
    from mechprobe.worlds.predictors.loaded import language_model as language_model
    from mechprobe.worlds.predictors.loaded import load_sequence_model as load_sequence_model
    from mechprobe.worlds.predictors.network import LanguageModel as LanguageModel
    from mechprobe.worlds.puzzles.puzzles import chat_judge as chat_judge
    from mechprobe.worlds.puzzles.puzzles import seating_puzzles as seating_puzzles
    from mechprobe.worlds.puzzles.results import SeatingPuzzles as SeatingPuzzles
    from mechprobe.worlds.streets.detours import detours as detours
    from mechprobe.worlds.streets.reconstruct import corrupted as corrupted
    from mechprobe.worlds.streets.reconstruct import reconstruct_map as reconstruct_map
    from mechprobe.worlds.streets.results import Detours as Detours
    from mechprobe.worlds.streets.results import MapReconstruction as MapReconstruction
    from mechprobe.worlds.training.results import SequenceTraining as SequenceTraining
    from mechprobe.worlds.training.shipped import load_shipped as load_shipped
    from mechprobe.worlds.training.shipped import make_shipped as make_shipped
    from mechprobe.worlds.training.shipped import shipped_held_out as shipped_held_out
    from mechprobe.worlds.training.shipped import shipped_sequences as shipped_sequences
    from mechprobe.worlds.training.shipped import shipped_training as shipped_training
    from mechprobe.worlds.training.shipped import shipped_world as shipped_world
    from mechprobe.worlds.training.train import train_sequence_model as train_sequence_model

_HOMES = {
    "Detours": "mechprobe.worlds.streets.results",
    "LanguageModel": "mechprobe.worlds.predictors.network",
    "MapReconstruction": "mechprobe.worlds.streets.results",
    "SeatingPuzzles": "mechprobe.worlds.puzzles.results",
    "SequenceTraining": "mechprobe.worlds.training.results",
    "StatePatching": "mechprobe.worlds.inside.results",
    "StateProbes": "mechprobe.worlds.inside.results",
    "WorldByLayer": "mechprobe.worlds.metrics.results",
    "WorldModelResult": "mechprobe.worlds.metrics.results",
    "chat_judge": "mechprobe.worlds.puzzles.puzzles",
    "corrupted": "mechprobe.worlds.streets.reconstruct",
    "detours": "mechprobe.worlds.streets.detours",
    "evaluate_world_model": "mechprobe.worlds.metrics.evaluate",
    "language_model": "mechprobe.worlds.predictors.loaded",
    "load_sequence_model": "mechprobe.worlds.predictors.loaded",
    "load_shipped": "mechprobe.worlds.training.shipped",
    "make_shipped": "mechprobe.worlds.training.shipped",
    "patch_states": "mechprobe.worlds.inside.patching",
    "probe_states": "mechprobe.worlds.inside.probes",
    "reconstruct_map": "mechprobe.worlds.streets.reconstruct",
    "seating_puzzles": "mechprobe.worlds.puzzles.puzzles",
    "shipped_held_out": "mechprobe.worlds.training.shipped",
    "shipped_sequences": "mechprobe.worlds.training.shipped",
    "shipped_training": "mechprobe.worlds.training.shipped",
    "shipped_world": "mechprobe.worlds.training.shipped",
    "train_sequence_model": "mechprobe.worlds.training.train",
    "world_by_layer": "mechprobe.worlds.metrics.by_layer",
}
__getattr__, __dir__ = lazy(__name__, _HOMES)
