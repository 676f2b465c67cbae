"""The ``mechprobe`` command: thin, every option a parameter of the library."""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from cyclopts import App, CycloptsError

import mechprobe
from mechprobe.cli.bench import bench
from mechprobe.cli.heads import heads
from mechprobe.cli.lens import lens
from mechprobe.cli.models import check, models
from mechprobe.cli.report import cite, demo, report
from mechprobe.cli.study import study
from mechprobe.cli.world import world

app = App(
    name="mechprobe",
    help="Where in a transformer is the answer? Lens, heads and worlds on TransformerLens.",
    version=mechprobe.__version__,
    help_format="plaintext",
)
for command in (demo, lens, heads, world, check, models, bench, study, report, cite):
    app.command(command)

_WRONG_USE = (ValueError, TypeError, NotImplementedError, IndexError, FileNotFoundError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit 0 when done, 1 when it failed, 2 when used wrongly."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that cannot show an emoji shows its escape.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors are one line on standard error."""
    try:
        code = app(
            list(arguments) if arguments is not None else None,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        return _complain(f"{error} Try mechprobe --help.", 2)
    except _WRONG_USE as error:
        if os.environ.get("MECHPROBE_DEBUG"):
            raise
        return _complain(str(error), 2)
    except OSError as error:
        return _complain(str(error), 1)
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    print(f"mechprobe: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return code
