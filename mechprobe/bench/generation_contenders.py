"""What is timed of generation. Runs inside a worker process only."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechprobe.bench.contender import Arrays, Contender
from mechprobe.bench.lens_contenders import hugging_face
from mechprobe.bench.workload import GENERATION, TOP_K, draw_ids
from mechprobe.lens import generate_with_lens
from mechprobe.models import Session, load_model, looking_at, run, tokenizer_of


class _Taker(Contender):
    prompt: Tensor
    n_steps: int

    def take(self, file: Path) -> None:
        """Read the prompt and the number of steps."""
        with np.load(file) as drawn:
            self.prompt = torch.from_numpy(drawn["prompt"])
            self.n_steps = int(drawn["n_steps"])


class Mechprobe(_Taker):
    """The public call as a user makes it, dataset included."""

    outputs = "the tokens, and top-10, entropy, KL of every layer at every step, in one dataset"

    def __init__(self, model: str) -> None:
        self.model: Any = load_model(model)

    def draw(self, work: str, file: Path) -> None:
        """Write the prompt, and how many tokens shall follow, for all contenders."""
        tokens, n_steps = GENERATION.read(work)
        ids = draw_ids(1, tokens, int(self.model.cfg.d_vocab), tokenizer_of(self.model))
        # Without the token that a lens would follow.
        np.savez(file, prompt=ids[:, :-1], n_steps=n_steps)

    def forward(self) -> None:
        """Run the prompt through the model's body."""
        with looking_at(self.model) as session:
            run(session, self.prompt, {})

    def run(self) -> Any:
        """Generate and read."""
        return generate_with_lens(
            self.model, self.prompt[0].tolist(), max_new_tokens=self.n_steps, top_k=TOP_K, progress=False
        )

    def arrays(self, result: Any) -> Arrays:
        """Return the tokens."""
        return {"tokens": result.data["next_token"].values[0]}

    def n_bytes(self, result: Any) -> int:
        """Return the size of the dataset."""
        return int(result.data.nbytes)


class Loop(_Taker):
    """The same loop without a lens: ``models.run``, word by word."""

    outputs = "the tokens alone (floor: mechprobe's own passes)"

    def __init__(self, model: str) -> None:
        self.model: Any = load_model(model)
        self.ends = _ends(self.model.original_model)

    def forward(self) -> None:
        """Run the prompt through the model's body."""
        with looking_at(self.model) as session:
            run(session, self.prompt, {})

    def around(self) -> AbstractContextManager[Session]:
        """Look at the model before the clock starts: a floor is its passes alone."""
        return looking_at(self.model)

    def run(self) -> Any:
        """Generate."""
        ids, cache, tokens = self.prompt, None, list[int]()
        with looking_at(self.model) as session:
            while len(tokens) < self.n_steps and not self.ends.intersection(tokens):
                done = run(session, ids, {}, logits="last", cache=cache, keep_cache=True)
                assert done.logits is not None
                ids, cache = done.logits[:, -1].argmax(-1, keepdim=True), done.cache
                tokens.append(int(ids))
        return tokens

    def arrays(self, result: Any) -> Arrays:
        """Return the tokens."""
        return {"tokens": np.array(result)}


class HFGenerate(_Taker):
    """Hugging Face's own ``generate``, its attention the default one."""

    outputs = "the tokens alone (Hugging Face's generate, the most likely token)"

    def __init__(self, model: str) -> None:
        self.model = hugging_face(model)

    @torch.no_grad()
    def forward(self) -> None:
        """Run the prompt through the model's body."""
        self.model.base_model(input_ids=self.prompt, use_cache=False)

    @torch.no_grad()
    def run(self) -> Any:
        """Generate."""
        out = self.model.generate(
            self.prompt,
            attention_mask=torch.ones_like(self.prompt),
            do_sample=False,
            max_new_tokens=self.n_steps,
            pad_token_id=0,
        )
        return out[0, self.prompt.shape[1] :]

    def arrays(self, result: Any) -> Arrays:
        """Return the tokens."""
        return {"tokens": result.numpy()}


def _ends(hf: Any) -> set[int]:
    end = getattr(hf.generation_config, "eos_token_id", None)
    return set(end) if isinstance(end, list) else set() if end is None else {end}


CONTENDERS: dict[str, Callable[[str], Contender]] = {
    "mechprobe": Mechprobe,
    "hf generate": HFGenerate,
    "loop": Loop,
}
