"""Files that appear whole or not at all."""

import os
import secrets
import stat
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no advisory locks; there leftovers of killed runs stay.
    fcntl = None


def write_whole(path: str | Path, content: bytes) -> Path:
    """Put a file in its place in one step, from memory.

    It is written beside its place, brought to the disk and renamed. A file that was there keeps its
    permissions, a link still leads to where it led, and what killed runs left beside it goes.

    Args:
        path: Where the file is to appear.
        content: All of it.

    Returns:
        The path.

    Raises:
        OSError: The file cannot be written (no room, say); a file that was there before is left as
            it was. ``FileNotFoundError`` where there is no such folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(f"{folder}/a.txt", b"all").read_text()
        'all'
    """
    path = Path(path).expanduser()
    # A link is kept: what it leads to is written.
    place = Path(os.path.realpath(path))
    temporary = place
    try:
        with _beside(place) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if place.exists():
                temporary.chmod(stat.S_IMODE(place.stat().st_mode))
            temporary.replace(place)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        msg = f"could not write {path}: {why}; nothing was left behind."
        missing = isinstance(error, FileNotFoundError)
        raise (FileNotFoundError if missing else OSError)(msg) from error
    finally:
        if temporary != place:
            temporary.unlink(missing_ok=True)
    _clear(place)
    return path


def _beside(place: Path) -> BufferedWriter:
    """Open a new file beside ``place``, and hold its lock as long as it is open."""
    while True:
        file = (place.parent / f".{place.name}.{secrets.token_hex(6)}").open("xb")
        if fcntl is None:
            return file
        # Where there are no locks nothing is cleared either.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        # Another may have cleared it before it was locked.
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def _clear(place: Path) -> None:
    """Remove what writers of this file left that are no more: whose lock nobody holds."""
    if fcntl is None:
        return
    for left in place.parent.glob(f".{place.name}.{'[0-9a-f]' * 12}"):
        # Another's, or gone meanwhile: then it is not ours to remove.
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
