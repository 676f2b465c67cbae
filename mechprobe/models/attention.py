"""Where a model's queries, keys and attention are read, and the proof that it uses what is read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechprobe.kernels.alignment import attention_logits
from mechprobe.models.protocol import Model, Stamp, is_bridge, model_name, stamp
from mechprobe.models.run import run

Score = Literal["qk", "rotated", "cosine", "attention"]

_N_PROBE = 24
# Of the largest score; a wrong head order, rotation or scale is off by 0.1 or more.
SCORE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
HALF_SCORE_TOLERANCE = 0.05

_proved: WeakKeyDictionary[nn.Module, Stamp] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class AttentionPath:
    """How to read the heads of one model for one kind of score.

    Attributes:
        model: The model.
        score: What is read.
        q_hook: Activation that holds queries (``"hook_q"``, ``"hook_rot_q"``, ...).
        k_hook: Activation that holds keys.
        rotate: Rotation that is ours to apply, of vectors ``[batch, n, head, d_head]`` at
            positions ``[batch, n]``; None where the activation is final.
    """

    model: Model
    score: Score
    q_hook: str
    k_hook: str
    rotate: Callable[[Tensor, Tensor], Tensor] | None

    @property
    def n_heads(self) -> int:
        """Query heads of a layer."""
        return int(self.model.cfg.n_heads)

    @property
    def n_key_value_heads(self) -> int:
        """Key heads of a layer."""
        return n_key_value_heads(self.model)

    def name(self, layer: int, hook: str) -> str:
        """Return the full name of an attention activation."""
        return f"blocks.{layer}.attn.{hook}"

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
        attn = _attention(self.model, layer)
        if not is_bridge(self.model):
            return 1.0 / float(attn.attn_scale)
        scaling = getattr(attn.original_component, "scaling", None)
        plain = float(self.model.cfg.d_head) ** -0.5
        if isinstance(scaling, float | int):
            return float(scaling)
        config: Any = getattr(self.model, "original_model").config  # noqa: B009
        return plain / (layer + 1) if getattr(config, "scale_attn_by_inverse_layer_idx", False) \
            else plain  # fmt: skip

    def soft_cap(self) -> float | None:
        """Return the cap of the model's attention scores (Gemma-2), if it has one."""
        cap = getattr(self.model.cfg, "attn_scores_soft_cap", None)
        return float(cap) if cap and cap > 0 else None

    def _heads(self, activation: Tensor, hook: str, n_heads: int) -> Tensor:
        d_head = int(self.model.cfg.d_head)
        if hook.endswith("_normed"):
            # Normed vectors come head first, or before their heads are taken apart (OLMo-2).
            flat = activation.ndim == 3
            activation = activation.unflatten(-1, (n_heads, d_head)) if flat \
                else activation.transpose(1, 2)  # fmt: skip
        if activation.ndim != 4 or activation.shape[2:] != (n_heads, d_head):
            msg = (
                f"{hook} of {model_name(self.model)} has shape {tuple(activation.shape)}; expected "
                f"[batch, pos, {n_heads}, {d_head}]. Its query and key projections are packed in a "
                "way that mechprobe does not know."
            )
            raise NotImplementedError(msg)
        return activation


def n_key_value_heads(model: Model) -> int:
    """Return the number of key heads of a layer, as ``hook_k`` gives them."""
    cfg = model.cfg
    ungrouped = getattr(cfg, "ungroup_grouped_query_attention", False)
    found = None if ungrouped else getattr(cfg, "n_key_value_heads", None)
    return int(found or cfg.n_heads)


