"""Train a small transformer on the sequences of a world; interrupted, it goes on where it was."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from mechprobe.files import write_whole
from mechprobe.models.ambient import steady
from mechprobe.models.session import alone
from mechprobe.provenance import Call, Json, digest_json
from mechprobe.stats import accuracy_interval
from mechprobe.worlds.automata.arrays import PAD, Ids, pad
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.training.data import Corpus, batches, corpus, wrong_words
from mechprobe.worlds.training.results import SequenceTraining, training_of

PAD_WORD = "<pad>"
CHECKPOINT = "training.safetensors"
# Positions of a model whose sequences are shorter: a sampled suffix may be longer than any of them.
_POSITIONS = 128
_IGNORE = -100


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the weights besides world and sequences."""

    n_layers: int
    d_model: int
    n_heads: int
    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: int
    seed: int


@alone
def train_sequence_model(
    world: World,
    sequences: Sequence[Ids],
    *,
    folder: str | Path,
    n_layers: int = 2,
    d_model: int = 64,
    n_heads: int = 4,
    steps: int = 2000,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    held_out: Sequence[Ids] | float = 0.05,
    evaluate_every: int = 250,
    seed: int = 0,
    resume: bool = True,
    progress: bool = True,
) -> SequenceTraining:
    r"""Train a GPT-2 of a few layers to predict the next word, and save it as a folder.

    .. math:: L = -\frac{1}{N} \sum_{s} \sum_{i \ge 2} \log p(s_i \mid s_1 \dots s_{i-1})

    over the :math:`N` words that are predicted; padding is no word. AdamW with a linear warm-up
    over the first twentieth of the steps, then a cosine down to nothing; gradients are clipped to
    norm 1. After every ``evaluate_every`` steps held-out loss and next-token validity (is the most
    likely word legal?) are noted, and all that is needed to go on is written to one file.

    Args:
        world: Whose words they are.
        sequences: Ids to learn from; all must be legal.
        folder: Where the model goes: a Hugging Face folder with ``tokens.json`` (word to id; the
            ids of the world, padding last), which ``load_model`` reads.
        n_layers: Transformer blocks.
        d_model: Width of the residual stream.
        n_heads: Attention heads of each block.
        steps: Updates.
        batch_size: Sequences of each.
        lr: Highest learning rate.
        weight_decay: Of matrices; biases and norms have none.
        held_out: Sequences to be judged by, or the share of ``sequences`` to set apart.
        evaluate_every: Steps between two evaluations, which are also the checkpoints.
        seed: Of weights, held-out share and order.
        resume: Go on from the checkpoint in ``folder``; False starts afresh.
        progress: Show a bar.

    Returns:
        Losses, held-out loss and next-token validity with its interval. The record says how many
        ``threads`` trained it: with another number sums are rounded otherwise, and the weights differ.

    Raises:
        ValueError: Sequences that do not fit the world, sizes that do not fit each other, or a
            checkpoint of another training in ``folder``.
        FloatingPointError: The loss is no longer a number.

    Example:
        >>> walks = world.random_walks(20_000, np.random.default_rng(0))  # doctest: +SKIP
        >>> train_sequence_model(world, walks, folder="walks")  # doctest: +SKIP

    References:
        Vafa et al. (2024), https://arxiv.org/abs/2406.03689, appendix B (larger, on eight GPUs).
    """
    call = Call("train_sequence_model", locals())
    recipe = Recipe(
        n_layers, d_model, n_heads, steps, batch_size, lr, weight_decay, max(1, steps // 20), seed
    )
    _check_recipe(recipe, evaluate_every)
    data = corpus(world, sequences, held_out, seed)
    facts: dict[str, Json] = {
        "world": world.digest(),
        "sequences": digest_json([[s.tolist() for s in part] for part in (data.train, data.held_out)]),
        "recipe": asdict(recipe),
    }
    where = Path(folder).expanduser()
    where.mkdir(parents=True, exist_ok=True)
    # Notebooks of interpretability switch gradients off for good.
    with steady(grad=True):
        session = _Session(world, data, recipe, where / CHECKPOINT, facts)
        if resume:
            session.restore()
        session.run(evaluate_every, progress=progress)
    _save(session.model, world, where)
    provenance = call.record(
        {"name": where.name, "world": world.name},
        facts,
        seed=seed,
        world=world.name,
        folder=where.name,
        sequences=len(sequences),
        held_out=held_out if isinstance(held_out, float) else len(held_out),
        warmup=recipe.warmup,
        threads=session.threads,
    )
    return training_of(session.losses, session.evaluations, provenance)


class _Session:
    """A training between two interruptions."""

    def __init__(
        self, world: World, data: Corpus, recipe: Recipe, file: Path, facts: dict[str, Json]
    ) -> None:
        self.world, self.data, self.recipe, self.file, self.facts = world, data, recipe, file, facts
        self.model = _new_model(world, data.longest, recipe)
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
        )
        self.step = 0
        self.losses: list[float] = []
        self.evaluations: list[tuple[float, ...]] = []
        # Sums over threads are rounded in another order: weights are those of this number.
        self.threads: list[int] = []

    def run(self, evaluate_every: int, *, progress: bool) -> None:
        if self.step < self.recipe.steps:
            self.threads = sorted({*self.threads, torch.get_num_threads()})
        reader = batches(self.data.train, self.recipe.batch_size, self.recipe.seed)
        for _ in range(self.step):
            next(reader)
        with tqdm(
            total=self.recipe.steps,
            initial=self.step,
            desc="training",
            unit="step",
            disable=not progress,
            leave=False,
        ) as bar:
            while self.step < self.recipe.steps:
                self.losses.append(self._update(next(reader)))
                self.step += 1
                bar.update()
                if self.step % evaluate_every == 0 or self.step == self.recipe.steps:
                    self.evaluations.append((float(self.step), *self.evaluate()))
                    self.store()
                    bar.set_postfix(
                        loss=f"{self.evaluations[-1][1]:.3f}", valid=f"{self.evaluations[-1][2]:.4f}"
                    )

    def _update(self, ids: Ids) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.recipe)
        batch = torch.from_numpy(ids)
        loss = next_word_loss(self.model, batch)
        if not bool(torch.isfinite(loss)):
            msg = (
                f"the loss is {float(loss)} at step {self.step + 1}; train with a lower learning "
                f"rate than {self.recipe.lr}. The last checkpoint is kept."
            )
            raise FloatingPointError(msg)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float, float, float]:
        """Return held-out loss, next-token validity, and its interval over sequences."""
        self.model.eval()
        rows, total, words = self.data.held_out, 0.0, 0
        said = np.full(pad(rows).shape, PAD, dtype=np.int64)
        for start in range(0, len(rows), 256):
            ids = torch.from_numpy(pad(rows[start : start + 256]))
            logits = self.model(ids[:, :-1].clamp_min(0)).logits
            n = int((ids[:, 1:] != PAD).sum())
            total += float(_cross_entropy(logits, ids)) * n
            words += n
            # The padding word is no answer.
            best = logits[..., :-1].argmax(-1).numpy()
            said[start : start + len(ids), 1 : ids.shape[1]] = best
        self.model.train()
        wrong, judged = wrong_words(self.world, rows, said)
        right = np.repeat(np.tile([1.0, 0.0], len(rows)), np.c_[judged - wrong, wrong].reshape(-1))
        found = accuracy_interval(right, np.repeat(np.arange(len(rows)), judged))
        return total / words, found.value, found.low, found.high

    def store(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items() if k != "lm_head.weight"}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}": value for key, value in state.items()}
        notes = {
            "facts": json.dumps(self.facts, sort_keys=True),
            "step": str(self.step),
            "losses": json.dumps(self.losses),
            "evaluations": json.dumps(self.evaluations),
            "threads": json.dumps(self.threads),
        }
        write_whole(self.file, save(tensors, metadata={**notes, "sha256": _checksum(tensors, notes)}))

    def restore(self) -> None:
        if not self.file.exists():
            return
        notes, tensors = _read_checkpoint(self.file)
        _require_same(json.loads(notes.get("facts", "{}")), self.facts, self.file)
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(weights, strict=False)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, i, name = key.split(".", 2)
                moments.setdefault(int(i), {})[name] = value
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**state, "state": moments})
        self.step = int(notes["step"])
        self.losses = json.loads(notes["losses"])
        self.evaluations = [tuple(e) for e in json.loads(notes["evaluations"])]
        self.threads = json.loads(notes.get("threads", "[]"))


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the rate of a step, counted from 0: a line up, then half a cosine down."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))


