"""``mechprobe lens``."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import mechprobe
from mechprobe.cli.shared import Loading, Output
from mechprobe.cli.show import refuse_idle

if TYPE_CHECKING:
    from mechprobe.lens.results import LensResult

_MODEL, _OUTPUT = Loading(), Output()


def lens(
    *,
    prompt: str,
    loading: Loading = _MODEL,
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
    output: Output = _OUTPUT,
) -> None:
    """Show what a model would say after every layer.

    Args:
        prompt: The text to read.
        loading: The model.
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
        output: Where it goes.
    """
    refuse_idle(
        ("--answer-start", bool(answer_start), "--chat", chat),
        ("--temperature", temperature > 0, "--generate", generate > 0),
        ("--generate", generate > 0, "no --continuation", continuation is None),
        ("--all-positions", all_positions, "no --generate", not generate),
    )
    output.check()
    loaded = loading.load()
    if chat:
        prompt = mechprobe.chat_prompt(loaded, prompt, answer_start=answer_start)
    shared = {"stream": stream, "norm": norm, "top_k": top_k, "targets": target}
    result = _read_lens(
        loaded,
        prompt,
        generate,
        continuation,
        None if all_positions else -1,
        temperature=temperature,
        seed=seed,
        progress=not output.json,
        **shared,
    )
    output.deliver(result, result.table(), keep="last")


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
        model,
        prompt,
        max_new_tokens=generate or 1,
        continuation=continuation,
        temperature=temperature,
        seed=seed,
        **shared,
    )
