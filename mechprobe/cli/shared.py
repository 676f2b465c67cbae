"""Options that several commands have: which model, and where the result goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

import mechprobe
from mechprobe.cli.show import Keep, deliver, require_folders

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

    from mechprobe.results import Result

PACKAGED = "smollm2-135m-instruct"


@Parameter(name="*")
@dataclass(frozen=True)
class Loading:
    """Which model.

    Attributes:
        model: Packaged name, folder or hub id.
        revision: Branch, tag or commit, for hub ids.
        device: Where to run.
    """

    model: str = PACKAGED
    revision: str | None = None
    device: str | None = None

    def load(self) -> "TransformerBridge":
        """Return the model."""
        return mechprobe.load_model(self.model, revision=self.revision, device=self.device)


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """Where results go.

    Attributes:
        json: Print the result as JSON and nothing else.
        out: Save the result here (netCDF, .nc).
        html: Write the result as a page here.
    """

    json: bool = False
    out: Path | None = None
    html: Path | None = None

    def check(self) -> None:
        """Refuse to start on what could not be written down."""
        require_folders(self.out, self.html)

    def deliver(self, result: "Result", table: "pd.DataFrame | None" = None, keep: Keep = "all") -> None:
        """Show the result, as its summary or another table, and write it where asked to."""
        shown: Any = result
        deliver(
            result,
            shown.summary() if table is None else table,
            json=self.json,
            out=self.out,
            html=self.html,
            keep=keep,
        )
