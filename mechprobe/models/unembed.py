"""From residual stream to logits, as the model itself does it: final norm, W_U, soft-cap, scale."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechprobe.kernels.readout import LogitTransform
from mechprobe.models.internals import final_norm
from mechprobe.models.protocol import Model, is_bridge, model_name

# Error relative to the spread of the logits. Measured: 2e-6 in float32, 1e-2 in bfloat16, while a
# path that misses a norm, a soft-cap or a scale is off by 0.7 or more.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_TOLERANCE_HALF = 0.05
_PROBE = torch.tensor([[-7.0, 0.5, 30.0]])


@dataclass(frozen=True, slots=True)
class Unembedding:
    """The read-out path of one model.

    Attributes:
        norm: The model's final norm as a function of rows.
        W_U: Unembedding matrix, in the model's dtype.
        b_U: Its bias (zeros where the model has none).
        transform: What the model does to its raw logits, or None where it does nothing.
        mark: Tells one transform from another.
    """

    norm: Callable[[Tensor], Tensor]
    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"]
    transform: LogitTransform | None
    mark: tuple[float, ...] = ()

    @property
    def d_vocab(self) -> int:
        """Number of ids that the model gives a logit to."""
        return self.W_U.shape[1]

    def logits(self, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
        """Final norm, unembedding and transform of a few rows."""
        return self.normed_logits(self.norm(resid))

    def normed_logits(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
        """Unembedding and transform of a few rows that went through the norm already."""
        z = rows @ self.W_U + self.b_U
        return z if self.transform is None else self.transform(z)

    def require_identity(
        self, resid: Float[Tensor, "row d_model"], logits: Float[Tensor, "row d_vocab"], name: str
    ) -> float:
        """Refuse unless this path, on the last block's output, gives the model's own logits.

        Args:
            resid: ``resid_post`` of the last block.
            logits: What the model itself answered at the same positions.
            name: The model's name, for the message.

        Returns:
            Largest difference of log-probabilities over the spread of the logits.

        Raises:
            ValueError: They differ by more than the arithmetic explains.
        """
        ours = self.logits(resid).to(torch.promote_types(resid.dtype, torch.float32))
        theirs = logits.to(ours)
        spread = (theirs - theirs.mean(-1, keepdim=True)).abs().max()
        # Compatibility mode shifts all logits of a position; probabilities cannot tell.
        difference = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs()
        error = float(difference.nan_to_num(nan=torch.inf).max() / spread.clamp(min=1e-30))
        tolerance = _TOLERANCE.get(self.W_U.dtype, _TOLERANCE_HALF)
        if not error <= tolerance:
            msg = (
                f"final norm and unembedding of the last layer of {name} do not give the model's "
                f"own output: log-probabilities differ by {error:.2g} of the logits' spread, "
                f"{tolerance:g} is allowed. The model does something more before its logits that "
                "mechprobe does not know; nothing was read. Try mechprobe.check_model(model)."
            )
            raise ValueError(msg)
        return error


def unembedding(model: Model) -> Unembedding:
    """Return the read-out path of ``model``.

    Raises:
        NotImplementedError: The unembedding is quantised or offloaded and cannot be read.
    """
    tl: Any = model
    W_U, b_U = tl.W_U.detach(), tl.b_U.detach()
    if not W_U.is_floating_point() or W_U.is_meta:
        msg = (
            f"the unembedding of {model_name(model)} cannot be read ({W_U.dtype}, {W_U.device}): "
            "leave the output layer unquantised and on a device."
        )
        raise NotImplementedError(msg)
    final = final_norm(model)

    @torch.no_grad()
    def norm(rows: Tensor) -> Tensor:
        if final is None:
            return rows.to(W_U)
        # The norm may lie on another device than the unembedding (device_map).
        weight = next(final.parameters(), W_U)
        x = rows.to(device=weight.device, dtype=W_U.dtype)
        return final(x[None])[0].to(W_U.device)

    transform = _logit_transform(tl)
    mark = () if transform is None else tuple(transform(_PROBE.clone()).flatten().tolist())
    return Unembedding(norm, W_U, b_U, transform, mark)


def _logit_transform(model: Any) -> LogitTransform | None:
    """Return what stands between ``x W_U + b_U`` and the logits (Gemma's soft-cap, Cohere's scale).

    The bridge's adapter knows it per architecture; one probe tells whether it does anything.
    """
    if is_bridge(model):
        transform: LogitTransform = model.adapter.apply_output_logits_transform
        return None if torch.equal(transform(_PROBE.clone()), _PROBE) else transform
    cap = getattr(model.cfg, "output_logits_soft_cap", -1.0) or -1.0
    if cap <= 0:
        return None
    return lambda logits: logits.div_(cap).tanh_().mul_(cap)
