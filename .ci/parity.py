"""One set of weights, read on TransformerLens 3.9 and 4.x, compared through saved results.

    python .ci/parity.py save FOLDER       in each environment
    python .ci/parity.py compare FOLDER    in either, afterwards

The bridge runs in both; ``HookedTransformer`` exists in 3.9 only and is built from a configuration
with converted weights, plain and with its norms folded.
"""

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mechprobe as mp
from mechprobe.models import token_ids
from tests.tiny import save_tiny

PROMPTS = [[5, 9, 100, 42, 7, 3, 250], [8, 8, 31], [77]]
STREAMS = ("resid_post", "resid_mid", "attn_out", "mlp_out")
SCORES = ("qk", "rotated", "cosine", "attention")
# Largest difference allowed: log-probabilities in nats, scores of the largest score.
TOLERANCE = 1e-4


def hooked(folder: Path, name: str, *, fold: bool) -> Any:
    """Build a ``HookedTransformer`` with the weights of a Hugging Face folder."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions as convert
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    c = hf.config
    shared = {"d_vocab": c.vocab_size, "n_ctx": c.max_position_embeddings, "device": "cpu"}
    if name == "llama":
        cfg = HookedTransformerConfig(
            d_model=c.hidden_size,
            d_head=c.head_dim,
            n_heads=c.num_attention_heads,
            n_key_value_heads=c.num_key_value_heads,
            n_layers=c.num_hidden_layers,
            d_mlp=c.intermediate_size,
            act_fn="silu",
            gated_mlp=True,
            eps=c.rms_norm_eps,
            normalization_type="RMS",
            positional_embedding_type="rotary",
            rotary_dim=c.head_dim,
            rotary_base=int(c.rope_parameters["rope_theta"]),
            rotary_adjacent_pairs=False,
            final_rms=True,
            **shared,
        )
        state = convert.convert_llama_weights(hf, cfg)
    else:
        cfg = HookedTransformerConfig(
            d_model=c.n_embd,
            d_head=c.n_embd // c.n_head,
            n_heads=c.n_head,
            n_layers=c.n_layer,
            d_mlp=4 * c.n_embd,
            act_fn="gelu_new",
            eps=c.layer_norm_epsilon,
            normalization_type="LN",
            **shared,
        )
        state = convert.convert_gpt2_weights(hf, cfg)
    has_tokenizer = (folder / "tokenizer.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(folder) if has_tokenizer else None
    model = HookedTransformer(cfg, tokenizer=tokenizer)
    model.load_and_process_state_dict(
        state, fold_ln=fold, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()


def models(weights: Path, name: str, *, tasks: bool = False) -> dict[str, Any]:
    """Return every kind of model that this version can make of one set of weights."""
    save_tiny(weights, name, tasks=tasks)
    found = {"bridge": mp.load_model(weights, device="cpu")}
    if metadata.version("transformer-lens").startswith("3."):
        found["hooked"] = hooked(weights, name, fold=False)
        found["folded"] = hooked(weights, name, fold=True)
    return found


def save(folder: Path) -> None:
    """Read every model this version has, and save the results."""
    version = metadata.version("transformer-lens")
    for name in ("llama", "gpt2"):
        for kind, model in models(folder / f"weights-{name}-{version}", name).items():
            for stream in STREAMS:
                result = mp.logit_lens(
                    model, PROMPTS, positions=None, stream=stream, targets=[4], progress=False
                )
                result.save(folder / f"{name}-{stream}-{version}-{kind}.nc")
            said = mp.generate_with_lens(model, PROMPTS[0], max_new_tokens=6, progress=False)
            said.save(folder / f"{name}-generate-{version}-{kind}.nc")
        for kind, model in models(folder / f"tasks-{name}-{version}", name, tasks=True).items():
            for task in (mp.tasks.ontology(8, 2, 1), mp.tasks.select_and_copy(6, options=3)):
                for score in SCORES:
                    result = mp.qk_scores(model, task, score=score, progress=False)
                    result.save(folder / f"{name}-{score}_{task.layout}-{version}-{kind}.nc")
    street = Path(os.environ.get("MECHPROBE_DATA", "../shared/data")) / "street_grid_6x6"
    if street.is_dir():
        _street(street, folder / f"street-resid_post-{version}-bridge.nc")
    else:
        print(f"street_grid_6x6 not compared: no data at {street}")


def _street(street: Path, out: Path) -> None:
    """A folder without tokenizer: ids are read, text is refused."""
    model = mp.load_model(street, device="cpu")
    if model.tokenizer is not None:
        raise SystemExit("a folder without tokenizer files came with a tokenizer")
    try:
        token_ids(model, "turn left")
    except ValueError as refusal:
        print(f"text refused: {refusal}")
    else:
        raise SystemExit("text was accepted by a model without tokenizer")
    ids = [[3, 7, 11, 20], [1, 2]]
    mp.logit_lens(model, ids, positions=None, targets=[4], progress=False).save(out)


def compare(folder: Path) -> None:
    """Compare all results of one model and stream with each other."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.nc")):
        groups.setdefault("-".join(path.name.split("-")[:2]), []).append(path)
    worst = 0.0
    for group, paths in groups.items():
        first, *others = [mp.load_result(p).data for p in paths]
        if not others:
            raise SystemExit(f"{group}: only {paths[0].name}; run `save` in both environments")
        for path, other in zip(paths[1:], others, strict=True):
            difference = _difference(first, other, paths[0].name, path.name)
            worst = max(worst, difference)
            print(f"{group:22} {paths[0].stem} ~ {path.stem}: {difference:.1e}")
    print(f"largest difference {worst:.1e}, {TOLERANCE:g} allowed")
    if not groups or not worst <= TOLERANCE:
        raise SystemExit(1)


def _difference(a: Any, b: Any, a_name: str, b_name: str) -> float:
    if "score" in a:
        own = np.nanmax(np.abs(a["model_log_prob"].values - b["model_log_prob"].values))
        scores = np.abs(a["score"].values - b["score"].values).max() / np.abs(a["score"].values).max()
        return float(max(own, scores))
    valid = a["valid"].values
    if not np.array_equal(a["model_token"].values[..., 0], b["model_token"].values[..., 0]):
        raise SystemExit(f"{a_name} and {b_name} disagree on the model's own answer")
    names = [n for n in ("target_log_prob", "entropy", "kl_to_final", "model_log_prob") if n in a]
    return max(float(np.abs(a[n].values[valid] - b[n].values[valid]).max()) for n in names)


if __name__ == "__main__":
    torch.manual_seed(0)
    verb, where = sys.argv[1], Path(sys.argv[2])
    where.mkdir(parents=True, exist_ok=True)
    {"save": save, "compare": compare}[verb](where)
