"""Worlds by name: every class that can be named is, in the guide and on the command line."""

import inspect
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parents[1] / "docs" / "guide" / "worlds.md"


def spelled() -> dict[str, Any]:
    from mechprobe import worlds

    classes = [c for c in vars(worlds).values() if inspect.isclass(c) and issubclass(c, worlds.World)]
    return {c.spelled: c for c in classes if c.__dict__.get("spelled")}


@pytest.mark.parametrize("name", ["grid:6", "othello:6", "seating:3", "connect4:2", "dyck:2:4"])
def test_a_name_with_sizes_is_that_world(name: str) -> None:
    from mechprobe.worlds import CumulativeConnect4, Dyck, Othello, Seating, StreetMap, named

    plain = {"grid:6": lambda: StreetMap.grid(6), "othello:6": lambda: Othello(6),
             "seating:3": lambda: Seating(3), "connect4:2": lambda: CumulativeConnect4(2),
             "dyck:2:4": lambda: Dyck(2, 4)}  # fmt: skip
    assert spelled().keys() == plain.keys()
    assert named(name).digest() == plain[name]().digest()


def test_sizes_with_defaults_may_be_left_out() -> None:
    from mechprobe.worlds import Dyck, Othello, named

    assert named("dyck:3").digest() == Dyck(3).digest()
    assert named("othello").digest() == Othello().digest()


@pytest.mark.parametrize("name", ["chess", "grid", "dyck:1:2:3", "seating:three", "seating:-1", ""])
def test_what_names_no_world_is_told_the_names(name: str) -> None:
    from mechprobe.worlds import named

    with pytest.raises(ValueError, match=rf"'{name}' names no world; worlds are spelled .*dyck:2:4"):
        named(name)


def test_sizes_out_of_range_are_the_world_s_own_error() -> None:
    from mechprobe.worlds import named

    with pytest.raises(ValueError, match="takes 2 to 5 people; found 9"):
        named("seating:9")


def test_a_class_of_one_s_own_is_known() -> None:
    from mechprobe.worlds import Dyck, named

    class Nested(Dyck):
        """Brackets of one kind."""

        spelled = "nested:3"

        def __init__(self, depth: int) -> None:
            super().__init__(1, depth)

    try:
        assert named("nested:3").digest() == Dyck(1, 3).digest()
    finally:
        Nested.spelled = ""  # other tests see the package's own


def test_the_guide_names_them_all() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    for name, kind in spelled().items():
        assert f"`{kind.__name__}" in guide, kind
        assert f"`{name}`" in guide, name
