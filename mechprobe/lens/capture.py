"""Residual rows of chosen layers and positions, normed as they come by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.lens.request import Norm, Stream, Translator, hook_names, translator_for
from mechprobe.models import Model, Unembedding, model_name, run

# Rows through the norm at once; its temporaries are some multiple of them.
_NORM_ROWS = 1024


@dataclass(frozen=True)
class Reader:
    """How to get from a model to rows that the readout kernel takes.

    Attributes:
        model: The model.
        path: Its final norm and unembedding.
        layers: Layers to read.
        stream: Which activation of each layer.
        norm: Whether rows go through the final norm.
        translators: Maps applied before the norm.
    """

    model: Model
    path: Unembedding
    layers: list[int]
    stream: Stream
    norm: Norm
    translators: Translator | Mapping[int, Callable[[Tensor], Tensor]] | None

    @property
    def asked(self) -> dict[str, object]:
        """What was asked for, as provenance records it."""
        return {"layers": self.layers, "stream": self.stream, "norm": self.norm,
                "translators": self.translators}  # fmt: skip

    @property
    def entries(self) -> list[int]:
        """Layers that need rows of their own: the last one, read plainly, is the reference."""
        plain = self.stream == "resid_post" and self.norm == "final" and self.translators is None
        return [x for x in self.layers if not (plain and x == self.model.cfg.n_layers - 1)]

    @property
    def source(self) -> list[int]:
        """For each layer, which entry of ``rows`` holds it (0 is the reference)."""
        at = {layer: i + 1 for i, layer in enumerate(self.entries)}
        return [at.get(layer, 0) for layer in self.layers]

    def rows(
        self,
        ids: Int[Tensor, "batch pos"],
        chosen: Int[Tensor, "batch row"],
        *,
        check: bool,
        **options: Any,
    ) -> tuple[Float[Tensor, "entry batch row d_model"], Any]:
        """Run ``ids`` and keep the chosen positions.

        Args:
            ids: Token ids.
            chosen: Positions to keep, per prompt.
            check: Compare the model's own logits at the last column with ours.
            options: Passed on to ``models.run`` (``mask``, ``cache``, ``keep_cache``).

        Returns:
            Rows ready for the kernel, entry 0 the final norm of the last ``resid_post``; and the
            key-value cache, where kept.

        Raises:
            ValueError: Our read-out path is not the model's (see ``require_identity``).
        """
        shape = (len(self.entries) + 1, *chosen.shape, int(self.model.cfg.d_model))
        W_U = self.path.W_U
        out = torch.full(shape, torch.nan, dtype=W_U.dtype, device=W_U.device)
        last_column: list[Tensor] = []

        def keep_last(resid: Tensor) -> None:
            last_column.append(resid[:, -1])

        def keep(entry: int, translate: Callable[[Tensor], Tensor] | None) -> Callable[..., None]:
            def sink(resid: Tensor) -> None:
                picked = _picked(resid, chosen).flatten(0, 1)
                out[entry] = (picked if translate is None else translate(picked)).view(shape[1:])

            return sink

        reference = f"blocks.{self.model.cfg.n_layers - 1}.hook_resid_post"
        sinks = {reference: [keep(0, None), keep_last]}
        for entry, (layer, name) in enumerate(zip(self.entries, self._names, strict=True), start=1):
            translate = translator_for(self.translators, layer)
            sinks.setdefault(name, []).append(keep(entry, translate))
        capture = {name: _each(parts) for name, parts in sinks.items()}
        done = run(self.model, ids, capture, logits="last" if check else "none", **options)
        if not last_column:
            msg = (
                f"{model_name(self.model)} never gives {reference}; there is no last layer to read."
            )
            raise NotImplementedError(msg)
        if done.logits is not None:
            own = done.logits[:, -1].to(W_U.device)
            self.path.require_identity(last_column[0], own, model_name(self.model))
        self._apply_norm(out if self.norm == "final" else out[:1])
        return out, done.cache

    @cached_property
    def _names(self) -> list[str]:
        return hook_names(self.model, self.entries, self.stream)

    def _apply_norm(self, rows: Float[Tensor, "entry batch row d_model"]) -> None:
        """Put rows through the final norm, in place.

        All layers together: one call a generated step instead of 31.
        """
        for part in rows.flatten(0, 2).split(_NORM_ROWS):
            part.copy_(self.path.norm(part))


def _picked(
    resid: Float[Tensor, "batch pos d_model"], chosen: Int[Tensor, "batch row"]
) -> Float[Tensor, "batch row d_model"]:
    if resid.shape[1] == chosen.shape[1] == 1:
        return resid  # a generated step
    at = chosen.to(resid.device)[..., None].expand(-1, -1, resid.shape[-1])
    return resid.gather(1, at)


def _each(sinks: list[Callable[[Tensor], None]]) -> Callable[[Tensor], None]:
    def sink(resid: Tensor) -> None:
        for part in sinks:
            part(resid)

    return sink
