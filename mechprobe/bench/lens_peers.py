"""Lenses of other packages, where these are installed. Runs inside a worker process only."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from mechprobe.bench.contender import AbsentError, Contender
from mechprobe.bench.lens_contenders import HuggingFaceLoop
from mechprobe.bench.workload import TOP_K

_LAYERS = ("layers", "h")


class NNsight(HuggingFaceLoop):
    """A trace over all layers, as nnsight's own logit-lens tutorial writes it, plus entropy."""

    outputs = "top-10 and entropy, as tensors; no KL, no rank"

    def __init__(self, model: str) -> None:
        nnsight: Any = _import("nnsight")
        super().__init__(model)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.hf.config.name_or_path)
        self.traced: Any = nnsight.LanguageModel(self.hf, tokenizer=tokenizer)
        self.save: Any = nnsight.save
        body = getattr(self.traced, self.hf.base_model_prefix)
        self.layers, self.final_norm = _named(body, _LAYERS), _named(body, self.norms)

    @torch.no_grad()
    def run(self) -> Any:
        """Trace the model once and read every layer."""
        layers, norm, head = self.layers, self.final_norm, self.traced.lm_head
        with self.traced.trace(self.ids):
            tops, entropies = self.save([]), self.save([])
            streams = [layers[0].input, *[layer.output for layer in layers]]
            for stream in streams:
                hidden = stream[0] if isinstance(stream, tuple) else stream
                log_p = head(norm(hidden)).log_softmax(-1)
                tops.append(log_p.topk(TOP_K).indices)
                entropies.append(-(log_p.exp() * log_p).sum(-1))
        return {"top_id": torch.stack(tops, 2), "entropy": torch.stack(entropies, 2)}


class NNterp(HuggingFaceLoop):
    """nnterp's standardized names on an nnsight trace."""

    outputs = "top-10, as a tensor; no entropy, no KL, no rank"

    def __init__(self, model: str) -> None:
        nnterp: Any = _import("nnterp")
        super().__init__(model)
        self.save: Any = _import("nnsight").save
        self.traced: Any = nnterp.StandardizedTransformer(self.hf.config.name_or_path, dtype=torch.float32)

    @torch.no_grad()
    def run(self) -> Any:
        """Trace the model once and read every layer."""
        traced = self.traced
        with traced.trace(self.ids):
            tops = self.save([])
            streams = [traced.layers_input[0], *traced.layers_output]
            for hidden in streams:
                tops.append(traced.project_on_vocab(hidden).topk(TOP_K).indices)
        return {"top_id": torch.stack(tops, 2)}


class _Absent(Contender):
    """A peer that cannot run beside this TransformerLens, and is named with the reason."""

    package = ""
    reason = ""

    def __init__(self, model: str) -> None:  # noqa: ARG002
        _import(self.package)
        raise AbsentError(self.reason)


class TunedLens(_Absent):
    """Imports names that TransformerLens removed with 4.0."""

    package = "tuned_lens.plotting"
    reason = "tuned-lens runs only where TransformerLens is older than 4, or not installed"


class Interpreto(_Absent):
    """Asks for older jaxtyping and nnsight than the others."""

    package = "interpreto"
    reason = "interpreto's requirements contradict those of TransformerLens 4.3; not adapted"


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        msg = f"{name} cannot be imported ({error})"
        raise AbsentError(msg) from error


def _named(module: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    msg = f"none of {', '.join(names)} in {type(module).__name__}"
    raise AbsentError(msg)


CONTENDERS: dict[str, Callable[[str], Contender]] = {
    "nnsight": NNsight,
    "nnterp": NNterp,
    "tuned_lens": TunedLens,
    "interpreto": Interpreto,
}
