"""Where a model's queries, keys and attention are read, and the proof that it uses what is read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechprobe.kernels.alignment import attention_logits
from mechprobe.models.internals import (
    KEY,
    NORMED,
    PATTERN,
    QUERY,
    ROTATED,
    SCORES,
    attention,
    attention_hooks,
    attention_name,
    hugging_face,
    original,
)
from mechprobe.models.protocol import is_bridge
from mechprobe.models.run import run
from mechprobe.models.session import Session

Score = Literal["qk", "rotated", "cosine", "attention"]

_N_PROBE = 24
# Of the largest score; a wrong head order, rotation or scale is off by 0.1 or more.
SCORE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
HALF_SCORE_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class AttentionPath:
    """How to read the heads of one model for one kind of score.

    Attributes:
        session: The model.
        score: What is read.
        q_hook: Activation that holds queries (``"hook_q"``, ``"hook_rot_q"``, ...).
        k_hook: Activation that holds keys.
        rotate: Rotation that is ours to apply, of vectors ``[batch, n, head, d_head]`` at
            positions ``[batch, n]``; None where the activation is final.
    """

    session: Session
    score: Score
    q_hook: str
    k_hook: str
    rotate: Callable[[Tensor, Tensor], Tensor] | None

    @property
    def n_heads(self) -> int:
        """Query heads of a layer."""
        return int(self.session.cfg.n_heads)

    @property
    def n_key_value_heads(self) -> int:
        """Key heads of a layer."""
        return n_key_value_heads(self.session.cfg)

    def name(self, layer: int, hook: str) -> str:
        """Return the full name of an attention activation."""
        return attention_name(layer, hook)

    def queries(self, activation: Tensor) -> Float[Tensor, "batch pos n_heads d_head"]:
        """Return an activation of ``q_hook`` with its heads apart."""
        return self._heads(activation, self.q_hook, self.n_heads)

    def keys(self, activation: Tensor) -> Float[Tensor, "batch pos n_key_value_heads d_head"]:
        """Return an activation of ``k_hook`` with its heads apart, one for each key head."""
        return self._heads(activation, self.k_hook, self.n_key_value_heads)

    def at(
        self, heads: Float[Tensor, "batch n head d_head"], positions: Int[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n head d_head"]:
        """Finish chosen vectors: rotate them where the model has not done so yet."""
        return heads if self.rotate is None else self.rotate(heads, positions)

    def scale(self, layer: int) -> float:
        """Return what the model multiplies ``q . k`` by."""
        attn = attention(self.session.model, layer)
        if not is_bridge(self.session.model):
            return 1.0 / float(attn.attn_scale)
        scaling = getattr(original(attn), "scaling", None)
        plain = float(self.session.cfg.d_head) ** -0.5
        if isinstance(scaling, float | int):
            return float(scaling)
        config: Any = hugging_face(self.session.model).config
        return plain / (layer + 1) if getattr(config, "scale_attn_by_inverse_layer_idx", False) else plain

    def soft_cap(self) -> float | None:
        """Return the cap of the model's attention scores (Gemma-2), if it has one."""
        cap = getattr(self.session.cfg, "attn_scores_soft_cap", None)
        return float(cap) if cap and cap > 0 else None

    def _heads(self, activation: Tensor, hook: str, n_heads: int) -> Tensor:
        d_head = int(self.session.cfg.d_head)
        if hook.endswith("_normed"):
            # Normed vectors come head first, or before their heads are taken apart (OLMo-2).
            flat = activation.ndim == 3
            activation = activation.unflatten(-1, (n_heads, d_head)) if flat else activation.transpose(1, 2)
        if activation.ndim != 4 or activation.shape[2:] != (n_heads, d_head):
            msg = (
                f"{hook} of {self.session.name} has shape {tuple(activation.shape)}; expected "
                f"[batch, pos, {n_heads}, {d_head}]. Its query and key projections are packed in a "
                "way that mechprobe does not know."
            )
            raise NotImplementedError(msg)
        return activation