def next_word_loss(model: Any, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Return the mean loss over the words that are predicted; -1 is padding and counts nowhere."""
    # Attention is causal and padding is on the right: no word sees it.
    return _cross_entropy(model(ids[:, :-1].clamp_min(0)).logits, ids)


def _cross_entropy(
    logits: Float[Tensor, "batch before d_vocab"], ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    target = ids[:, 1:].masked_fill(ids[:, 1:] == PAD, _IGNORE)
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=_IGNORE)


def _new_model(world: World, longest: int, recipe: Recipe) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    n_words = len(world.tokens)
    end = n_words if world.end is None else world.end
    config = GPT2Config(
        vocab_size=n_words + 1,
        n_positions=max(_POSITIONS, longest, world.max_length),
        n_embd=recipe.d_model,
        n_layer=recipe.n_layers,
        n_head=recipe.n_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        # GPT-2's own function, in one operation instead of eight.
        activation_function="gelu_pytorch_tanh",
        bos_token_id=n_words,
        eos_token_id=end,
        pad_token_id=n_words,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return GPT2LMHeadModel(config).train()


def _save(model: Any, world: World, folder: Path) -> None:
    """Write config, weights and words; the weights last, since a folder without them is none."""
    words = {word: i for i, word in enumerate((*world.tokens, PAD_WORD))}
    text = json.dumps(words, ensure_ascii=False, indent=0)
    write_whole(folder / "tokens.json", text.encode())
    write_whole(folder / "config.json", model.config.to_json_string(use_diff=False).encode())
    tensors = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    write_whole(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))


def _checksum(tensors: dict[str, Tensor], notes: dict[str, str]) -> str:
    """Return a digest of all that a checkpoint holds."""
    found = sha256(json.dumps(notes, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().contiguous()
        found.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _read_checkpoint(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return notes and tensors of a checkpoint that is as it was written."""
    try:
        with safe_open(file, "pt") as stored:
            notes = dict(stored.metadata() or {})
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        if notes.pop("sha256", None) == _checksum(tensors, notes):
            return notes, tensors
        why = "its checksum is another"
    # What the reader of a damaged header raises.
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        why = str(error)
    msg = (
        f"{file} is damaged, or of an older version of mechprobe ({why}). Delete it, or pass "
        "resume=False, to train from the start."
    )
    raise ValueError(msg)


def _require_same(stored: dict[str, Any], asked: dict[str, Any], file: Path) -> None:
    asked = json.loads(json.dumps(asked))
    if stored == asked:
        return
    different = [key for key in ("world", "sequences") if stored.get(key) != asked[key]]
    recipes = stored.get("recipe", {}), asked["recipe"]
    different += [
        f"{key}={recipes[0].get(key)} instead of {value}"
        for key, value in recipes[1].items()
        if recipes[0].get(key) != value
    ]
    msg = (
        f"{file.parent.name} holds a checkpoint of another training ({', '.join(different)}); "
        "pass resume=False to start afresh, or another folder."
    )
    raise ValueError(msg)


def _check_recipe(recipe: Recipe, evaluate_every: int) -> None:
    sizes = {k: v for k, v in asdict(recipe).items() if k not in ("lr", "weight_decay", "seed")}
    for name, value in {**sizes, "evaluate_every": evaluate_every}.items():
        if value < 1:
            msg = f"{name} must be at least 1; got {value}."
            raise ValueError(msg)
    if recipe.d_model % recipe.n_heads:
        msg = (
            f"d_model={recipe.d_model} cannot be shared out among {recipe.n_heads} heads; choose a multiple."
        )
        raise ValueError(msg)
    if not 0 < recipe.lr < 1:
        msg = f"lr must be a learning rate between 0 and 1, 0.001 for instance; got {recipe.lr}."
        raise ValueError(msg)
