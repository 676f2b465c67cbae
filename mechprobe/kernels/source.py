"""Compiling what is written in C, for exactly the processor at hand.

It takes a fifth of a second, so it is done when it is first needed, once a process; nothing is kept
on disk.
"""

import ctypes
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

# Not -ffast-math: linked with it, a library makes the whole process flush denormals to zero.
_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-shared", "-fPIC")
PORTABLE: tuple[str, ...] = ()
# From the best to what any compiler takes.
_EXTRA = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    PORTABLE,
)


class Built(NamedTuple):
    """What was compiled.

    Attributes:
        code: It, loaded.
        compiler: Name and version, as the compiler gives them.
        flags: For which processor, and with which help.
    """

    code: ctypes.CDLL
    compiler: str
    flags: tuple[str, ...]


def find_compiler() -> str | None:
    """Return the compiler to use; None where there is none."""
    named = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return next((c for c in named if shutil.which(c)), None)


@cache
def built(*names: str, extras: tuple[tuple[str, ...], ...] = _EXTRA) -> Built:
    """Compile sources of this folder into one library, and load it.

    Args:
        names: Their names, without ``.c``.
        extras: Flags to try, one set after the other.

    Raises:
        RuntimeError: No compiler was found, or none of its calls succeeded.
    """
    cc = find_compiler()
    if cc is None:
        msg = "no C compiler was found (CC, cc, gcc, clang)."
        raise RuntimeError(msg)
    sources = [str(Path(__file__).with_name(f"{name}.c")) for name in names]
    refused = ""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = Path(folder) / "native.so"
        for extra in extras:
            done = _run(cc, *_FLAGS, *extra, *sources, "-o", str(library), "-lm")
            if done.returncode == 0:
                version = _run(cc, "--version").stdout.partition("\n")[0].strip()
                return Built(ctypes.CDLL(str(library)), version or cc, extra)
            refused = done.stderr[-500:]
    msg = f"{cc} failed: {refused}"
    raise RuntimeError(msg)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
