"""Records of published data sets, turned into questions.

A reader takes one record and returns its questions. The group it gives is the text that they share
(context, premises), or empty for a question of its own; ``grouped`` puts numbers in its place.
"""

import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any, Literal, get_args

from mechprobe.provenance import Json
from mechprobe.tasks.choices import choices_of, context_of, found, right_one
from mechprobe.tasks.layout import choice_example, logic_example
from mechprobe.tasks.task import Example

# Each is read by the function of its name; multiple choice by one that takes ``extra_options``.
Format = Literal[
    "pararule_plus", "multi_logieval", "boolq", "folio", "prontoqa", "hellaswag", "mcqa", "cosmos_qa"
]
Reader = Callable[..., list[Example]]


def pararule_plus(record: Mapping[str, Any]) -> list[Example]:
    """Return the questions of one context of PARARULE-Plus."""
    context = _text(record, "context")
    out: list[Example] = []
    for question in _list(record, "questions"):
        text, label = _text(question, "text"), _text(question, "label")
        meta = question.get("meta")
        depth = str(meta.get("QDep", "")) if isinstance(meta, Mapping) else ""
        example = logic_example(
            context,
            text,
            ("true", "false"),
            label,
            group=context,
            steps=int(depth) if depth.isdecimal() else -1,
            meta=_kept(question, "id"),
        )
        out.append(example)
    return out


def multi_logieval(record: Mapping[str, Any]) -> list[Example]:
    """Return the yes/no question of one record of Multi-LogiEval."""
    context = _text(record, "context")
    depth = str(record.get("depth", ""))
    example = logic_example(
        context,
        _text(record, "question"),
        ("yes", "no"),
        _text(record, "answer").lower(),
        lead="Yes or no:",
        group=context,
        steps=int(depth[1:]) if re.fullmatch(r"d\d+", depth) else -1,
        meta=_kept(record, "logic", "rule", "depth", "id"),
    )
    return [example]


def boolq(record: Mapping[str, Any]) -> list[Example]:
    """Return the yes/no question of one record of BoolQ."""
    passage = _text(record, "passage")
    example = logic_example(
        passage,
        _text(record, "question"),
        ("yes", "no"),
        "yes" if _truth(record, "answer") else "no",
        lead="Yes or no:",
        group=passage,
        meta=_kept(record, "title"),
    )
    return [example]


def folio(record: Mapping[str, Any]) -> list[Example]:
    """Return the question of one record of FOLIO; its "Unknown" is called "Uncertain"."""
    premises = [p.strip() for p in _texts(record, "premises")]
    label = _text(record, "label").strip()
    example = logic_example(
        " ".join(premises),
        _text(record, "conclusion"),
        ("True", "False", "Uncertain"),
        "Uncertain" if label == "Unknown" else label,
        lead="True, false or uncertain:",
        group=" ".join(premises),
    )
    return [example]


def prontoqa(record: Mapping[str, Any]) -> list[Example]:
    """Return the question of one record of PrOntoQA: its generator's, or the one on the hub."""
    record = record.get("test_example", record)
    if isinstance(record, Mapping) and "options" in record:
        return [_prontoqa_of_hub(record)]
    context, query = _text(record, "question"), _text(record, "query")
    lead, colon, statement = query.partition(":")
    if lead.strip().lower() != "true or false" or not colon:
        msg = f"query {query[:60]!r} asks for no truth value; 'True or false: ...' is needed."
        raise ValueError(msg)
    said = record.get("chain_of_thought")
    # What is said of the entity, then a rule and its conclusion for each step.
    steps = (len(said) - 1) // 2 if isinstance(said, list) and len(said) % 2 else -1
    answer = _text(record, "answer").lower()
    example = logic_example(
        context,
        statement,
        ("true", "false"),
        answer,
        group=context,
        steps=steps,
        meta={"proof": list(said)} if isinstance(said, list) else {},
    )
    return [example]


def _prontoqa_of_hub(record: Mapping[str, Any]) -> Example:
    context, question = _text(record, "context"), _text(record, "question")
    lead, asks, statement = question.partition("?")
    letter = _text(record, "answer").strip()
    texts = {o[:1]: o[2:].strip().lower() for o in _texts(record, "options")}
    if not asks or not statement.strip() or "true or false" not in lead:
        msg = f"question {question[:60]!r} is not 'Is the following statement true or false? ...'."
        raise ValueError(msg)
    return logic_example(
        context,
        statement,
        ("true", "false"),
        texts.get(letter, letter),
        group=context,
        meta=_kept(record, "id"),
    )


def hellaswag(record: Mapping[str, Any], extra_options: bool = False) -> list[Example]:
    """Return the question of one record of HellaSwag, as released or as on the hub."""
    if "ctx" in record and "context" not in record:
        activity = record.get("activity_label", "")
        context = f"{activity}: {record['ctx']}" if activity else _text(record, "ctx")
    else:
        context = _text(record, "context")
    endings = [_without_wikihow_marks(e) for e in _texts(record, "endings")]
    example = choice_example(
        "Which option goes on from the context best?",
        endings,
        _index(record, "label", len(endings)),
        context=_without_wikihow_marks(context),
        extra_options=extra_options,
        meta=_kept(record, "ind"),
    )
    return [example]


