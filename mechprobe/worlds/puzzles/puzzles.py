"""Seating puzzles for chat models: who solves them, and who keeps track of what is known?"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mechprobe.models import Cursor, Model, alone, chat_prompt, describe, opened, token_ids
from mechprobe.provenance import Call, Json
from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.automata.seating import PEOPLE, Seating
from mechprobe.worlds.puzzles.results import Asked, SeatingPuzzles, puzzles_of

Judge = Callable[[str], str]
Answer = bool | int | None

_MOST_STATEMENTS = 60
_SIMULATED = 1000
_ANSWER = re.compile(r"ANSWER:[\s*\"'`(]*(yes|no|[0-9]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask, and what is true.

    Attributes:
        world: Whose people sit there.
        statements: What is known.
        asked: What to find out.
        truth: The seat, or whether the claim can be true.
    """

    world: Seating
    statements: Ids
    asked: str
    truth: bool | int

    @property
    def text(self) -> str:
        """The prompt."""
        n, sentences = self.world.n, self.world.sentences
        people = ", ".join(PEOPLE[: n - 1]) + f" and {PEOPLE[n - 1]}"
        known = "".join(f"- {sentences[i]}.\n" for i in self.statements.tolist())
        return (
            f"{people} each take one of {n} seats in a row, numbered 1 to {n}. Two people are k "
            f"away from each other if their seat numbers differ by k.\nWhat is known:\n{known}"
            f"{self.asked}"
        )


@alone
def seating_puzzles(
    judge: Judge,
    world: Seating | None = None,
    *,
    puzzles: int = 60,
    trials: int = 100,
    suffixes: int = 5,
    seed: int = 0,
    name: str | None = None,
) -> SeatingPuzzles:
    """Let a chat model solve seating puzzles, and ask whether its answers make one world.

    *Task accuracy*: statements until everyone's seat is settled, then where does somebody sit?
    *Compression*: two sets of statements that leave the same orders; could one more be true? A pair
    scores 1 if no answer differs. *Distinction recall*: statements that are possible after one set
    and not after another; the share where the model says both. A model that errs now and then at
    random, and knows everything otherwise, fails compression as well: beside the model stands such
    a judge, with the model's own share of right answers.

    Args:
        judge: A prompt to a whole answer; ``chat_judge(model)`` for a TransformerLens model. It is
            asked each prompt once.
        world: ``Seating(3)`` if None.
        puzzles: Puzzles to solve.
        trials: Pairs for each of the other metrics.
        suffixes: Statements asked of each pair at most.
        seed: Draws everything.
        name: What tables and figures call the model.

    Returns:
        The metrics with intervals, for the model and the judge that errs, and how many answers
        could not be read.

    Raises:
        ValueError: Numbers below 1, or not one answer that could be read.

    Example:
        >>> found = seating_puzzles(lambda prompt: "ANSWER: yes", puzzles=1, trials=20)
        >>> found.data["compression"].values.tolist()[0]  # whatever it is asked
        1.0

    References:
        Vafa et al. (2024), https://arxiv.org/abs/2406.03689, section 4 and appendix E.
    """
    call = Call("seating_puzzles", locals())
    for what, value in (("puzzles", puzzles), ("trials", trials), ("suffixes", suffixes)):
        if value < 1:
            msg = f"{what} must be at least 1; got {value}."
            raise ValueError(msg)
    seats = world or Seating(3)
    called = name or getattr(judge, "__name__", type(judge).__name__)
    asked = _ask_all(_remembering(judge), seats, (puzzles, trials, suffixes), seed)
    if not asked.answers:
        msg = (
            f"{called} gave no answer that could be read in {asked.unread} questions; answers must "
            "end with 'ANSWER: yes', 'ANSWER: no' or 'ANSWER: 2'. Give it more tokens."
        )
        raise ValueError(msg)
    rate = float(np.mean(asked.answers))
    simulated = _ask_all(erring_answers(rate, seed), seats, (0, _SIMULATED, suffixes), seed + 1)
    data: dict[str, Json] = {"world": seats.digest()}
    about: dict[str, Json] = getattr(judge, "about", dict)()
    provenance = call.record(
        {**about, "name": called, "world": seats.name}, data, seed=seed, world=seats.name, name=called
    )
    return puzzles_of({called: asked, "errs at random": simulated}, provenance)


