"""Where in a tokenised prompt queries and keys are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mechprobe.models import Model, Session, require_tokenizer, token_ids, token_spans, tokenizer_of
from mechprobe.tasks import Example, Option, Span, Task
from mechprobe.tasks.task import ANSWER

Query = Literal["candidate", "last"]
Key = Literal[
    "before_answer", "statement_end", "end_of_line", "label", "period", "content_end", "content_mean"
]
Spelling = Literal["space", "bare"]

QUERIES: tuple[Query, ...] = ("candidate", "last")
OF_EXAMPLE: tuple[Key, ...] = ("before_answer", "statement_end")
OF_OPTION: tuple[Key, ...] = ("end_of_line", "label", "period", "content_end", "content_mean")
SPELLINGS: tuple[Spelling, ...] = ("space", "bare")


@dataclass(frozen=True, slots=True)
class Place:
    """Token positions of one example.

    Attributes:
        ids: Tokens of the prompt.
        answers: First token of each candidate in each spelling, -1 where that spelling is no
            single token of its own.
        keys: Positions of the key tokens of each candidate; one list where all share them.
    """

    ids: list[int]
    answers: list[dict[Spelling, int]]
    keys: list[list[int]]


def places(session: Session, task: Task, query: Query, key: Key | None, spelling: Spelling) -> list[Place]:
    """Find the tokens to read in every example; without ``key``, those of the answers only.

    Positions come from the characters of the whole text, and every one is checked.

    Raises:
        ValueError: The model has no tokenizer; a prompt is too long; a candidate takes several
            tokens, melts into the prompt, or shares its token with another; a span begins or ends
            inside a token; what ``key`` names is not in the prompt.
    """
    model = session.model
    require_tokenizer(model, "a task")
    prompts = [e.prompt for e in task]
    ids = token_ids(model, prompts, n_more=1)
    answers = _answers(model, task, ids, spelling)
    out: list[Place] = []
    if key is None:
        return [Place(i, a, []) for i, a in zip(ids, answers, strict=True)]
    for i, example in enumerate(task):
        finder = _Finder(i, example, token_spans(model, example.prompt, ids[i]))
        if key in OF_EXAMPLE:
            keys = [_of_example(finder, key)]
        else:
            if not example.options:
                msg = (
                    f"key={key!r} reads options, and example {i} of {task.name!r} has none in its "
                    "prompt; use key='before_answer'."
                )
                raise ValueError(msg)
            keys = [_of_option(finder, key, option) for option in example.options]
        out.append(Place(ids[i], answers[i], keys))
    if query == "last" and key in OF_EXAMPLE:
        msg = (
            f"query='last' and key={key!r} read the same two tokens for every candidate; use "
            "query='candidate', or a key that differs between options."
        )
        raise ValueError(msg)
    return out


def _of_example(finder: "_Finder", key: Key) -> list[int]:
    if key == "statement_end":
        statement = finder.example.statement
        if statement is None:
            msg = f"example {finder.index} has no statement; use key='before_answer'."
            raise ValueError(msg)
        return [finder.last_of(statement, "the statement")]
    at = finder.example.prompt.rfind(ANSWER)
    if at < 1:
        msg = (
            f"example {finder.index} has no {ANSWER!r} after its question, which "
            f"key='before_answer' needs: ...{finder.example.prompt[-40:]!r}"
        )
        raise ValueError(msg)
    return [finder.before(at, ANSWER)]


def _of_option(finder: "_Finder", key: Key, option: Option) -> list[int]:
    if key == "label":
        return [finder.last_of(option.label, "the option's letter")]
    if key == "period":
        after = Span(option.label.end, option.label.end + 1)
        return [finder.last_of(after, "the period after the option's letter")]
    if key == "end_of_line":
        return [finder.last_of(Span(option.line.end - 1, option.line.end), "the option's newline")]
    if key == "content_end":
        return [finder.last_of(option.content, "the option's text")]
    return finder.all_of(option.content, "the option's text")


@dataclass(frozen=True, slots=True)
class _Finder:
    """Tokens of one example by the characters they stand for."""

    index: int
    example: Example
    spans: list[tuple[int, int]]

    def last_of(self, span: Span, what: str) -> int:
        """Return the token that ``span`` ends with; it must not go on behind the span.

        White space behind does not count: a newline may share its token with a full stop.
        """
        return self._inside(span, what)[-1]

    def all_of(self, span: Span, what: str) -> list[int]:
        """Return the tokens of ``span``; neither end may lie inside a word's token."""
        inside = self._inside(span, what)
        start = self.spans[inside[0]][0]
        if self.example.prompt[min(start, span.start) : span.start].strip():
            raise self._cut(span, what, inside[0])
        return inside

    def _inside(self, span: Span, what: str) -> list[int]:
        inside = [t for t, (a, b) in enumerate(self.spans) if a < span.end and b > span.start]
        if not inside:
            raise self._cut(span, what, -1)
        behind = self.example.prompt[span.end : max(span.end, self.spans[inside[-1]][1])]
        if behind.strip():
            raise self._cut(span, what, inside[-1])
        return inside

    def before(self, at: int, what: str) -> int:
        """Return the token before the one in which character ``at`` stands."""
        token = next(t for t, (_, end) in enumerate(self.spans) if end > at)
        start = self.spans[token][0]
        if token == 0 or self.example.prompt[start:at].strip():
            raise self._cut(Span(at, at + len(what)), repr(what), token)
        return token - 1

    def _cut(self, span: Span, what: str, token: int) -> ValueError:
        start, end = self.spans[token] if token >= 0 else (0, 0)
        shown = self.example.prompt[start:end]
        return ValueError(
            f"{what} ({self.example.text(span)!r}) of example {self.index} falls inside the token "
            f"{shown!r}; its position cannot be told. Choose another key, or put white "
            "space there."
        )


