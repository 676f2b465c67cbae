"""The lens while generating: what every layer would have said at every step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mechprobe.kernels import Readout, readout
from mechprobe.kernels.readout import Buffers
from mechprobe.lens.capture import Reader
from mechprobe.lens.dataset import Cells, Read, lens_dataset
from mechprobe.lens.logit_lens import lens_reader
from mechprobe.lens.request import (
    Layers,
    Norm,
    Stream,
    Targets,
    Translator,
    check_top_k,
    one_token,
    resolve_targets,
)
from mechprobe.models import (
    Model,
    TokenText,
    describe,
    require_kv_cache,
    require_model,
    require_tokenizer,
    token_ids,
    tokenizer_of,
)
from mechprobe.provenance import Stopwatch
from mechprobe.results import LensResult


def generate_with_lens(
    model: Model,
    prompt: str | Sequence[int] | Tensor,
    *,
    max_new_tokens: int = 20,
    continuation: str | Sequence[int] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    stop: str | int | Sequence[str | int] | None = None,
    layers: Layers = None,
    stream: Stream = "resid_post",
    top_k: int = 10,
    targets: Any = None,
    norm: Norm = "final",
    translators: Translator | Mapping[int, Callable[[Tensor], Tensor]] | None = None,
    prepend_bos: bool | None = None,
    progress: bool = True,
) -> LensResult:
    r"""Generate, and read every layer at every step on the way.

    Earlier positions are never computed again (key-value cache), and all layers of a step go
    through the unembedding in one product ``[n_layers + 1, d_model] @ W_U``. Row ``i`` of the
    result is the position whose reading decides generated token ``i``: the last token of the
    prompt first, then every generated token but the last. ``next_token`` is what was chosen there,
    ``merged_text`` each layer's own best tokens joined over the steps, bytes put together into
    characters.

    Args:
        model: A TransformerLens model with a key-value cache.
        prompt: One text, or its token ids.
        max_new_tokens: Steps at most, 1 or more; fewer when a stop comes.
        continuation: Tokens to force instead of generating (text, or ids): the same table for an
            answer the model did not choose. One forward pass.
        temperature: 0 takes the most likely token; otherwise samples from
            :math:`\mathrm{softmax}(z / T)`.
        seed: Of the sampling.
        stop: Texts or ids that end the generation, besides the model's end-of-text tokens.
        layers: As in ``logit_lens``.
        stream: As in ``logit_lens``.
        top_k: As in ``logit_lens``.
        targets: Tokens to follow, shared by all steps; or an array ``[1, step]`` together with
            ``continuation``.
        norm: ``"final"``, or ``"none"`` for raw residuals.
        translators: As in ``logit_lens``.
        prepend_bos: As in ``logit_lens``.
        progress: Show a bar over steps.

    Returns:
        A ``LensResult`` with one prompt; ``.table()`` is the layer by step table.

    Raises:
        ValueError: As ``logit_lens``; also ``max_new_tokens`` or ``temperature`` out of range, an
            empty continuation, several prompts, or no room in the context.
        NotImplementedError: As ``logit_lens``; also a model without key-value cache.

    Example:
        >>> import mechprobe as mp
        >>> out = mp.generate_with_lens(tiny_model, [1, 2], max_new_tokens=3, progress=False)
        >>> out.data.sizes["pos"]
        3

    References:
        Theia Vogel, "Why do LLMs freak out over the seahorse emoji?" (2025),
        https://vgel.me/posts/seahorse
    """
    watch = Stopwatch()
    require_model(model)
    forced = None if continuation is None else _forced_ids(model, continuation)
    n_steps = _check_steps(max_new_tokens if forced is None else len(forced), temperature)
    ids = _one_prompt(model, prompt, prepend_bos, n_steps - 1)
    reader = lens_reader(model, layers, stream, norm, translators)
    wanted = resolve_targets(model, targets, [list(range(n_steps))])
    k = check_top_k(top_k, reader.path.d_vocab)
    walk = _Walk(reader, k, wanted, n_steps)
    if forced is None:
        steps = walk.generate(ids, n_steps, temperature, seed, _Stop(model, stop))
        for _ in tqdm(steps, "generate", n_steps, unit="tok", disable=not progress, leave=False):
            pass
    else:
        walk.force(ids, forced)
    asked = {
        "max_new_tokens": max_new_tokens, "continuation": forced, "temperature": temperature,
        "stop": stop, "targets": wanted.recorded, **reader.asked, "top_k": top_k,
        "prepend_bos": prepend_bos,
    }  # fmt: skip
    used = seed if temperature > 0 else None
    record = watch.record("generate_with_lens", asked, describe(model), [ids], seed=used)
    return LensResult(walk.dataset(ids), record)


def _one_prompt(model: Model, prompt: Any, prepend_bos: bool | None, n_more: int) -> list[int]:
    ids = token_ids(model, prompt, prepend_bos=prepend_bos, n_more=n_more)
    if len(ids) != 1:
        msg = f"generate_with_lens takes one prompt, found {len(ids)}; call it once for each."
        raise ValueError(msg)
    return ids[0]


def _check_steps(n_steps: int, temperature: float) -> int:
    if n_steps < 1:
        msg = f"there must be at least one step; found max_new_tokens={n_steps}."
        raise ValueError(msg)
    if not 0 <= temperature < float("inf"):
        msg = f"temperature must be 0 (most likely token) or positive; found {temperature}."
        raise ValueError(msg)
    return n_steps


def _forced_ids(model: Model, continuation: str | Sequence[int]) -> list[int]:
    if isinstance(continuation, str):
        require_tokenizer(model, "the continuation")
        ids: list[int] = tokenizer_of(model)(continuation, add_special_tokens=False)["input_ids"]
    else:
        ids = [one_token(model, int(i)) for i in continuation]
    if not ids:
        msg = "the continuation is empty; give at least one token."
        raise ValueError(msg)
    return ids


@dataclass
class _Walk:
    """One generation and what was read on the way."""

    reader: Reader
    k: int
    targets: Targets
    n_steps: int
    buffers: Buffers = field(default_factory=Buffers)
    reads: list[Readout] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def generate(
        self, prompt: list[int], n_steps: int, temperature: float, seed: int, stop: "_Stop"
    ) -> Iterator[int]:
        """Yield each generated token; the cache keeps earlier positions."""
        require_kv_cache(self.reader.model)
        device = torch.device(self.reader.model.cfg.device or "cpu")
        generator = torch.Generator(device).manual_seed(seed)
        ids, cache = torch.tensor([prompt], device=device), None
        for step in range(n_steps):
            last = torch.tensor([[ids.shape[1] - 1]])
            rows, cache = self.reader.rows(ids, last, check=step < 2, cache=cache, keep_cache=True)
            self._read(rows[:, 0], slice(step, step + 1))
            token = int(self.reads[-1].top_id[0, 0, 0])
            if temperature > 0:
                logits = self.reader.path.normed_logits(rows[0, 0]).float()
                p = (logits / temperature).softmax(-1).to(device)
                token = int(torch.multinomial(p, 1, generator=generator))
            self.tokens.append(token)
            yield token
            if stop.reached(self.tokens):
                return
            ids = torch.tensor([[token]], device=device)

    def force(self, prompt: list[int], continuation: list[int]) -> None:
        """Read a given continuation in one pass."""
        device = torch.device(self.reader.model.cfg.device or "cpu")
        ids = torch.tensor([prompt + continuation[:-1]], device=device)
        chosen = torch.arange(len(prompt) - 1, ids.shape[1])[None]
        rows, _ = self.reader.rows(ids, chosen, check=True)
        self._read(rows[:, 0], slice(0, len(continuation)))
        self.tokens = continuation

    def _read(self, rows: Tensor, steps: slice) -> None:
        path = self.reader.path
        targets = torch.from_numpy(self.targets.ids[0, steps].copy()).to(rows.device)
        self.reads.append(
            readout(
                rows, path.W_U, path.b_U, k=self.k, targets=targets, transform=path.transform,
                steps=self.n_steps // rows.shape[1], buffers=self.buffers,
            )
        )  # fmt: skip

    def dataset(self, prompt: list[int]) -> Any:
        """Label what was read."""
        n, n_layers = len(self.tokens), len(self.reader.layers)
        parts = [[getattr(r, f.name) for r in self.reads] for f in fields(Readout)]
        whole = Readout(*(torch.cat(p, dim=1) for p in parts))
        real = torch.promote_types(self.reader.path.W_U.dtype, torch.float32)
        cells = Cells([n], n_layers, self.k, len(self.targets.labels), real)
        cells.put([0], cells.valid, whole, self.reader.source)
        tokens = np.array([[prompt[-1], *self.tokens]], np.int32)
        position = np.arange(len(prompt) - 1, len(prompt) - 1 + n, dtype=np.int32)[None]
        read = Read(position, tokens[:, :-1], np.arange(n)[None] > 0, tokens[:, 1:])
        text = TokenText(tokenizer_of(self.reader.model))
        targets = Targets(self.targets.labels, self.targets.ids[:, :n])
        shown = [text.joined(prompt)]
        return lens_dataset(cells, read, self.reader.layers, targets, text, shown)


class _Stop:
    """When a generation ends before its last step."""

    def __init__(self, model: Model, stop: str | int | Sequence[str | int] | None) -> None:
        asked = [stop] if isinstance(stop, str | int) else list(stop or [])
        self._texts = [s for s in asked if isinstance(s, str)]
        if "" in self._texts:
            msg = "stop holds an empty text, which every text contains; leave it out."
            raise ValueError(msg)
        self._ids = {one_token(model, s) for s in asked if not isinstance(s, str)}
        self._text = TokenText(tokenizer_of(model))
        config = getattr(getattr(model, "original_model", None), "generation_config", None)
        for end in (
            getattr(config, "eos_token_id", None),
            getattr(tokenizer_of(model), "eos_token_id", None),
        ):
            self._ids.update(end if isinstance(end, list) else [] if end is None else [end])

    def reached(self, tokens: list[int]) -> bool:
        if tokens[-1] in self._ids:
            return True
        if not self._texts:
            return False
        said = self._text.joined(tokens)
        return any(s in said for s in self._texts)