@dataclass(frozen=True, slots=True)
class ChatJudge:
    """A chat model as a judge; see ``chat_judge``.

    Attributes:
        model: The TransformerLens model.
        max_new_tokens: Most tokens of an answer.
    """

    model: Any
    max_new_tokens: int

    @alone
    def about(self) -> dict[str, Json]:
        """Return what a record says of the model."""
        return describe(opened(self.model))

    @alone
    def __call__(self, prompt: str) -> str:
        """Return the whole answer to a prompt."""
        session = opened(self.model)
        ids = token_ids(session.model, chat_prompt(session.model, prompt))
        tokenizer = session.tokenizer
        said = Cursor(session).greedy(
            torch.tensor(ids, device=session.device), self.max_new_tokens, {tokenizer.eos_token_id}
        )
        text: str = tokenizer.decode(list(said), skip_special_tokens=True)
        return text


def chat_judge(model: Model, *, max_new_tokens: int = 300) -> ChatJudge:
    """Return a TransformerLens chat model as a judge: its likeliest words, in its own template.

    Args:
        model: With a tokenizer that has a chat template.
        max_new_tokens: Most tokens of an answer.

    Raises:
        ValueError: ``max_new_tokens`` below 1.

    Example:
        >>> seating_puzzles(chat_judge(mp.load_model()), puzzles=5, trials=5)  # doctest: +SKIP
    """
    if max_new_tokens < 1:
        msg = f"max_new_tokens must be at least 1; got {max_new_tokens}."
        raise ValueError(msg)
    return ChatJudge(model, max_new_tokens)


def erring_answers(accuracy: float, seed: int = 0) -> Callable[[Question], Answer]:
    """Return one who knows the truth and says it with the given probability, each time anew.

    Raises:
        ValueError: Not a probability.
    """
    if not 0 <= accuracy <= 1:
        msg = f"accuracy must be a probability; got {accuracy}."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)

    def answer(question: Question) -> Answer:
        return bool(question.truth) == bool(rng.random() < accuracy)

    return answer


def read_answer(text: str) -> Answer:
    """Return the last ``ANSWER: ...`` of a text: a number, yes (True) or no (False); None if none.

    Example:
        >>> read_answer("A sits in 1, so B in 2 or 3. ANSWER: **Yes**")
        True
    """
    found = _ANSWER.findall(text)
    if not found:
        return None
    word = str(found[-1]).lower()
    return int(word) if word.isdigit() else word == "yes"


def puzzle_question(world: Seating, statements: Ids, person: int) -> Question:
    """Ask where a person sits, who sits where being settled."""
    seat = int(world.state_labels(world.run(world.initial(), statements[None]))["seats"][0, person])
    asked = (
        f"In which seat is {PEOPLE[person]}? Reason it out briefly, and finish with 'ANSWER: ' and "
        "the number of the seat."
    )
    return Question(world, statements, asked, seat)


def claim_question(world: Seating, statements: Ids, state: int, claim: int) -> Question:
    """Ask whether a further statement can be true after those that lead to a state."""
    asked = (
        f"Is it possible that {world.sentences[claim]}, given only what is known? Reason it out "
        "briefly, and finish with 'ANSWER: yes' or 'ANSWER: no'."
    )
    return Question(world, statements, asked, bool(world.table[state, claim] >= 0))


def _remembering(judge: Judge) -> Callable[[Question], Answer]:
    known: dict[str, Answer] = {}

    def answer(question: Question) -> Answer:
        text = question.text
        if text not in known:
            known[text] = read_answer(judge(text))
        return known[text]

    return answer