def _answers(
    model: Model, task: Task, ids: Sequence[list[int]], spelling: Spelling
) -> list[list[dict[Spelling, int]]]:
    """Return the token of every candidate in both spellings, those of ``spelling`` checked."""
    tokens = _tokens_after(model, task, ids)
    out: list[list[dict[Spelling, int]]] = []
    for i, example in enumerate(task):
        lead = " " if spelling == "space" else ""
        firsts: dict[int, str] = {}
        row: list[dict[Spelling, int]] = []
        for candidate in example.candidates:
            found = {s: tokens(i, candidate, s) for s in SPELLINGS}
            mine = found[spelling]
            if not mine:
                msg = (
                    f"candidate {lead + candidate!r} of example {i} melts into the prompt's last "
                    "token; end the prompt without a space, or use the other spelling."
                )
                raise ValueError(msg)
            if mine[0] in firsts:
                msg = (
                    f"candidates {firsts[mine[0]]!r} and {candidate!r} of example {i} start with "
                    "the same token; no score could tell them apart. Use letters as candidates."
                )
                raise ValueError(msg)
            if len(mine) > 1:
                msg = (
                    f"candidate {lead + candidate!r} of example {i} is {len(mine)} tokens in this "
                    "vocabulary; a QK-score reads one. Use a shorter answer (a letter, yes/no)."
                )
                raise ValueError(msg)
            firsts[mine[0]] = candidate
            row.append({s: t[0] if len(t) == 1 else -1 for s, t in found.items()})
        out.append(row)
    return out


def _tokens_after(
    model: Model, task: Task, ids: Sequence[list[int]]
) -> Callable[[int, str, Spelling], list[int]]:
    """Return the tokens that a candidate adds to its prompt; none where it changes the prompt's."""
    tokenizer: Any = tokenizer_of(model)
    asked = [
        (i, candidate, spelling)
        for i, example in enumerate(task)
        for candidate in example.candidates
        for spelling in SPELLINGS
    ]
    texts = [task[i].prompt + (" " if s == "space" else "") + c for i, c, s in asked]
    whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    found: dict[tuple[int, str, Spelling], list[int]] = {}
    for (i, candidate, spelling), tokens in zip(asked, whole, strict=True):
        n_bos = _n_before(ids[i], tokens)
        prompt = ids[i][n_bos:]
        same = tokens[: len(prompt)] == prompt
        found[i, candidate, spelling] = list(tokens[len(prompt) :]) if same else []
    return lambda i, candidate, spelling: found[i, candidate, spelling]


def _n_before(ids: Sequence[int], tokens: Sequence[int]) -> int:
    """Return how many special tokens stand before the text (a BOS, or none)."""
    for n in range(min(3, len(ids))):
        if list(tokens[:1]) == list(ids[n : n + 1]):
            return n
    return 0