def n_key_value_heads(cfg: Any) -> int:
    """Return how many key heads a layer has, from the settings of a model."""
    ungrouped = getattr(cfg, "ungroup_grouped_query_attention", False)
    found = None if ungrouped else getattr(cfg, "n_key_value_heads", None)
    return int(found or cfg.n_heads)


def attention_path(session: Session, score: Score, *, qk_norm: bool = False) -> AttentionPath:
    """Return how to read ``score`` from a model, after a proof on a short sample.

    Wherever the model shows its attention scores, queries and keys are read, rotated, scaled and
    compared with them: a wrong head order or rotation is refused.

    Args:
        session: The model.
        score: ``"qk"`` (as projected), ``"rotated"`` (what the softmax gets), ``"cosine"`` (of the
            projected vectors), ``"attention"`` (the weight).
        qk_norm: For ``"qk"`` and ``"cosine"``: read the vectors after the model's QK-norm.

    Raises:
        NotImplementedError: This model does not show what the score needs, with the reason.
        ValueError: ``qk_norm`` for a score that has it built in, or for a model without one; or
            what is read does not give the model's own attention scores.
    """
    hooks, name = attention_hooks(session.model), session.name
    if not {QUERY, KEY} <= hooks:
        msg = f"{name} shows no queries and keys of its heads ({QUERY}, {KEY}) to read."
        raise NotImplementedError(msg)
    if qk_norm:
        if score in ("rotated", "attention"):
            msg = f"score={score!r} is taken after QK-norm anyway; qk_norm= is for 'qk', 'cosine'."
            raise ValueError(msg)
        return AttentionPath(session, score, *_normed_hooks(session), None)
    shown, reason = _shown_scores(session)
    if shown is not None:
        _prove(session)
    if score in ("rotated", "attention"):
        if shown is None:
            msg = f"score={score!r} is not known for {name}: {reason} Use score='qk'."
            raise NotImplementedError(msg)
        return replace(shown, score=score)
    return AttentionPath(session, score, QUERY, KEY, None)


