"""Which model and which world: what all world commands are told."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from mechprobe.worlds import Acceptance, Ids, LanguageModel, StreetMap, World

SHIPPED = ("random_walks", "shortest_paths")


@Parameter(name="*")
@dataclass(frozen=True)
class Subject:
    """Which model, of which world.

    Attributes:
        model: A model that comes with the package (random_walks, shortest_paths), or a folder or
            hub id with a tokens.json.
        world: An edge list (.csv: node, direction, neighbor), or a name with sizes: seating:3,
            othello:6 (a wrong one lists all); not for models of the package.
        device: Where to run.
    """

    model: str = "random_walks"
    world: str | None = None
    device: str | None = None

    def load(self) -> "tuple[LanguageModel, World]":
        """Return model and world."""
        from mechprobe import worlds

        if self.model in SHIPPED:
            if self.world is not None:
                msg = f"--world has no effect here: {self.model} comes with its own."
                raise ValueError(msg)
            name: Any = self.model
            return worlds.load_shipped(name)
        if self.world is None:
            msg = f"--world is needed: which world are the words of {self.model} of? For instance "
            raise ValueError(msg + "--world edges.csv, or --world seating:3.")
        there = world_named(self.world)
        return worlds.load_sequence_model(self.model, there, device=self.device), there

    def held_out(self) -> "list[Ids] | None":
        """Return what a model of the package was judged by; None for others."""
        from mechprobe.worlds import shipped_held_out

        name: Any = self.model
        return shipped_held_out(name) if name in SHIPPED else None


def world_named(text: str) -> "World":
    """Return the world that ``--world`` names.

    Raises:
        ValueError: It names none.
    """
    from mechprobe import worlds

    if text.endswith(".csv"):
        return worlds.StreetMap.from_edges(text)
    try:
        return worlds.named(text)
    except ValueError as error:
        msg = f"--world is an edge list (.csv) or a world's name: {error}"
        raise ValueError(msg) from error


def acceptance_named(text: str) -> "Acceptance":
    """Return the rule that ``--acceptance`` names.

    Raises:
        ValueError: It names none, or its number is out of range.
    """
    from mechprobe.worlds import Epsilon, TopK, TopP

    name, _, value = text.partition(":")
    makers: dict[str, Any] = {"epsilon": Epsilon, "top-k": TopK, "top-p": TopP}
    kinds: dict[str, Any] = {"epsilon": float, "top-k": int, "top-p": float}
    try:
        number = kinds[name](value)
    except (KeyError, ValueError):
        msg = f"--acceptance {text!r} is none of epsilon:0.01, top-k:5, top-p:0.9."
        raise ValueError(msg) from None
    rule: Acceptance = makers[name](number)
    return rule


def streets_of(there: "World") -> "StreetMap":
    """Return a world that is streets.

    Raises:
        ValueError: It is not.
    """
    from mechprobe.worlds import StreetMap

    if not isinstance(there, StreetMap):
        msg = f"this goes with streets; {there.name} has none."
        raise ValueError(msg)
    return there
