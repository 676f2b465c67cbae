"""What every method returns: one labelled dataset, and the record of what made it."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import xarray as xr

from mechprobe.files import write_whole
from mechprobe.provenance import Json, Provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from mechprobe.results.html import Section

ENGINE = "h5netcdf"


@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """One ``xarray.Dataset`` and its ``Provenance``.

    Attributes:
        data: The numbers, with named dimensions; use xarray on it as you like.
        provenance: Function, arguments, model, versions and git state behind the numbers.
    """

    data: xr.Dataset
    provenance: Provenance

    kind: ClassVar[str] = ""
    version: ClassVar[int] = 1
    papers: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def schema(cls) -> str:
        """Return the schema that files of this kind carry."""
        return f"mechprobe/{cls.kind}/{cls.version}"

    def plot(self, kind: str = "") -> "go.Figure":
        """Draw the result; each kind of result lists its kinds of figure."""
        raise NotImplementedError

    def summary(self) -> "pd.DataFrame":
        """Return the small table that stands for the result in a notebook."""
        raise NotImplementedError

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the numbers as one long table."""
        return self.data.to_dataframe().reset_index()

    def save(self, path: str | Path) -> Path:
        """Write the result as one netCDF file; it appears whole or not at all.

        Args:
            path: Where to; ``.nc`` is customary.

        Returns:
            The path.

        Raises:
            OSError: The file cannot be written (no such folder, no room); a file that was there
                before is left as it was.
        """
        data = self.data.copy()
        data.attrs = {"schema": self.schema(), "provenance": self.provenance.to_json()}
        encoding = {name: _encoding(data[name]) for name in data.variables}
        # In memory: HDF5 that runs out of room takes the interpreter with it.
        whole = io.BytesIO()
        data.to_netcdf(whole, engine=ENGINE, encoding=encoding)
        return write_whole(path, whole.getvalue())

    def section(self) -> "Section":
        """Return the result as a section of a page; kinds that show more say so themselves."""
        from mechprobe.results.html import Section

        model = self.provenance.model.get("name", "")
        return Section(
            title=f"{self.provenance.function.removeprefix('mechprobe.')}: {model}",
            figures=[self.plot()],
            table=self.summary(),
            provenance=self.provenance.to_json(),
            citation=self.citation(),
        )

    def html(self, path: str | Path) -> Path:
        """Write the result as one self-contained page: figures, table, provenance, citation.

        Args:
            path: The page to write.

        Returns:
            The path.

        Raises:
            OSError: The page cannot be written; nothing is left behind.
        """
        from mechprobe.results.html import write_page

        title = f"{self.provenance.function} of {self.provenance.model.get('name', '?')}"
        return write_page(path, title, [self.section()])

    def to_json(self) -> str:
        """Return ``{"schema", "data", "provenance"}`` as JSON; NaN becomes null."""
        record: dict[str, object] = {
            "schema": self.schema(),
            "data": self.data.to_dict(),
            "provenance": json.loads(self.provenance.to_json()),
        }
        return json.dumps(_jsonable(record), ensure_ascii=False, allow_nan=False)

    def citation(self) -> str:
        """Return BibTeX for mechprobe and for the method's papers."""
        return "\n\n".join(bibliography()[key] for key in ("mechprobe", *self.papers))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.data.sizes.items())
        model = self.provenance.model.get("name", "?")
        return f"{type(self).__name__}({model}; {sizes})\n{self.summary().to_string()}"

    def _repr_html_(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.data.sizes.items())
        model = str(self.provenance.model.get("name", "?"))
        head = f"<b>{type(self).__name__}</b> {escape(model)} <small>{escape(sizes)}</small>"
        return f"<div>{head}{self.summary().to_html(escape=True)}</div>"


def _encoding(variable: xr.DataArray) -> dict[str, object]:
    """Return how to store a variable: compressed, text as characters.

    Strings of variable length cannot be compressed; as characters the text of a lens takes a
    thirtieth of the room.
    """
    if variable.ndim == 0 or variable.size == 0:
        return {}
    if variable.dtype.kind in "OU":
        return {"dtype": "S1", "zlib": True} if (variable != "").any() else {}
    return {"zlib": True}


def _jsonable(value: object) -> Json:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, float):
        # JSON has no NaN and no infinity.
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Sequence):
        return [_jsonable(v) for v in value]
    return str(value)


def read(path: str | Path) -> tuple[str, xr.Dataset, Provenance]:
    """Read a saved file: its schema, data and provenance.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a result of mechprobe.
    """
    path = Path(path).expanduser()
    if not path.exists():
        msg = f"there is no file {path}."
        raise FileNotFoundError(msg)
    try:
        data = xr.load_dataset(path, engine=ENGINE)
        schema, record = str(data.attrs.pop("schema")), str(data.attrs.pop("provenance"))
    except (OSError, KeyError, ValueError) as error:
        msg = f"{path} is not a result saved by mechprobe ({type(error).__name__}: {error})."
        raise ValueError(msg) from error
    return schema, data, Provenance.from_json(record)


@cache
def bibliography() -> dict[str, str]:
    """Return the BibTeX entries that ship with the package, by key."""
    text = (resources.files("mechprobe") / "citation.bib").read_text()
    entries = [f"@{part.strip()}" for part in text.split("@")[1:]]
    return {entry.split("{", 1)[1].split(",", 1)[0]: entry for entry in entries}
