"""How high the resident memory of this process rose since a chosen moment (Linux).

The kernel keeps the high-water mark itself (``VmHWM``) and starts it anew when 5 is written to
``/proc/self/clear_refs``: no sampling thread that could miss a peak or take time from what is
measured.
"""

import math
import re
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
METHOD = "VmHWM, reset through /proc/self/clear_refs"


def reset_peak() -> bool:
    """Start the high-water mark anew at the present use; return whether that was possible."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> float:
    """Return the high-water mark in bytes; NaN where the system does not tell."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return math.nan
    return 1024.0 * int(found[1]) if found else math.nan