def score_error(session: Session, ids: Int[Tensor, "batch pos"]) -> tuple[float, str]:
    """Compare queries and keys, rotated and scaled, with the model's own attention scores.

    Args:
        session: The model.
        ids: What to run.

    Returns:
        Largest error over three layers, of the largest score; NaN and the reason where the model
        shows no scores to compare with.
    """
    path, reason = _shown_scores(session)
    if path is None:
        return torch.nan, reason
    last = session.n_layers - 1
    layers = sorted({0, session.n_layers // 2, last})
    return max(_layer_error(path, ids, layer) for layer in layers), f"layers {layers}"


def _shown_scores(session: Session) -> tuple[AttentionPath | None, str]:
    """Return the path to what the softmax gets, or None and why there is none."""
    hooks, reason = session.fact("shown scores", lambda: _scores_hooks(session))
    if hooks is None:
        return None, reason
    rotate = None if hooks != (QUERY, KEY) else _own_rotation(session)
    return AttentionPath(session, "rotated", *hooks, rotate), ""


def _scores_hooks(session: Session) -> tuple[tuple[str, str] | None, str]:
    """Return the activations of queries and keys as the softmax gets them, but for a rotation."""
    if SCORES not in attention_hooks(session.model):
        return None, f"it shows no attention scores ({SCORES})."
    fired = _fired(session, (*ROTATED, SCORES, PATTERN))
    if not {SCORES, PATTERN} <= set(fired):
        return None, "its attention scores never come by; load it with eager attention."
    if torch.equal(fired[SCORES], fired[PATTERN]):
        return None, f"its {SCORES} holds probabilities, so nothing can be verified."
    if set(ROTATED) <= set(fired):
        return ROTATED, ""
    kind = str(getattr(session.cfg, "positional_embedding_type", ""))
    if kind == "standard" or _own_rotation(session) is not None:
        return (QUERY, KEY), ""
    return None, f"how it encodes positions ({kind or 'unknown'}) is not known to mechprobe."


def _own_rotation(session: Session) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return the rotation that is ours to apply, where the model has one."""
    body = getattr(hugging_face(session.model), "base_model", None)
    rotary = getattr(body, "rotary_emb", None)
    kind = str(getattr(session.cfg, "positional_embedding_type", ""))
    return None if rotary is None or kind != "rotary" else _rotation(rotary)


def _rotation(rotary: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Return rotary embedding of the first ``rotary_dim`` components (GPT-NeoX, Falcon, Phi-3)."""

    def rotate(x: Tensor, positions: Tensor) -> Tensor:
        cos, sin = (part[:, :, None].to(x) for part in rotary(x, positions))
        turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([turned, kept], dim=-1)

    return rotate


def _normed_hooks(session: Session) -> tuple[str, str]:
    after = bool(getattr(session.cfg, "qk_norm_after_rope", False))
    if after or set(_fired(session, NORMED)) != set(NORMED):
        msg = (
            f"{session.name} shows no normed, unrotated queries and keys"
            f"{' (it norms after the rotation)' if after else ''}; leave qk_norm=False."
        )
        raise ValueError(msg)
    return NORMED


def _probe_ids(session: Session) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    n = min(_N_PROBE, int(session.cfg.n_ctx))
    ids = torch.randint(0, int(session.cfg.d_vocab), (1, n), generator=generator)
    return ids.to(session.device)


def _fired(session: Session, hooks: tuple[str, ...]) -> dict[str, Tensor]:
    """Return which attention activations of layer 0 really come by: a name alone is no promise."""
    found: dict[str, Tensor] = {}
    known = attention_hooks(session.model)

    def keep(hook: str) -> Callable[[Tensor], None]:
        return lambda activation: found.__setitem__(hook, activation)

    names = {attention_name(0, hook): keep(hook) for hook in hooks if hook in known}
    run(session, _probe_ids(session), names, may_miss=True)
    return found


def _prove(session: Session) -> None:
    """Refuse queries and keys that do not give the model's own scores.

    Raises:
        ValueError: They do not.
    """
    error = session.fact("score error", lambda: score_error(session, _probe_ids(session))[0])
    tolerance = SCORE_TOLERANCE.get(session.dtype, HALF_SCORE_TOLERANCE)
    if not error <= tolerance:
        msg = (
            f"queries and keys of {session.name} do not give its attention scores: off "
            f"by {error:.2g} of the largest, {tolerance:g} is allowed. Nothing was read; try "
            "mechprobe.check_model(model)."
        )
        raise ValueError(msg)


def _layer_error(path: AttentionPath, ids: Tensor, layer: int) -> float:
    kept: dict[str, Tensor] = {}

    def keep(hook: str) -> Callable[[Tensor], None]:
        return lambda activation: kept.__setitem__(hook, activation[:1])

    names = (path.q_hook, path.k_hook, SCORES)
    run(path.session, ids[:1], {path.name(layer, hook): keep(hook) for hook in names})
    n = ids.shape[1]
    positions = torch.arange(n, device=ids.device)[None]
    q = path.at(path.queries(kept[path.q_hook]), positions)
    k = path.at(path.keys(kept[path.k_hook]), positions)
    # Every position is a candidate query; every key is read alone.
    ours = torch.stack(
        [
            attention_logits(q, k[:, None, [t]], q.new_ones(1, 1, 1), path.scale(layer), path.soft_cap())[0]
            for t in range(n)
        ],
        dim=-1,
    )
    theirs = kept[SCORES][0].transpose(0, 1).to(ours)
    seen = torch.ones(n, n, dtype=torch.bool, device=ids.device).tril()[:, None]
    # Beyond a sliding window the model sees nothing either.
    seen = seen & (theirs > torch.finfo(kept[SCORES].dtype).min / 2)
    difference = ((ours - theirs).abs() * seen).nan_to_num(nan=torch.inf, posinf=torch.inf)
    difference = torch.where(seen, difference, 0)
    return float(difference.max() / torch.where(seen, theirs.abs(), 0).max())
