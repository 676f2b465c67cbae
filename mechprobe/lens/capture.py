"""Residual rows of chosen layers and positions, normed as they come by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.lens.request import Norm, Stream, Translator, translator_for
from mechprobe.models import Cursor, Session, Unembedding, last_stream, stream_names

# Rows through the norm at once; its temporaries are some multiple of them.
_NORM_ROWS = 1024


@dataclass(frozen=True)
class Reader:
    """How to get from a model to rows that the readout kernel takes.

    Attributes:
        session: The model.
        layers: Layers to read.
        stream: Which activation of each layer.
        norm: Whether rows go through the final norm.
        translators: Maps applied before the norm.
    """

    session: Session
    layers: list[int]
    stream: Stream
    norm: Norm
    translators: Translator | Mapping[int, Callable[[Tensor], Tensor]] | None

    @property
    def path(self) -> Unembedding:
        """The model's final norm and unembedding."""
        return self.session.unembedding

    @property
    def entries(self) -> list[int]:
        """Layers that need rows of their own: the last one, read plainly, is the reference."""
        plain = self.stream == "resid_post" and self.norm == "final" and self.translators is None
        return [x for x in self.layers if not (plain and x == self.session.n_layers - 1)]

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
        mask: Int[Tensor, "batch pos"] | None = None,
        behind: Cursor | None = None,
    ) -> Float[Tensor, "entry batch row d_model"]:
        """Run ``ids`` and keep the chosen positions.

        Args:
            ids: Token ids.
            chosen: Positions to keep, per prompt.
            check: Compare the model's own logits at the last column with ours, if that was not
                done for this kind of pass of the same model.
            mask: 1 for tokens, 0 for padding; None where nothing is padded.
            behind: What reads them and goes on from there; None for texts of their own.

        Returns:
            Rows ready for the kernel, entry 0 the final norm of the last ``resid_post``.

        Raises:
            ValueError: Our read-out path is not the model's (see ``require_identity``).
        """
        shape = (len(self.entries) + 1, *chosen.shape, int(self.session.cfg.d_model))
        W_U = self.path.W_U
        out = torch.full(shape, torch.nan, dtype=W_U.dtype, device=W_U.device)
        last_column: list[Tensor] = []
        capture = self._sinks(out, chosen, last_column)
        # Of a model that is as it was, what held for a kind of pass need not be shown again.
        proved = self.session.fact(("read-out", self.path.mark), set[tuple[bool, ...]])
        kind = len(ids) > 1, ids.shape[1] > 1, mask is not None, behind is not None
        check = check and kind not in proved
        own = (Cursor(self.session) if behind is None else behind).read(
            ids, capture, mask=mask, logits="last" if check else "none", keep=behind is not None
        )
        if own is not None:
            own = own[:, -1].to(W_U.device)
            self.path.require_identity(last_column[0], own, self.session.name)
            proved.add(kind)
        self._apply_norm(out if self.norm == "final" else out[:1])
        return out

    def _sinks(
        self, out: Tensor, chosen: Int[Tensor, "batch row"], last_column: list[Tensor]
    ) -> dict[str, Callable[[Tensor], None]]:
        """Return what puts chosen positions into ``out``, and the last of the reference apart."""

        def keep_last(resid: Tensor) -> None:
            last_column.append(resid[:, -1])

        def keep(entry: int, translate: Callable[[Tensor], Tensor] | None) -> Callable[..., None]:
            def sink(resid: Tensor) -> None:
                picked = _picked(resid, chosen).flatten(0, 1)
                out[entry] = (picked if translate is None else translate(picked)).view_as(out[0])

            return sink

        sinks = {last_stream(self.session.model): [keep(0, None), keep_last]}
        for entry, (layer, name) in enumerate(zip(self.entries, self.names, strict=True), start=1):
            translate = translator_for(self.translators, layer)
            sinks.setdefault(name, []).append(keep(entry, translate))
        return {name: _each(parts) for name, parts in sinks.items()}

    @property
    def names(self) -> list[str]:
        """Activation of each entry.

        Raises:
            NotImplementedError: A stream that the model does not have.
        """
        found: Callable[[], list[str]] = partial(stream_names, self.session.model, self.entries, self.stream)
        return self.session.fact(("streams", self.stream, *self.entries), found)

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