def attention_path(model: Model, score: Score, *, qk_norm: bool = False) -> AttentionPath:
    """Return how to read ``score`` from ``model``, after a proof on a short sample.

    Wherever the model shows its attention scores, queries and keys are read, rotated, scaled and
    compared with them once per set of weights: a wrong head order or rotation is refused.

    Args:
        model: Checked by ``require_model``.
        score: ``"qk"`` (as projected), ``"rotated"`` (what the softmax gets), ``"cosine"`` (of the
            projected vectors), ``"attention"`` (the weight).
        qk_norm: For ``"qk"`` and ``"cosine"``: read the vectors after the model's QK-norm.

    Raises:
        NotImplementedError: This model does not show what the score needs, with the reason.
        ValueError: ``qk_norm`` for a score that has it built in, or for a model without one; or
            what is read does not give the model's own attention scores.
    """
    known: Any = model.hook_dict
    hooks = {name.rsplit(".", 1)[1] for name in known if name.startswith("blocks.0.attn.hook")}
    name = model_name(model)
    if not {"hook_q", "hook_k"} <= hooks:
        msg = f"{name} has no hook_q and hook_k; its heads have no queries and keys to read."
        raise NotImplementedError(msg)
    if qk_norm:
        if score in ("rotated", "attention"):
            msg = f"score={score!r} is taken after QK-norm anyway; qk_norm= is for 'qk', 'cosine'."
            raise ValueError(msg)
        return AttentionPath(model, score, *_normed_hooks(model), None)
    shown, reason = _shown_scores(model, hooks)
    if shown is not None:
        _prove(shown)
    if score in ("rotated", "attention"):
        if shown is None:
            msg = f"score={score!r} is not known for {name}: {reason} Use score='qk'."
            raise NotImplementedError(msg)
        return AttentionPath(model, score, shown.q_hook, shown.k_hook, shown.rotate)
    return AttentionPath(model, score, "hook_q", "hook_k", None)


