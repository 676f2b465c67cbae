"""``mechprobe lens``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import mechprobe
from mechprobe.cli.show import PACKAGED, deliver, refuse_idle, require_folders

if TYPE_CHECKING:
    from mechprobe.lens.results import LensResult


def lens(
    *,
    prompt: str,
    model: str = PACKAGED,
    generate: int = 0,
    continuation: str | None = None,
    target: Annotated[list[str] | None, Parameter(negative=())] = None,
    chat: bool = False,
    answer_start: str = "",
    all_positions: bool = False,
    stream: Literal["resid_post", "resid_mid", "attn_out", "mlp_out"] = "resid_post",
    norm: Literal["final", "none"] = "final",
    top_k: int = 10,
    temperature: float = 0.0,
    seed: int = 0,
    revision: str | None = None,
    device: str | None = None,
    json: bool = False,
    out: Path | None = None,
    html: Path | None = None,
) -> None:
    """Show what a model would say after every layer.

    Args:
        prompt: The text to read.
        model: Packaged name, folder or hub id.
        generate: Generate this many tokens and read every step.
        continuation: Read this answer instead of generating one.
        target: A token to follow (one token; a leading space belongs to it); may be repeated.
        chat: Put the prompt into the model's chat template.
        answer_start: With --chat: first words of the answer.
        all_positions: Read every position of the prompt, not only the last.
        stream: Which activation to read.
        norm: Apply the final norm, or read raw residuals.
        top_k: Tokens kept per cell.
        temperature: Of the generation; 0 takes the most likely token.
        seed: Of the sampling.
        revision: Branch, tag or commit, for hub ids.
        device: Where to run.
        json: Print the result as JSON and nothing else.
        out: Save the result here (netCDF, .nc).
        html: Write a page with the figures here.
    """
    refuse_idle(
        ("--answer-start", bool(answer_start), "--chat", chat),
        ("--temperature", temperature > 0, "--generate", generate > 0),
        ("--generate", generate > 0, "no --continuation", continuation is None),
        ("--all-positions", all_positions, "no --generate", not generate),
    )
    require_folders(out, html)
    loaded = mechprobe.load_model(model, revision=revision, device=device)
    if chat:
        prompt = mechprobe.chat_prompt(loaded, prompt, answer_start=answer_start)
    shared = {"stream": stream, "norm": norm, "top_k": top_k, "targets": target}
    result = _read_lens(
        loaded, prompt, generate, continuation, None if all_positions else -1,
        temperature=temperature, seed=seed, progress=not json, **shared,
    )  # fmt: skip
    deliver(result, result.table(), json=json, out=out, html=html)


def _read_lens(
    model: Any,
    prompt: str,
    generate: int,
    continuation: str | None,
    positions: int | None,
    *,
    temperature: float,
    seed: int,
    **shared: Any,
) -> "LensResult":
    """Read a prompt, or a generation from it, or a given continuation of it."""
    if not generate and continuation is None:
        return mechprobe.logit_lens(model, prompt, positions=positions, **shared)
    return mechprobe.generate_with_lens(
        model, prompt, max_new_tokens=generate or 1, continuation=continuation,
        temperature=temperature, seed=seed, **shared,
    )  # fmt: skip
