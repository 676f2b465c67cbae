"""Worlds by name: what the command line takes, and what a study or a file may say."""

from collections.abc import Iterator
from inspect import Parameter, signature

from mechprobe.worlds.automata.base import World


def named(text: str) -> World:
    """Return the world of a name with sizes, as ``"seating:3"`` or ``"dyck:2:4"``.

    Args:
        text: As ``spelled`` of a class; sizes from the right may be left out where the class has
            defaults. Classes of your own that say how they are spelled are known too.

    Returns:
        The world.

    Raises:
        ValueError: No class is spelled so, or the sizes are no numbers, too few or too many.

    Example:
        >>> named("seating:3").n_states
        19
    """
    name, *sizes = text.split(":")
    spelled = {kind.spelled.partition(":")[0]: kind for kind in _kinds(World)}
    if name in spelled and all(size.isdecimal() for size in sizes):
        make = spelled[name].maker()
        places = [p for p in signature(make).parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
        needed = sum(p.default is Parameter.empty for p in places)
        if needed <= len(sizes) <= len(places):
            return make(*map(int, sizes))
    known = ", ".join(kind.spelled for kind in spelled.values())
    msg = f"{text!r} names no world; worlds are spelled {known}."
    raise ValueError(msg)


def _kinds(kind: type[World]) -> Iterator[type[World]]:
    """Yield the classes that say how they are spelled."""
    for one in kind.__subclasses__():
        if one.__dict__.get("spelled"):
            yield one
        yield from _kinds(one)
