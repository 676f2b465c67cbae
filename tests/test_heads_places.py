"""Where queries and keys are read: against the tokenizers' own character offsets."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.test_heads_scores import (
    Reference,
    assert_scores,
    choice,
    logic,
    newline,
    one_thread,  # noqa: F401 (a fixture)
    places_of,
    read,
)

STATEMENTS = ["a dog", "caf\u00e9 is na\u00efve", "\U0001f40e runs \U0001f9e0"]
ALPHABET = "Every Question: Options:\nA. B.\n\nAnswer: true false True or caf\u00e9 na\u00efve."


def tasks() -> tuple[Any, Any]:
    """Statements and options with accented letters and emoji before the answer."""
    from mechprobe.tasks import Task
    from mechprobe.tasks.layout import choice_example, logic_example

    logical = tuple(logic_example(f"Every {w}.", f"{w}.", ("true", "false"), "true") for w in STATEMENTS)
    chosen = tuple(choice_example(f"Which {w}?", [f"{w}.", "dog", w], 0) for w in STATEMENTS)
    return Task("logic", logical), Task("choice", chosen)


def by_offsets(model: Any, prompt: str, ids: list[int], char: int) -> int:
    """Return the last token that the tokenizer says holds character ``char``."""
    found = model.tokenizer(prompt, return_offsets_mapping=True, add_special_tokens=False)
    n_before = len(ids) - len(found["input_ids"])
    assert ids[n_before:] == found["input_ids"]
    inside = [t for t, (a, b) in enumerate(found["offset_mapping"]) if a <= char < b]
    return n_before + inside[-1]


def check_places(model: Any) -> None:
    """Compare every key of every example with the tokenizer's offsets."""
    logical, chosen = tasks()
    for found, example in zip(places_of(model, logical, "candidate", "before_answer"), logical, strict=True):
        at = by_offsets(model, example.prompt, found.ids, example.prompt.rindex("Answer:"))
        assert found.keys == [[at - 1]]
        whole = model.to_tokens(example.prompt + " true")[0].tolist()
        assert whole == [*found.ids, found.answers[0]["space"]]
    for found, example in zip(places_of(model, logical, "candidate", "statement_end"), logical, strict=True):
        at = by_offsets(model, example.prompt, found.ids, example.statement.end - 1)
        assert found.keys == [[at]]
    chars: dict[Any, Callable[[Any], int]] = {
        "end_of_line": lambda o: o.line.end - 1,
        "content_end": lambda o: o.content.end - 1,
        "label": lambda o: o.label.start,
        "period": lambda o: o.label.end,
    }
    for key, char in chars.items():
        for found, example in zip(places_of(model, chosen, "last", key), chosen, strict=True):
            at = [by_offsets(model, example.prompt, found.ids, char(o)) for o in example.options]
            assert found.keys == [[t] for t in at]
    for found, example in zip(places_of(model, chosen, "last", "content_mean"), chosen, strict=True):
        for tokens, option in zip(found.keys, example.options, strict=True):
            assert tokens == list(range(tokens[0], tokens[-1] + 1))
            shown = model.tokenizer.decode([found.ids[t] for t in tokens])
            assert shown.strip(" \n") == example.text(option.content)


@pytest.mark.parametrize("bos", [True, False])
def test_byte_level(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, bos: bool) -> None:
    model = tiny("gpt2", tasks=True)
    monkeypatch.setattr(model.cfg, "default_prepend_bos", bos)
    assert (model.to_tokens("cat")[0, 0].item() == 1) == bos
    check_places(model)


def pieces(folder: Path, name: str, text: list[str]) -> Any:
    """Return a tiny model with a SentencePiece-like tokenizer: a space before the first word."""
    from mechprobe.models import load_model
    from tests.tiny import D_VOCAB_TASKS, save_tiny

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.train_from_iterator(
        text,
        trainers.BpeTrainer(vocab_size=D_VOCAB_TASKS, show_progress=False,
                            special_tokens=["<pad>", "<s>", "</s>", "<unk>"]),
    )  # fmt: skip
    save_tiny(folder, name, tasks=True)
    tf.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)  # fmt: skip
    return load_model(folder, device="cpu")


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("emoji", ["known", "unknown"])
def test_sentencepiece(tmp_path: Path, bos: bool, emoji: str) -> None:
    """Newlines melt into words; an emoji outside the vocabulary leaves only offsets to go by."""
    text = [ALPHABET, *STATEMENTS[: 3 if emoji == "known" else 2], " true", " false"] * 9
    text += [f"Answer: {x} abcdefghijklmnopqrstuvwxyzWQ?" for x in "ABC"] * 9
    model = pieces(tmp_path, "llama", text)
    model.cfg.default_prepend_bos = bos
    ids = model.to_tokens("Every a dog.\nAnswer:")[0].tolist()
    assert model.tokenizer.convert_ids_to_tokens(ids)[int(bos)].startswith("\u2581")
    assert (model.tokenizer.unk_token_id in model.to_tokens(STATEMENTS[2])) == (emoji != "known")
    reference = Reference(model)
    # Words are not cut at newlines here, so that a full stop may hold the newline after it.
    task = replace(choice(2), examples=tuple(_spaced(e) for e in choice(2)))
    assert_scores(read(model, task).score, reference.options(task, "qk", newline))


