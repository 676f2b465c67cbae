"""What is timed of the lens. Runs inside a worker process only.

No contender does less than its ``outputs`` say, and none is run slower than its own documentation
runs it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mechprobe.bench.contender import AbsentError, Arrays, Contender
from mechprobe.bench.workload import LENS, TOP_K, draw_ids, read_ids, save_ids
from mechprobe.kernels.gemm import Gemm, gemm_path
from mechprobe.lens import logit_lens
from mechprobe.models import (
    EMBEDDING,
    Model,
    Session,
    batches,
    load_model,
    looking_at,
    run,
    stream_name,
    tokenizer_of,
)
from mechprobe.models.packaged import NAME, packaged_model

_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
_FLOAT32_ERROR = 2e-5


class _Taker(Contender):
    ids: Tensor
    targets: Tensor

    def take(self, file: Path) -> None:
        self.ids, self.targets = map(torch.from_numpy, read_ids(file))


class Mechprobe(_Taker):
    """The public call as a user makes it, dataset included."""

    outputs = "top-10, entropy, KL, rank and log-prob of target, in one labelled dataset"

    def __init__(self, model: str) -> None:
        self.model: Any = load_model(model)

    def draw(self, work: str, file: Path) -> None:
        """Write the ids of a workload, for all contenders."""
        prompts, tokens = LENS.read(work)
        save_ids(file, draw_ids(prompts, tokens, int(self.model.cfg.d_vocab), tokenizer_of(self.model)))

    def forward(self) -> None:
        """Run the model's body in mechprobe's own micro-batches."""
        _body(self.model, self.ids, None)

    def run(self) -> Any:
        """Call the lens."""
        return logit_lens(
            self.model, self.ids, positions=None, top_k=TOP_K, targets=self.targets, progress=False
        )

    def arrays(self, result: Any) -> Arrays:
        """Return the numbers of the dataset."""
        data = result.data
        return {
            "top_id": data["top_token"].values,
            "entropy": data["entropy"].values,
            "kl": data["kl_to_final"].values,
            "rank": data["target_rank"].values[..., 0],
            "target": data["target_token"].values[..., 0],
        }

    def n_bytes(self, result: Any) -> int:
        """Return the size of the dataset."""
        return int(result.data.nbytes)

    def exact_logits(self, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return float64 logits of cells (prompt, pos, layer) from this model's own residuals."""
        with looking_at(self.model) as session:
            return self._exact_logits(session, cells)

    def _exact_logits(self, session: Session, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        path = session.unembedding
        W_U, b_U = path.W_U.double(), path.b_U.double()
        rows = torch.empty(len(cells), W_U.shape[0], dtype=path.W_U.dtype)
        at = torch.from_numpy(cells)
        n_prompts = 0

        def keep(layer: int) -> Callable[[Tensor], None]:
            def sink(resid: Tensor) -> None:
                here = (at[:, 0] >= n_prompts) & (at[:, 0] < n_prompts + len(resid))
                here &= at[:, 2] == layer
                picked = resid[at[here, 0] - n_prompts, at[here, 1]]
                if len(picked):
                    rows[here] = path.norm(picked)

            return sink

        # Layer entry 0 is the embedding, entry l + 1 is after block l.
        capture = {stream_name(x): keep(x + 1) for x in range(EMBEDDING, session.n_layers)}
        for batch in batches(self.model, self.ids.tolist()):
            n_prompts = batch.index[0]
            run(session, batch.ids, capture)
        z = rows.double() @ W_U + b_U
        return (z if path.transform is None else path.transform(z)).numpy()


class _TransformerLens(_Taker):
    """TransformerLens' own lens: one cached run, read twice, as its selectors exclude each other.

    Only the residual hooks that its lens itself asks for are cached; ``chunk_size`` is its default.
    """

    outputs = "top-10, entropy, rank and log-prob of target, as tensors; no KL; two readings"

    def __init__(self, model: str) -> None:
        try:
            from transformer_lens.tools.analysis import logit_lens as lens
        except ImportError as error:
            msg = f"this TransformerLens has no tools.analysis.logit_lens ({error})"
            raise AbsentError(msg) from error
        self.lens: Any = lens
        self.model: Any = load_model(model)
        n_layers = int(self.model.cfg.n_layers)
        self.names = [f"blocks.{x}.hook_resid_pre" for x in range(n_layers)]
        self.names.append(f"blocks.{n_layers - 1}.hook_resid_post")

    def forward(self) -> None:
        _body(self.model, self.ids, len(self.ids))

    def run(self) -> Any:
        # Without gradients and without the logits at hand: both spare it memory.
        with torch.no_grad():
            cache = self.model.run_with_cache(self.ids, names_filter=self.names)[1]
            options = {"cache": cache, "positions": None, "return_type": "log_probs"}
            top = self.lens(self.model, top_k=TOP_K, **options)
            follow = self.lens(self.model, targets=self.targets, **options)
        return top.readout, follow.readout

    def arrays(self, result: Any) -> Arrays:
        top, follow = result
        return {
            "top_id": top.top_ids.permute(1, 2, 0, 3).numpy(),
            "entropy": top.entropy.permute(1, 2, 0).numpy(),
            "rank": follow.target_ranks[..., 0].permute(1, 2, 0).numpy(),
        }

    def n_bytes(self, result: Any) -> int:
        return sum(v.nbytes for part in result for v in vars(part).values() if _is_tensor(v))


def hugging_face(model: str) -> Any:
    """Load a model as Hugging Face does, with its default attention."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = packaged_model()[0] if model == NAME else model
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return loaded.eval()


class HuggingFaceLoop(_Taker):
    """Plain Hugging Face and torch, one layer at a time, as most people write a lens."""

    outputs = "top-10, entropy, KL, rank of target, as tensors"
    norms = ("norm", "ln_f", "final_layer_norm", "final_layernorm")

    def __init__(self, model: str) -> None:
        self.hf = self.model = hugging_face(model)
        body = self.hf.base_model
        found = [getattr(body, name) for name in self.norms if hasattr(body, name)]
        if not found or any(getattr(self.hf.config, name, None) for name in _TRANSFORMS):
            msg = f"a plain loop over {type(self.hf).__name__} does not know its path to logits"
            raise AbsentError(msg)
        self.norm: Any = found[0]

    @torch.no_grad()
    def forward(self) -> None:
        """Run the body."""
        self.hf.base_model(input_ids=self.ids, use_cache=False)

    @torch.no_grad()
    def run(self) -> Any:
        """Read layer after layer."""
        out = self.hf(self.ids, output_hidden_states=True, use_cache=False)
        final = out.logits.log_softmax(-1)
        final_p = final.exp()
        target = self.targets[..., None]
        parts: dict[str, list[Tensor]] = {"top_id": [], "entropy": [], "kl": [], "rank": []}
        for layer, hidden in enumerate(out.hidden_states):
            # The last hidden state of Hugging Face is behind the final norm already.
            last = layer == len(out.hidden_states) - 1
            logits = out.logits if last else self.hf.lm_head(self.norm(hidden))
            log_p = final if last else logits.log_softmax(-1)
            parts["top_id"].append(log_p.topk(TOP_K).indices)
            parts["entropy"].append(-(log_p.exp() * log_p).sum(-1))
            parts["kl"].append((final_p * (final - log_p)).sum(-1))
            parts["rank"].append((logits > logits.gather(-1, target)).sum(-1))
        return {name: torch.stack(values, 2) for name, values in parts.items()}

    def arrays(self, result: Any) -> Arrays:
        """Return what was read."""
        return {name: values.numpy() for name, values in result.items()}

    def n_bytes(self, result: Any) -> int:
        """Return the size of what was read."""
        return sum(values.nbytes for values in result.values())


class _Forward(_Taker):
    """Floor: the model's body alone."""

    outputs = "none (floor: the forward pass without unembedding)"

    def __init__(self, model: str) -> None:
        self.model: Any = load_model(model)

    def forward(self) -> None:
        _body(self.model, self.ids, len(self.ids))

    def around(self) -> AbstractContextManager[Session]:
        """Look at the model before the clock starts: a floor is its passes alone."""
        return looking_at(self.model)


class _ForwardGemm(_Forward):
    """Floor: the body, and the unembedding of every layer into a buffer that nobody reads."""

    def take(self, file: Path) -> None:
        super().take(file)
        with looking_at(self.model) as session:
            self.W_U = session.unembedding.W_U
        n_rows = (int(self.model.cfg.n_layers) + 1) * self.ids.numel()
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randn(n_rows, self.W_U.shape[0], generator=generator).to(self.W_U)
        self.path, self.tile = self._fastest()
        self.outputs = f"none (floor: forward + GEMM, {self.path} path, {self.tile} rows a tile)"

    def run(self) -> Any:
        self.forward()
        self._multiply(self.rows, self.path, self.tile)

    def _multiply(self, rows: Tensor, path: Gemm, tile: int) -> float:
        out = torch.empty(tile, self.W_U.shape[1], dtype=self.W_U.dtype)
        start = perf_counter()
        with gemm_path(path):
            for x in rows.split(tile):
                torch.mm(x, self.W_U, out=out[: len(x)])
        return perf_counter() - start

    def _fastest(self) -> tuple[Gemm, int]:
        """Try both products and several tiles; one that is not exact to float32 does not count."""
        sample = self.rows[:1024]
        paths: list[Gemm] = ["default"]
        if torch.backends.mkldnn.is_available() and self._exact():
            paths.append("onednn")
        seconds = {
            (path, tile): min(self._multiply(sample, path, tile) for _ in range(3))
            for path in paths
            for tile in (64, 128, 256, 512)
        }
        return min(seconds, key=lambda key: seconds[key])

    def _exact(self) -> bool:
        x = self.rows[:16]
        exact = x.double() @ self.W_U.double()
        scale = x.double().norm(dim=-1, keepdim=True) * self.W_U.double().norm(dim=0)
        with gemm_path("onednn"):
            error = ((x @ self.W_U - exact).abs() / scale.clamp(min=1e-30)).max()
        return float(error) < _FLOAT32_ERROR


CONTENDERS: dict[str, Callable[[str], Contender]] = {
    "mechprobe": Mechprobe,
    "transformer_lens": _TransformerLens,
    "hf_loop": HuggingFaceLoop,
    "forward": _Forward,
    "forward+gemm": _ForwardGemm,
}


def _body(model: Model, ids: Tensor, batch_size: int | None) -> None:
    with looking_at(model) as session:
        for batch in batches(model, ids.tolist(), batch_size):
            run(session, batch.ids, {})


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)
