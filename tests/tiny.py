"""Tiny random Hugging Face models of many architectures, built on the spot, no download."""

from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

D_VOCAB = 300
_TEXT = [
    "The quick brown fox jumps over the lazy dog. Is there a seahorse emoji? No, there is none.",
    "the cat sat on the mat and the dog sat on the log, one two three four five six seven eight",
]
D_VOCAB_TASKS = 420
_TASK_TEXT = [
    *_TEXT,
    *["Answer: true Answer: false Answer: yes Answer: no Answer:true Answer:false"] * 9,
    *["True or false: Every one is Each one are not Question: Options: Which word"] * 9,
    *[f"{x}. Answer: {x}" for x in "ABCDEFGHIJKLMNOPQRSTUVWX" for _ in range(9)],
]

_COMMON: dict[str, Any] = {"vocab_size": D_VOCAB, "bos_token_id": 1, "eos_token_id": 2,
                           "pad_token_id": 0}  # fmt: skip
_LLAMA: dict[str, Any] = {**_COMMON, "hidden_size": 32, "intermediate_size": 48,
                          "num_hidden_layers": 3, "num_attention_heads": 4,
                          "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
_GPT: dict[str, Any] = {**_COMMON, "hidden_size": 32, "intermediate_size": 48,
                        "num_hidden_layers": 3, "num_attention_heads": 4,
                        "max_position_embeddings": 64}  # fmt: skip


def config(name: str) -> Any:
    """Return a tiny configuration of an architecture."""
    makers: dict[str, Any] = {
        "llama": lambda: tf.LlamaConfig(**_LLAMA),
        "mistral": lambda: tf.MistralConfig(**_LLAMA),
        "qwen2": lambda: tf.Qwen2Config(**_LLAMA),
        "qwen3": lambda: tf.Qwen3Config(**_LLAMA, head_dim=16),
        "gemma2": lambda: tf.Gemma2Config(**_LLAMA, head_dim=8, final_logit_softcapping=0.5),
        "gemma3": lambda: tf.Gemma3TextConfig(**_LLAMA, head_dim=8),
        "cohere": lambda: tf.CohereConfig(**_LLAMA, logit_scale=0.25),
        "granite": lambda: tf.GraniteConfig(
            **_LLAMA, logits_scaling=8.0, residual_multiplier=0.3, embedding_multiplier=12.0
        ),
        "olmo2": lambda: tf.Olmo2Config(**_LLAMA),
        "smollm3": lambda: tf.SmolLM3Config(**_LLAMA),
        "phi3": lambda: tf.Phi3Config(**_LLAMA),
        "mixtral": lambda: tf.MixtralConfig(**_LLAMA, num_local_experts=4),
        "stablelm": lambda: tf.StableLmConfig(**_LLAMA),
        "gpt_neox": lambda: tf.GPTNeoXConfig(**_GPT),
        "phi": lambda: tf.PhiConfig(**_GPT),
        "gpt2": lambda: tf.GPT2Config(**_COMMON, n_embd=32, n_layer=3, n_head=4, n_positions=64),
        "gptj": lambda: tf.GPTJConfig(
            **_COMMON, n_embd=32, n_layer=3, n_head=4, n_positions=64, rotary_dim=4
        ),
        "gpt_neo": lambda: tf.GPTNeoConfig(
            **_COMMON, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48,
            attention_types=[[["global", "local"], 1]], max_position_embeddings=64,
        ),
        "opt": lambda: tf.OPTConfig(
            **_COMMON, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
            word_embed_proj_dim=32, max_position_embeddings=64,
        ),
        "bloom": lambda: tf.BloomConfig(**_COMMON, hidden_size=32, n_layer=3, n_head=4),
        "falcon": lambda: tf.FalconConfig(
            **_COMMON, hidden_size=32, num_hidden_layers=3, num_attention_heads=4
        ),
        "t5": lambda: tf.T5Config(
            vocab_size=D_VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4
        ),
    }  # fmt: skip
    return makers[name]()


ARCHITECTURES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "cohere", "granite", "olmo2",
    "smollm3", "phi3", "mixtral", "stablelm", "gpt_neox", "phi", "gpt2", "gptj", "gpt_neo", "opt",
    "bloom", "falcon",
)  # fmt: skip


def save_tiny(
    folder: Path, name: str = "llama", *, tokenizer: bool = False, tasks: bool = False, sharpness: float = 8.0
) -> Path:
    """Write a tiny random model as a Hugging Face folder.

    With ``tasks`` its context is long and its tokenizer knows the answers of tasks as tokens.

    Weights are scaled up so that its logits are far from flat: a lens that misses a norm, a
    soft-cap or a scale is then visibly wrong.
    """
    torch.manual_seed(0)
    if name == "t5":
        model: Any = tf.T5ForConditionalGeneration(config(name))
    else:
        sizes = config(name)
        if tasks:
            _enlarge(sizes)
        model = tf.AutoModelForCausalLM.from_config(sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(sharpness)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if tokenizer or tasks:
        save_tokenizer(folder, *((_TASK_TEXT, D_VOCAB_TASKS) if tasks else (_TEXT, D_VOCAB)))
    return folder


def _enlarge(sizes: Any) -> None:
    sizes.vocab_size = D_VOCAB_TASKS
    for name in ("max_position_embeddings", "n_positions"):
        if hasattr(sizes, name):
            setattr(sizes, name, 1024)


def save_tokenizer(folder: Path, text: list[str], d_vocab: int) -> None:
    """Train and write a byte-level BPE tokenizer of at most ``d_vocab`` tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=d_vocab,
            special_tokens=["<pad>", "<bos>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tf.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)
