"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place in one step.

    Args:
        path: Where the file is to appear.
        write: Fills the file whose path it is given.

    Returns:
        The path.

    Raises:
        OSError: The file cannot be written (no room, say); a file that was there before is left as
            it was. ``FileNotFoundError`` where there is no such folder.
    """
    path = Path(path).expanduser()
    # In the same folder, so that the last step is a rename and never a copy.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}"
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        # HDF5 buries the reason in a paragraph; the system's own words are enough.
        why = os.strerror(error.errno) if error.errno else error
        msg = f"could not write {path}: {why}; nothing was left behind."
        missing = isinstance(error, FileNotFoundError)
        raise (FileNotFoundError if missing else OSError)(msg) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
