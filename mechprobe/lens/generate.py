"""The lens while generating: what every layer would have said at every step."""

from collections.abc import Callable, Iterator, Mapping
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
from mechprobe.lens.lens import lens_reader
from mechprobe.lens.request import (
    Layers,
    Norm,
    Stream,
    Targets,
    Tokens,
    Translator,
    check_top_k,
    one_token,
    resolve_targets,
)
from mechprobe.lens.results import LensResult
from mechprobe.models import (
    Cursor,
    Model,
    Prompts,
    TokenText,
    alone,
    describe,
    end_ids,
    opened,
    require_tokenizer,
    token_ids,
    tokenizer_of,
)
from mechprobe.models.inputs import integer, integers, listed, prompt_items
from mechprobe.models.prompts import ids_in_context
from mechprobe.provenance import Call

# A text or an id, or several.


@alone
def generate_with_lens(
    model: Model,
    prompt: Prompts,
    *,
    max_new_tokens: int | np.integer[Any] = 20,
    continuation: Tokens = None,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Tokens = None,
    layers: Layers = None,
    stream: Stream = "resid_post",
    top_k: int = 10,
    targets: Tokens = None,
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
        prompt: One prompt, in any of the ways ``logit_lens`` takes it.
        max_new_tokens: Steps at most, 1 or more; fewer when a stop comes.
        continuation: Tokens to force instead of generating: the same table for an answer the model
            did not choose. One forward pass. Ids, or a text, cut into tokens as it is behind the
            prompt where that is a text, otherwise as it is alone.
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
        ValueError: As ``logit_lens``; also ``max_new_tokens`` or ``temperature`` out of range, a
            continuation that is empty or begins within a token of the prompt, several prompts, or
            no room in the context.
        TypeError: As ``logit_lens``; also a continuation or stop that is neither text nor ids.
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
    call = Call("generate_with_lens", locals())
    session = opened(model)
    forced = None if continuation is None else _forced_ids(model, prompt, continuation)
    asked = integer(max_new_tokens, "max_new_tokens must be an integer")
    n_steps = _check_steps(asked if forced is None else len(forced), temperature)
    ids = _one_prompt(model, prompt, prepend_bos, n_steps - 1)
    reader = lens_reader(session, layers, stream, norm, translators)
    wanted = resolve_targets(model, targets, [list(range(n_steps))])
    k = check_top_k(top_k, reader.path.d_vocab)
    walk = _Walk(reader, k, wanted, n_steps)
    if forced is None:
        steps = walk.generate(ids, n_steps, temperature, seed, _Stop(model, stop))
        for _ in tqdm(steps, "generate", n_steps, unit="tok", disable=not progress, leave=False):
            pass
    else:
        walk.force(ids, forced)
    record = call.record(
        describe(session),
        [ids],
        seed=seed if temperature > 0 else None,
        continuation=forced,
        layers=reader.layers,
        targets=wanted.recorded,
    )
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


def _forced_ids(model: Model, prompt: Prompts, continuation: Any) -> list[int]:
    if not isinstance(continuation, str):
        asked = integers(continuation, "continuation must be a text or token ids")
        ids = [one_token(model, i) for i in asked]
    elif isinstance(context := prompt_items(prompt)[0], str) and continuation:
        ids = ids_in_context(model, context, continuation)
    else:
        require_tokenizer(model, "the continuation")
        ids = tokenizer_of(model)(continuation, add_special_tokens=False)["input_ids"]
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
        """Yield each generated token."""
        device = self.reader.session.device
        generator = torch.Generator(device).manual_seed(seed)
        ids, cursor = torch.tensor([prompt], device=device), Cursor(self.reader.session)
        for step in range(n_steps):
            last = torch.tensor([[ids.shape[1] - 1]])
            rows = self.reader.rows(ids, last, check=step < 2, behind=cursor)
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
        device = self.reader.session.device
        ids = torch.tensor([prompt + continuation[:-1]], device=device)
        chosen = torch.arange(len(prompt) - 1, ids.shape[1])[None]
        rows = self.reader.rows(ids, chosen, check=True)
        self._read(rows[:, 0], slice(0, len(continuation)))
        self.tokens = continuation

    def _read(self, rows: Tensor, steps: slice) -> None:
        path = self.reader.path
        targets = torch.from_numpy(self.targets.ids[0, steps].copy()).to(rows.device)
        self.reads.append(
            readout(
                rows,
                path.W_U,
                path.b_U,
                k=self.k,
                targets=targets,
                transform=path.transform,
                steps=self.n_steps // rows.shape[1],
                buffers=self.buffers,
            )
        )

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
        text = TokenText(self.reader.session.tokenizer)
        targets = Targets(self.targets.labels, self.targets.ids[:, :n])
        shown = [text.joined(prompt)]
        return lens_dataset(cells, read, self.reader.layers, targets, text, shown)


class _Stop:
    """When a generation ends before its last step."""

    def __init__(self, model: Model, stop: Any) -> None:
        rule = "stop must be texts or token ids"
        given = listed(() if stop is None else stop, rule)
        asked = given if isinstance(given, list) else [given]
        self._texts = [s for s in asked if isinstance(s, str)]
        if "" in self._texts:
            msg = "stop holds an empty text, which every text contains; leave it out."
            raise ValueError(msg)
        ids = integers([s for s in asked if not isinstance(s, str)], rule)
        self._ids = {one_token(model, i) for i in ids}
        self._text = TokenText(tokenizer_of(model))
        self._ids.update(end_ids(model))

    def reached(self, tokens: list[int]) -> bool:
        if tokens[-1] in self._ids:
            return True
        if not self._texts:
            return False
        said = self._text.joined(tokens)
        return any(s in said for s in self._texts)