def score_error(model: Model, ids: Int[Tensor, "batch pos"]) -> tuple[float, str]:
    """Compare queries and keys, rotated and scaled, with the model's own attention scores.

    Args:
        model: The model.
        ids: What to run.

    Returns:
        Largest error over three layers, of the largest score; NaN and the reason where the model
        shows no scores to compare with.
    """
    known: Any = model.hook_dict
    hooks = {name.rsplit(".", 1)[1] for name in known if name.startswith("blocks.0.attn.hook")}
    path, reason = _shown_scores(model, hooks)
    if path is None:
        return torch.nan, reason
    layers = sorted({0, int(model.cfg.n_layers) // 2, int(model.cfg.n_layers) - 1})
    return max(_layer_error(path, ids, layer) for layer in layers), f"layers {layers}"


def _attention(model: Any, layer: int) -> Any:
    return model.blocks[layer].attn


def _shown_scores(model: Model, hooks: set[str]) -> tuple[AttentionPath | None, str]:
    """Return the path to what the softmax gets, or None and why there is none."""
    if "hook_attn_scores" not in hooks:
        return None, "it shows no attention scores (hook_attn_scores)."
    fired = _fired(model, ("hook_rot_q", "hook_rot_k", "hook_attn_scores", "hook_pattern"))
    if not {"hook_attn_scores", "hook_pattern"} <= set(fired):
        return None, "its attention scores never come by; load it with eager attention."
    if torch.equal(fired["hook_attn_scores"], fired["hook_pattern"]):
        return None, "its hook_attn_scores holds probabilities, so nothing can be verified."
    kind = str(getattr(model.cfg, "positional_embedding_type", ""))
    if {"hook_rot_q", "hook_rot_k"} <= set(fired):
        return AttentionPath(model, "rotated", "hook_rot_q", "hook_rot_k", None), ""
    if kind == "standard":
        return AttentionPath(model, "rotated", "hook_q", "hook_k", None), ""
    rotary = getattr(getattr(getattr(model, "original_model", None), "base_model", None),
                     "rotary_emb", None)  # fmt: skip
    if kind == "rotary" and rotary is not None:
        return AttentionPath(model, "rotated", "hook_q", "hook_k", _rotation(rotary)), ""
    return None, f"how it encodes positions ({kind or 'unknown'}) is not known to mechprobe."


def _rotation(rotary: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Return rotary embedding of the first ``rotary_dim`` components (GPT-NeoX, Falcon, Phi-3)."""

    def rotate(x: Tensor, positions: Tensor) -> Tensor:
        cos, sin = (part[:, :, None].to(x) for part in rotary(x, positions))
        turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([turned, kept], dim=-1)

    return rotate


def _normed_hooks(model: Model) -> tuple[str, str]:
    names = ("hook_q_normed", "hook_k_normed")
    after = bool(getattr(model.cfg, "qk_norm_after_rope", False))
    if after or set(_fired(model, names)) != set(names):
        msg = (
            f"{model_name(model)} shows no normed, unrotated queries and keys"
            f"{' (it norms after the rotation)' if after else ''}; leave qk_norm=False."
        )
        raise ValueError(msg)
    return names


def _probe_ids(model: Model) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    n = min(_N_PROBE, int(model.cfg.n_ctx))
    ids = torch.randint(0, int(model.cfg.d_vocab), (1, n), generator=generator)
    return ids.to(model.cfg.device or "cpu")


def _fired(model: Model, hooks: tuple[str, ...]) -> dict[str, Tensor]:
    """Return which attention activations of layer 0 really come by: a name alone is no promise."""
    found: dict[str, Tensor] = {}
    known: Any = model.hook_dict

    def keep(hook: str) -> Callable[[Tensor], None]:
        return lambda activation: found.__setitem__(hook, activation)

    names = {hook: f"blocks.0.attn.{hook}" for hook in hooks}
    run(model, _probe_ids(model), {n: keep(h) for h, n in names.items() if n in known})
    return found


def _prove(path: AttentionPath) -> None:
    module: Any = path.model
    now = stamp(module)
    if _proved.get(module) == now:
        return
    error, _ = score_error(path.model, _probe_ids(path.model))
    tolerance = SCORE_TOLERANCE.get(next(module.parameters()).dtype, HALF_SCORE_TOLERANCE)
    if not error <= tolerance:
        msg = (
            f"queries and keys of {model_name(path.model)} do not give its attention scores: off "
            f"by {error:.2g} of the largest, {tolerance:g} is allowed. Nothing was read; try "
            "mechprobe.check_model(model)."
        )
        raise ValueError(msg)
    _proved[module] = now


def _layer_error(path: AttentionPath, ids: Tensor, layer: int) -> float:
    kept: dict[str, Tensor] = {}

    def keep(hook: str) -> Callable[[Tensor], None]:
        return lambda activation: kept.__setitem__(hook, activation[:1])

    names = (path.q_hook, path.k_hook, "hook_attn_scores")
    run(path.model, ids[:1], {path.name(layer, hook): keep(hook) for hook in names})
    n = ids.shape[1]
    positions = torch.arange(n, device=ids.device)[None]
    q = path.at(path.queries(kept[path.q_hook]), positions)
    k = path.at(path.keys(kept[path.k_hook]), positions)
    # Every position is a candidate query; every key is read alone.
    ours = torch.stack(
        [attention_logits(q, k[:, None, [t]], q.new_ones(1, 1, 1), path.scale(layer),
                          path.soft_cap())[0] for t in range(n)], dim=-1,
    )  # fmt: skip
    theirs = kept["hook_attn_scores"][0].transpose(0, 1).to(ours)
    seen = torch.ones(n, n, dtype=torch.bool, device=ids.device).tril()[:, None]
    # Beyond a sliding window the model sees nothing either.
    seen = seen & (theirs > torch.finfo(kept["hook_attn_scores"].dtype).min / 2)
    difference = ((ours - theirs).abs() * seen).nan_to_num(nan=torch.inf, posinf=torch.inf)
    difference = torch.where(seen, difference, 0)
    return float(difference.max() / torch.where(seen, theirs.abs(), 0).max())
