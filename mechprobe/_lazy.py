"""Names of a package that are loaded when they are first used (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: Its ``__name__``.
        homes: Module of each name; a module of that name itself is meant by "".
    """

    def get(name: str) -> object:
        home = homes.get(name)
        if home is None:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(import_module(home), name) if home else import_module(f"{package}.{name}")

    def names() -> list[str]:
        here = vars(sys.modules[package])
        return sorted(here.get("__all__", {*here, *homes}))

    return get, names
