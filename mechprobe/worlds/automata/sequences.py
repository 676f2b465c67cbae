"""Sequences of words: files of them, and where a sequence leaves a world."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from mechprobe.worlds.automata.arrays import PAD, Ids, pad
from mechprobe.worlds.automata.base import World


def first_illegal(world: World, sequences: Sequence[Ids]) -> Ids:
    """Return the position of the first word of each sequence that is not legal; -1 for none.

    Example:
        >>> from mechprobe.worlds import Dyck
        >>> world = Dyck(1, 2)
        >>> first_illegal(world, [world.encode("( ) )"), world.encode("( ( )")]).tolist()
        [2, -1]
    """
    ids = pad(sequences)
    states = world.initial(len(ids))
    out = np.full(len(ids), -1, dtype=np.int64)
    going = np.arange(len(ids))
    for position in range(ids.shape[1]):
        going = going[ids[going, position] != PAD]
        states[going] = world.step(states[going], ids[going, position])
        fell = states[going, 0] < 0
        out[going[fell]] = position
        going = going[~fell]
    return out


@overload
def read_sequences(path: str | Path) -> list[list[str]]: ...
@overload
def read_sequences(path: str | Path, world: World, *, legal: bool = ...) -> list[Ids]: ...
def read_sequences(
    path: str | Path, world: World | None = None, *, legal: bool = False
) -> list[list[str]] | list[Ids]:
    """Read one sequence per line from a text file, or a gzip of one.

    Args:
        path: ``.txt`` or ``.txt.gz``; words are split at white space, empty lines left out.
        world: Its tokens turn words into ids; None for the words as they are.
        legal: Refuse also words that are known but not legal where they stand.

    Returns:
        Words or ids of each sequence.

    Raises:
        ValueError: No sequence; a word that is no token of the world, or (``legal``) one that is
            not legal where it stands: with line and word; not UTF-8, or not a whole gzip file.

    Example:
        >>> read_sequences("walks.txt.gz", world)  # doctest: +SKIP
    """
    where = Path(path).expanduser()
    lines = [(i, line.split()) for i, line in enumerate(_text(where).split("\n"), start=1)]
    lines = [(i, words) for i, words in lines if words]
    if not lines:
        msg = f"{where.name} holds no sequence; expected one per line, words apart by spaces."
        raise ValueError(msg)
    if world is None:
        return [words for _, words in lines]
    index = {word: i for i, word in enumerate(world.tokens)}
    out: list[Ids] = []
    for number, words in lines:
        ids = [index.get(word, PAD) for word in words]
        if PAD in ids:
            msg = (
                f"{where.name}, line {number}: {words[ids.index(PAD)]!r} is no token of "
                f"{world.name}; read the file without a world to see the words as they are."
            )
            raise ValueError(msg)
        out.append(np.array(ids, dtype=np.int64))
    if legal:
        _require_legal(where, world, [number for number, _ in lines], out)
    return out


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (EOFError, OSError, zlib.error) as error:
        msg = f"{path.name} is not a whole gzip file ({error}); fetch or write it again."
        raise ValueError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path.name} is not text in UTF-8 ({error})."
        raise ValueError(msg) from error


def _require_legal(where: Path, world: World, numbers: list[int], sequences: list[Ids]) -> None:
    illegal = first_illegal(world, sequences)
    for row in np.flatnonzero(illegal >= 0)[:1]:
        at = int(illegal[row])
        words = world.decode(sequences[row])
        states = world.run(world.initial(), sequences[row][None, :at])
        here = world.decode(world.moves(states)[1])
        able = f"{', '.join(here[:8])}{', ...' if len(here) > 8 else ''}" if here else "nothing"
        msg = (
            f"{where.name}, line {numbers[row]}: word {at + 1}, {words[at]!r}, is not legal "
            f"there; {world.name} allows {able}."
        )
        raise ValueError(msg)