def _spaced(example: Any) -> Any:
    """Put a space before every newline's follower, where a word would hold both lines."""
    from mechprobe.tasks import Option, Span

    prompt = example.prompt.replace("\n", "\n ")
    moved: list[Any] = []
    for option in example.options:
        by = example.prompt[: option.line.start].count("\n")
        moved.append(Option(*(Span(s.start + by, s.end + by) for s in option)))
    return replace(example, prompt=prompt, options=tuple(moved))


def test_a_word_across_lines_is_refused(tmp_path: Path) -> None:
    """A token that holds the end of one line and the start of the next stands for neither."""
    text = [e.prompt for e in choice(3)] * 30 + [f" {x}" for x in "ABCD"] * 9
    model = pieces(tmp_path, "llama", text)
    with pytest.raises(
        ValueError, match=r"the option's newline .* falls inside the token .* Choose another key"
    ):
        read(model, choice(3))


def test_newlines_that_melt_into_punctuation(tmp_path: Path) -> None:
    """The token ".\\n" ends the line; the token before "Answer:" is the same one."""
    from mechprobe.models import load_model
    from tests.tiny import save_tiny

    save_tiny(tmp_path, "llama", tasks=True)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(_regex(r"[.:?]?\n| ?\w+|[^\w\s]|\s"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    backend.decoder = decoders.ByteLevel()
    logical, chosen = tasks()
    backend.train_from_iterator(
        [f"{e.prompt} {c}" for t in (logical, chosen) for e in t for c in e.candidates] * 9,
        trainers.BpeTrainer(vocab_size=420, special_tokens=["<pad>", "<bos>", "<eos>"],
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                            show_progress=False),
    )  # fmt: skip
    tf.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    check_places(model)
    for found in places_of(model, logical, "candidate", "before_answer"):
        assert model.tokenizer.decode([found.ids[found.keys[0][0]]]) == ".\n"
    first = places_of(model, chosen, "last", "end_of_line")[0]
    assert [model.tokenizer.decode([first.ids[t]]) for (t,) in first.keys] == [".\n", "\n", "\n"]


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)


def test_few_shots_read_the_last_question(task_model: Any) -> None:
    """The solved examples before hold options and "Answer:" of their own."""
    reference = Reference(task_model)
    task = logic(4).with_shots(2)
    assert task[0].prompt.count("Answer:") == 3
    assert_scores(read(task_model, task).score, reference.candidates(task, "qk"))
    task = choice(3).with_shots(1)
    assert_scores(read(task_model, task).score, reference.options(task, "qk", newline))


def test_a_bos_in_the_text_is_not_a_second_one(task_model: Any) -> None:
    task = logic(2)
    led = replace(task, examples=tuple(e.within("<bos>") for e in task))
    assert torch.equal(
        torch.tensor(read(task_model, led).score.values), torch.tensor(read(task_model, task).score.values)
    )


@pytest.mark.model
def test_smollm2(smollm2: Any) -> None:
    check_places(smollm2)


@pytest.mark.model
def test_chat_templates(smollm2: Any) -> None:
    """Spans move with the text; the answer starts the assistant's turn."""
    import mechprobe as mp

    def chat(task: Any) -> Any:
        def template(user: str, start: str) -> str:
            return mp.chat_prompt(smollm2, user, answer_start=start)

        return task.templated(template)

    task = chat(choice(2))
    assert "<|im_start|>assistant" in task[0].prompt
    for found, example in zip(places_of(smollm2, task, "last", "content_end"), task, strict=True):
        assert found.ids.count(smollm2.tokenizer.bos_token_id) == 3  # one per turn, no other
        for (t,), option in zip(found.keys, example.options, strict=True):
            shown = smollm2.tokenizer.decode([found.ids[t]])
            assert example.text(option.content).endswith(shown.strip())
    reference = Reference(smollm2)
    task = chat(logic(1))
    key = places_of(smollm2, task, "candidate", "statement_end")[0]
    assert smollm2.tokenizer.decode([key.ids[key.keys[0][0]]]) == " sat"
    example = task[0]
    for c, candidate in enumerate(example.candidates):
        whole = smollm2.tokenizer(f"{example.prompt} {candidate}", add_special_tokens=False)
        theirs = reference.at(whole["input_ids"], len(key.ids), key.keys[0][0], "qk")
        assert_scores(read(smollm2, task, key="statement_end").score.values[0, c], theirs)