def _without_wikihow_marks(text: str) -> str:
    """Return the text without "[title]", "[step]", which the data set's extraction left in it."""
    text = re.sub(r"\[[a-z]+\]", " ", text.replace(" [title]", ". "))
    return re.sub(r" {2,}", " ", text).strip()


def mcqa(record: Mapping[str, Any], extra_options: bool = False, first_number: int = 0) -> list[Example]:
    """Return the question of a multiple-choice record (or those of its passage), names as in ``ALIASES``."""
    if isinstance(record.get("questions"), list):  # RACE as released: one passage, several questions
        return [e for one in _one_by_one(record) for e in mcqa(one, extra_options, first_number)]
    names = {field: found(record, field) or field for field in ("question", "choices", "answer")}
    choices = choices_of(_field(record, names["choices"]), names["choices"])
    context = context_of(record)
    example = choice_example(
        _text(record, names["question"]),
        choices.texts,
        right_one(_field(record, names["answer"]), choices, first_number),
        context=context,
        extra_options=extra_options,
        group=context,
        meta=_kept(record, "subject", "id"),
    )
    return [example]


def _one_by_one(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    names = {"question": "questions", "options": "options", "answer": "answers"}
    columns = [_list(record, name) for name in names.values()]
    if len(set(map(len, columns))) > 1:
        msg = f"{', '.join(names.values())} differ in length: {', '.join(str(len(c)) for c in columns)}."
        raise ValueError(msg)
    shared = {k: v for k, v in record.items() if k not in names.values()}
    for row in zip(*columns, strict=True):
        yield {**shared, **dict(zip(names, row, strict=True))}


def cosmos_qa(record: Mapping[str, Any], extra_options: bool = False) -> list[Example]:
    """Return the question of one record of CosmosQA."""
    answers = [_text(record, f"answer{i}") for i in range(4)]
    context = _text(record, "context")
    example = choice_example(
        _text(record, "question"),
        answers,
        _index(record, "label", 4),
        context=context,
        extra_options=extra_options,
        group=context,
        meta=_kept(record, "id"),
    )
    return [example]


READERS: dict[str, Reader] = {name: globals()[name] for name in get_args(Format)}
CHOICE = [name for name, reader in READERS.items() if "extra_options" in signature(reader).parameters]


def examples_of(name: str, record: Mapping[str, Any], **options: object) -> list[Example]:
    """Return the questions of one record of a format, ``options`` being passed on where it takes them."""
    known = signature(READERS[name]).parameters
    return READERS[name](record, **{key: value for key, value in options.items() if key in known})


def grouped(examples: Iterable[Example]) -> Iterator[Example]:
    """Number the groups: one for each shared text, one for each question that shares none."""
    known: dict[str, str] = {}
    for i, example in enumerate(examples):
        name = known.setdefault(example.group, f"context {len(known)}") if example.group else f"question {i}"
        yield replace(example, group=name)


def _field(record: Any, name: str) -> Any:
    if not isinstance(record, Mapping):
        msg = f"an object with {name!r} is needed; found {record!r:.60}."
        raise ValueError(msg)
    if name not in record:
        msg = f"field {name!r} is missing; found {', '.join(map(str, record)) or 'none'}."
        raise ValueError(msg)
    return record[name]


def _text(record: Any, name: str) -> str:
    value = _field(record, name)
    if not isinstance(value, str) or not value.strip():
        msg = f"field {name!r} must be a text that is not empty; found {value!r:.60}."
        raise ValueError(msg)
    return value


def _truth(record: Any, name: str) -> bool:
    value = _field(record, name)
    if not isinstance(value, bool):
        msg = f"field {name!r} must be true or false; found {value!r:.60}."
        raise ValueError(msg)
    return value


def _list(record: Any, name: str) -> Sequence[Any]:
    value = _field(record, name)
    if not isinstance(value, list) or not value:
        msg = f"field {name!r} must be a list that is not empty; found {value!r:.60}."
        raise ValueError(msg)
    return value


def _texts(record: Any, name: str) -> list[str]:
    values = _list(record, name)
    if not all(isinstance(v, str) for v in values):
        msg = f"field {name!r} must hold texts only; found {values!r:.60}."
        raise ValueError(msg)
    return list(values)


def _index(record: Mapping[str, Any], name: str, n: int) -> int:
    """Return which option is right: an index from 0, a number as text, or a letter."""
    value = _field(record, name)
    if isinstance(value, str) and value.strip() in string.ascii_uppercase[:n] and value.strip():
        return string.ascii_uppercase.index(value.strip())
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or int(text) >= n:
        msg = (
            f"label {value!r} is not among the {n} options (0..{n - 1} or "
            f"A..{string.ascii_uppercase[n - 1]})."
        )
        raise ValueError(msg)
    return int(text)


def _kept(record: Mapping[str, Any], *names: str) -> dict[str, Json]:
    return {name: record[name] for name in names if name in record}
