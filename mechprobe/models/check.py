"""Is the model that mechprobe reads the model that Hugging Face runs?"""

import json
import math
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor

from mechprobe.models.attention import HALF_SCORE_TOLERANCE, SCORE_TOLERANCE, score_error
from mechprobe.models.branch import branching
from mechprobe.models.identity import source_of
from mechprobe.models.internals import expand_positions, hugging_face, last_stream
from mechprobe.models.protocol import Model
from mechprobe.models.quiet import quiet
from mechprobe.models.run import run
from mechprobe.models.session import Session, alone, opened
from mechprobe.models.twin import attention_for

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


@alone
def check_model(model: Model, *, strict: bool = False) -> ModelCheck:
    r"""Compare what mechprobe reads from a model with the model itself, on one short text.

    The model's logits against plain Hugging Face, loaded again with eager attention; the last lens
    row (final norm and unembedding of the last ``resid_post``) against the model's own output; the
    kinds of passes that analyses make (padded, long, continued from a cache), in the way in which
    they make them, against the model called as you call it; captured :math:`q \cdot k`, rotated,
    scaled and capped as the model does, against its attention scores. What does not apply is
    skipped with the reason.

    Args:
        model: A TransformerLens model.
        strict: Raise instead of reporting a failed comparison.

    Returns:
        A ``ModelCheck``; print it, or ask ``.passed``.

    Raises:
        ValueError: A comparison failed and ``strict`` is set.
        TypeError, NotImplementedError: The model cannot be analysed at all.
    """
    session = opened(model)
    ids = _sample(session)
    lines = (
        _hugging_face(session, ids),
        _last_row(session, ids),
        *_paths(session, ids),
        _scores(session, ids),
    )
    result = ModelCheck(str(getattr(session.cfg, "model_name", session.name)), lines)
    if strict and not result.passed:
        raise ValueError(str(result))
    return result


def _sample(session: Session) -> Tensor:
    n_ctx, d_vocab = int(session.cfg.n_ctx), int(session.cfg.d_vocab)
    if session.tokenizer is not None:
        ids = torch.tensor([session.tokenizer(_TEXT)["input_ids"]])
    else:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, d_vocab, (1, _N_RANDOM), generator=generator)
    return ids[:, :n_ctx].to(session.device)


def _own_log_probs(session: Session, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return what the model itself answers, called as its user calls it."""
    hf = hugging_face(session.model)
    if hf is None:
        model: Any = session.model
        return _log_probs(model(ids, return_type="logits"))
    expand_positions(session.model, len(ids))
    asked: dict[str, Tensor] = {} if mask is None else {"attention_mask": mask}
    return _log_probs(hf(input_ids=ids, **asked).logits)


def _hugging_face(session: Session, ids: Tensor) -> CheckLine:
    name = "logits against Hugging Face, eager attention"
    source = source_of(session.model)
    if source is None or source.folder is None:
        return CheckLine(name, torch.nan, 0.0, "weights in memory: no checkpoint to load again")
    from transformers import AutoModelForCausalLM

    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(
            source.folder, attn_implementation="eager", dtype=session.dtype
        )
    theirs = _log_probs(plain.eval()(input_ids=ids.cpu()).logits)
    return _line(session, name, _own_log_probs(session, ids), theirs)


def _last_row(session: Session, ids: Tensor) -> CheckLine:
    kept: list[Tensor] = []
    # The second pass takes the way that analyses take once a kind of pass is known.
    for _ in range(2):
        run(session, ids, {last_stream(session.model): kept.append}, logits="none")
    ours = _log_probs(session.unembedding.logits(kept[-1][0]))
    own = _own_log_probs(session, ids)[0]
    return _line(session, "last lens row against the model's own output", ours, own)


def _paths(session: Session, ids: Tensor) -> list[CheckLine]:
    """Compare every kind of pass, in the way that analyses take it, with the model's own."""
    name, n = "logits of analyses' passes: {}", ids.shape[1]
    pair = torch.cat([ids, ids.flip(1)])
    mask = torch.ones_like(pair)
    mask[1, n // 2 :] = 0
    own = _own_log_probs(session, pair, mask)
    found = [
        _line(session, name.format("padded"), *(x[mask > 0] for x in (_taken(session, pair, mask), own)))
    ]
    n_long = _long(session)
    if n_long:
        long = ids.repeat(1, -(-n_long // n))[:, :n_long]
        found.append(
            _line(
                session, name.format(f"{n_long} tokens"), _taken(session, long), _own_log_probs(session, long)
            )
        )
    if not branching(session.model):
        note = "keeps no cache to continue from"
        return [*found, CheckLine(name.format("continued"), torch.nan, 0.0, note)]
    for _ in range(2):
        done = run(session, ids[:, : n // 2], {}, keep_cache=True)
        done = run(session, ids[:, n // 2 :], {}, logits="all", cache=done.cache, keep_cache=True)
    assert done.logits is not None
    whole = _own_log_probs(session, ids)[:, n // 2 :]
    return [*found, _line(session, name.format("continued"), _log_probs(done.logits), whole)]


def _taken(session: Session, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    for _ in range(2):
        logits = run(session, ids, {}, mask=mask, logits="all").logits
    assert logits is not None
    return _log_probs(logits)


def _long(session: Session) -> int:
    """Return how many tokens make a pass in which attention is computed in pieces, if any do."""
    for n in (256, 512, 1024, 2048):
        if n <= int(session.cfg.n_ctx) and attention_for(session, n * n * int(session.cfg.n_heads)):
            return n
    return 0


def _line(session: Session, name: str, ours: Tensor, own: Tensor) -> CheckLine:
    tolerance = _LOG_PROB_TOLERANCE.get(session.dtype, _HALF_TOLERANCE)
    if ours.shape != own.shape:  # the vocabulary was resized, say
        return CheckLine(name, torch.inf, tolerance, f"{ours.shape[-1]} ids, the other has {own.shape[-1]}")
    error = float((ours - own).abs().nan_to_num(nan=torch.inf).max())
    return CheckLine(name, error, tolerance, "nats")


def _log_probs(logits: Tensor) -> Tensor:
    return logits.detach().cpu().to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _scores(session: Session, ids: Tensor) -> CheckLine:
    name = "q . k against attention scores"
    error, note = score_error(session, ids)
    if math.isnan(error):
        return CheckLine(name, torch.nan, 0.0, note)
    tolerance = SCORE_TOLERANCE.get(session.dtype, HALF_SCORE_TOLERANCE)
    return CheckLine(name, error, tolerance, f"of the largest score, {note}")
