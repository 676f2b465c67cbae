"""What needs a C compiler skips where there is none, and fails where there is one that fails."""

from typing import Any

import pytest


def compiler_or_skip() -> Any:
    """Return the compiled reductions."""
    from mechprobe.kernels.native import reductions

    try:
        return reductions()
    except RuntimeError as error:
        if "no C compiler" not in str(error):
            raise
        pytest.skip("no C compiler on this machine; torch's steps are used")