def _ask_all(
    answer: Callable[[Question], Answer], world: Seating, sizes: tuple[int, int, int], seed: int
) -> Asked:
    puzzles, trials, suffixes = sizes
    rng = np.random.default_rng(seed)
    asked = Asked()
    for _ in range(puzzles):
        statements = _settling(world, rng)
        question = puzzle_question(world, statements, int(rng.integers(world.n)))
        found = answer(question)
        # True equals 1 in Python, and "yes" is no seat.
        right = found is not None and not isinstance(found, bool) and found == question.truth
        asked.tasks.append(float(right))
    for _ in range(trials):
        _compress(answer, world, suffixes, rng, asked)
        _distinguish(answer, world, suffixes, rng, asked)
    return asked


def _compress(
    answer: Callable[[Question], Answer],
    world: Seating,
    suffixes: int,
    rng: np.random.Generator,
    asked: Asked,
) -> None:
    state = _state(world, rng)
    one, other = _prefix(world, state, rng), _prefix(world, state, rng)
    pairs: list[bool] = []
    for claim in _claims(world, state, suffixes, rng):
        questions = [claim_question(world, p, state, claim) for p in (one, other)]
        said = [_said(answer, question, asked) for question in questions]
        if None not in said:
            pairs.append(said[0] == said[1])
    if pairs:
        asked.compression.append(float(all(pairs)))
    else:
        asked.dropped["compression"] += 1


def _distinguish(
    answer: Callable[[Question], Answer],
    world: Seating,
    suffixes: int,
    rng: np.random.Generator,
    asked: Asked,
) -> None:
    state, second = _state(world, rng), _state(world, rng)
    while state == second:
        second = _state(world, rng)
    claims = np.flatnonzero((world.table[state] >= 0) & (world.table[second] < 0))
    one, other = _prefix(world, state, rng), _prefix(world, second, rng)
    right: list[float] = []
    for claim in rng.permutation(claims)[:suffixes].tolist():
        before = (one, state), (other, second)
        said = [_said(answer, claim_question(world, p, s, claim), asked) for p, s in before]
        if None not in said:
            right.append(float(said == [True, False]))
    if right:
        asked.recall.append(float(np.mean(right)))
    else:
        asked.dropped["distinction_recall"] += 1


def _said(answer: Callable[[Question], Answer], question: Question, asked: Asked) -> bool | None:
    found = answer(question)
    if not isinstance(found, bool):
        asked.unread += 1
        return None
    asked.answers.append(float(found == question.truth))
    return found


def _state(world: Seating, rng: np.random.Generator) -> int:
    """Return the state after one or two statements, drawn among the legal ones."""
    states = world.initial()
    for _ in range(int(rng.integers(1, 3))):
        states = world.step(states, rng.choice(world.moves(states)[1], 1))
    return int(states[0, 0])


def _prefix(world: Seating, state: int, rng: np.random.Generator) -> Ids:
    """Return statements that hold in every order of a state, until no other orders are left."""
    holds = np.flatnonzero(world.table[state] == state)
    at = world.start
    said: list[int] = []
    while at != state:
        said.append(int(rng.choice(holds)))
        at = int(world.table[at, said[-1]])
        if len(said) > _MOST_STATEMENTS:
            at = world.start
            said.clear()
    return np.array(said, dtype=np.int64)


def _claims(world: Seating, state: int, n: int, rng: np.random.Generator) -> list[int]:
    """Return statements to ask about, half of them legal ones and half of them any."""
    legal = np.flatnonzero(world.table[state] >= 0)
    return [
        int(rng.choice(legal)) if rng.random() < 0.5 else int(rng.integers(len(world.tokens)))
        for _ in range(n)
    ]


def _settling(world: Seating, rng: np.random.Generator) -> Ids:
    """Return statements drawn among the legal ones until one order is left."""
    states, said = world.initial(), list[int]()
    while int(world.state_labels(states)["orders_left"][0]) > 1:
        token = rng.choice(world.moves(states)[1], 1)
        said.append(int(token[0]))
        states = world.step(states, token)
    return np.array(said, dtype=np.int64)
