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


@cache
def compiled(*names: str, extras: tuple[tuple[str, ...], ...] = _EXTRA) -> ctypes.CDLL:
    """Compile sources of this folder into one library, and load it.

    Args:
        names: Their names, without ``.c``.
        extras: Flags to try, one set after the other.

    Raises:
        RuntimeError: No compiler was found, or none of its calls succeeded.
    """
    cc = next(
        (c for c in (os.environ.get("CC", ""), "cc", "gcc", "clang") if shutil.which(c)), None
    )
    if cc is None:
        msg = "no C compiler was found (CC, cc, gcc, clang)."
        raise RuntimeError(msg)
    sources = [str(Path(__file__).with_name(f"{name}.c")) for name in names]
    refused = ""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = Path(folder) / "native.so"
        for extra in extras:
            command = [cc, *_FLAGS, *extra, *sources, "-o", str(library), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return ctypes.CDLL(str(library))
            refused = done.stderr[-500:]
    msg = f"{cc} failed: {refused}"
    raise RuntimeError(msg)
