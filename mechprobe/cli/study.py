"""``mechprobe study``."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from mechprobe.cli.show import require_folders, say

study = App(name="study", help="Put statistics on trial.", help_format="plaintext")


@study.command
def statistics(
    *,
    part: Annotated[list[str] | None, Parameter(negative=())] = None,
    runs: float = 1.0,
    seed: int = 0,
    journal: Path | None = None,
) -> int:
    """Simulate with known truth what intervals, p-values, lists of heads and controls promise.

    Exits with 1 where a promise is broken.

    Args:
        part: intervals, bands, p-values, discoveries, bias or oracles; may be repeated. All by
            default, which takes hours.
        runs: Times the usual number of runs; 0.1 for a first look.
        seed: Of the simulations.
        journal: Add every finished line to this file; started again, it goes on from there.
    """
    from mechprobe.study import PARTS, study_statistics

    require_folders(journal)
    found = study_statistics(
        part or PARTS,
        runs=runs,
        seed=seed,
        journal=journal,
        tell=lambda line: print(line, file=sys.stderr),  # noqa: T201
    )
    say(str(found))
    return 1 if found.failed else 0
