"""Is the model that mechprobe reads the model that Hugging Face runs?"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor

from mechprobe.models.attention import HALF_SCORE_TOLERANCE, SCORE_TOLERANCE, score_error
from mechprobe.models.identity import source_of
from mechprobe.models.protocol import Model, model_name, tokenizer_of
from mechprobe.models.quiet import quiet
from mechprobe.models.run import run
from mechprobe.models.support import require_model
from mechprobe.models.unembed import unembedding

_TEXT = "The quick brown fox jumps over the lazy dog. 12 + 30 = 42, and \u00e9 is an accented e."
_N_RANDOM = 24
# Log-probabilities in nats: eager attention twice differs by some 1e-5 in float32.
_LOG_PROB_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF_TOLERANCE = 0.5


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One comparison.

    Attributes:
        name: What was compared.
        error: Largest difference found; NaN where the comparison does not apply.
        tolerance: Largest difference allowed.
        note: Unit, or why the comparison does not apply.
    """

    name: str
    error: float
    tolerance: float
    note: str

    @property
    def status(self) -> str:
        """``"ok"``, ``"FAILED"`` or ``"skipped"``."""
        if math.isnan(self.error):
            return "skipped"
        return "ok" if self.error <= self.tolerance else "FAILED"


@dataclass(frozen=True)
class ModelCheck:
    """Outcome of ``check_model``: a line per comparison."""

    model: str
    lines: tuple[CheckLine, ...]

    @property
    def passed(self) -> bool:
        """Whether no comparison failed."""
        return all(line.status != "FAILED" for line in self.lines)

    def to_json(self) -> str:
        """Return the comparisons as JSON; what does not apply has error null."""
        lines: list[dict[str, Any]] = [{**asdict(x), "status": x.status} for x in self.lines]
        for line in lines:
            line["error"] = None if line["status"] == "skipped" else line["error"]
        return json.dumps({"model": self.model, "passed": self.passed, "lines": lines})

    def __repr__(self) -> str:
        head = f"ModelCheck of {self.model}: {'passed' if self.passed else 'FAILED'}"
        rows = [
            f"  {x.status:8}{x.name:44}{x.error:10.2e} of {x.tolerance:.0e}  {x.note}"
            if x.status != "skipped"
            else f"  {x.status:8}{x.name:44}{x.note}"
            for x in self.lines
        ]
        return "\n".join([head, *rows])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


@torch.no_grad()
def check_model(model: Model, *, strict: bool = False) -> ModelCheck:
    r"""Compare what mechprobe reads from a model with the model itself, on one short text.

    Three comparisons: the model's logits against plain Hugging Face loaded with eager attention;
    the last lens row (final norm and unembedding of the last ``resid_post``) against the model's
    own output; captured :math:`q \cdot k`, rotated, scaled and capped as the model does, against
    its attention scores. What does not apply is skipped with the reason.

    Args:
        model: A TransformerLens model.
        strict: Raise instead of reporting a failed comparison.

    Returns:
        A ``ModelCheck``; print it, or ask ``.passed``.

    Raises:
        ValueError: A comparison failed and ``strict`` is set.
        TypeError, NotImplementedError: The model cannot be analysed at all.
    """
    require_model(model)
    ids = _sample(model)
    checks: list[Callable[[Model, Tensor], CheckLine]] = [_hugging_face, _last_row, _scores]
    lines = tuple(check(model, ids) for check in checks)
    result = ModelCheck(str(getattr(model.cfg, "model_name", model_name(model))), lines)
    if strict and not result.passed:
        raise ValueError(str(result))
    return result


def _sample(model: Model) -> Tensor:
    tokenizer = tokenizer_of(model)
    n_ctx, d_vocab = int(model.cfg.n_ctx), int(model.cfg.d_vocab)
    if tokenizer is not None:
        ids = torch.tensor([tokenizer(_TEXT)["input_ids"]])
    else:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, d_vocab, (1, _N_RANDOM), generator=generator)
    return ids[:, :n_ctx].to(model.cfg.device)


def _hugging_face(model: Model, ids: Tensor) -> CheckLine:
    name = "logits against Hugging Face, eager attention"
    source = source_of(model)
    if source is None or source.folder is None:
        return CheckLine(name, torch.nan, 0.0, "weights in memory: no checkpoint to load again")
    from transformers import AutoModelForCausalLM

    dtype = next(model.parameters()).dtype  # pyrefly: ignore[missing-attribute]
    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(
            source.folder, attn_implementation="eager", dtype=dtype
        )
    theirs = plain.eval()(input_ids=ids.cpu()).logits
    ours = run(model, ids, {}, logits="all").logits
    assert ours is not None
    difference = (_log_probs(ours) - _log_probs(theirs)).abs().max()
    tolerance = _LOG_PROB_TOLERANCE.get(dtype, _HALF_TOLERANCE)
    return CheckLine(name, float(difference), tolerance, "nats")


def _last_row(model: Model, ids: Tensor) -> CheckLine:
    kept: list[Tensor] = []
    hook = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    logits = run(model, ids, {hook: kept.append}, logits="all").logits
    assert logits is not None
    ours = unembedding(model).logits(kept[0][0])
    difference = (_log_probs(ours) - _log_probs(logits[0])).abs().max()
    tolerance = _LOG_PROB_TOLERANCE.get(ours.dtype, _HALF_TOLERANCE)
    return CheckLine("last lens row against the model's own output", float(difference),
                     tolerance, "nats")  # fmt: skip


def _log_probs(logits: Tensor) -> Tensor:
    return (
        logits.detach().cpu().to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    )


def _scores(model: Model, ids: Tensor) -> CheckLine:
    name = "q . k against attention scores"
    error, note = score_error(model, ids)
    if math.isnan(error):
        return CheckLine(name, torch.nan, 0.0, note)
    dtype = next(model.parameters()).dtype  # pyrefly: ignore[missing-attribute]
    tolerance = SCORE_TOLERANCE.get(dtype, HALF_SCORE_TOLERANCE)
    return CheckLine(name, error, tolerance, f"of the largest score, {note}")
