"""What decides between equally right arithmetic and stays the same in a process: the processor."""

import platform
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

_CPUINFO = Path("/proc/cpuinfo")
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
_VENDORS = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}


class Processor(NamedTuple):
    """A processor.

    Attributes:
        vendor: ``"amd"``, ``"intel"`` or ``"other"``.
        avx512: Whether it has those parts of AVX-512 without which torch never takes oneDNN.
        amx: Whether it has AMX, with which a product "in bfloat16" really is one.
    """

    vendor: str
    avx512: bool
    amx: bool


@cache
def processor() -> Processor:
    """Return what is known of this processor; what cannot be found out counts as not there."""
    lines = _cpuinfo()
    features = _features() or set(lines.get("flags", "").replace("_", "").split())
    # On Windows the second one ends in the vendor.
    told = f"{lines.get('vendor_id', '')} {platform.processor()}"
    vendor = next((short for name, short in _VENDORS.items() if name in told), "other")
    return Processor(vendor, all(x in features for x in _AVX512), "amxtile" in features)


def _features() -> set[str]:
    """Return the features that torch finds, spelled without underscores; torch 2.9 does not say."""
    ask: Any = getattr(torch.cpu, "get_capabilities", dict)
    return {name.replace("_", "") for name, found in ask().items() if found is True}


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first core."""
    try:
        first = _CPUINFO.read_text(errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":")[::2] for line in first.splitlines())
    return {name.strip(): value.strip() for name, value in pairs}
