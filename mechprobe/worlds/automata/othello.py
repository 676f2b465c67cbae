"""Othello as a world: squares are words, a player who cannot move is skipped."""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import PAD, REJECT, Ids, Mask, Prefixes, States, pad
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.automata.bitboard import NONE, ONE, Bits, Rules

BLACK, WHITE, OVER = 0, 1, 2
SWAPS = 48


class Othello(World):
    """Othello on 8 x 8 or 6 x 6 squares; any number of games in lockstep.

    A state is (side to move, black discs, white discs); the side is 2 when the game is over. The
    words are the squares but the four in the middle, ``a1`` first. Passes are no words: a player
    who cannot move is skipped.

    The positions of a game cannot be listed, so states are drawn from a pool of random games. A
    prefix begins as one of the pool's games through the state; moves of it are then swapped at
    random wherever the position stays exactly the same, so that most positions are reached by many
    prefixes and not only the openings.

    Attributes:
        size: 8 or 6.

    Args:
        size: Squares along an edge.
        pool: Random games that states are drawn from; made when first needed.
        seed: Draws the pool.
        games: Games to take states from in place of random ones (a corpus, as token ids).

    Raises:
        ValueError: Another size, an empty pool, or a game with an illegal move.

    Example:
        >>> world = Othello(6)
        >>> world.decode(world.moves(world.initial())[1])
        ['c2', 'b3', 'e4', 'd5']
    """

    spelled = "othello:6"

    def __init__(
        self, size: int = 8, *, pool: int = 1000, seed: int = 0, games: list[Ids] | None = None
    ) -> None:
        if size not in (6, 8):
            msg = f"Othello(size) plays on 8 or 6 squares; found {size}."
            raise ValueError(msg)
        if pool < 1 or (games is not None and not games):
            msg = "Othello draws its states from games; pool must be at least 1, games not empty."
            raise ValueError(msg)
        self.size = size
        self._rules = Rules(size)
        self._seed, self._n_pool, self._games = seed, pool, games
        black, white = self._rules.start()
        middle = [bit for bit in range(size**2) if (black | white) >> bit & 1]
        self._bit_of = np.array([b for b in range(size**2) if b not in middle], dtype=np.uint64)
        names = [f"{'abcdefgh'[int(b) % size]}{int(b) // size + 1}" for b in self._bit_of]
        super().__init__(f"othello {size}x{size}", names, max_length=size**2 - 4)

    def initial(self, n: int = 1) -> States:
        """Return the board before the first move; black begins."""
        return np.tile(np.array([[BLACK, *self._rules.start()]], dtype=np.int64), (n, 1))

    def legal(self, states: States) -> Mask:
        """Return where the side to move may put a disc."""
        own, other = _sides(states)
        return self._rules.squares(self._rules.moves(own, other))[:, self._bit_of]

    def step(self, states: States, tokens: Ids) -> States:
        """Return the boards after one disc each; a move that turns nothing is rejected."""
        own, other = _sides(states)
        side, rules = states[:, 0], self._rules
        square = ONE << self._bit_of[tokens]
        flips = rules.flips(own, other, square)
        legal = (flips != NONE) & (square & (own | other) == NONE)
        own, other = own | flips | square, other & ~flips
        next_side = 1 - side
        stuck = np.flatnonzero(legal & (rules.moves(other, own) == NONE))
        again = rules.moves(own[stuck], other[stuck]) != NONE
        next_side[stuck] = np.where(again, side[stuck], OVER)
        black, white = np.where(side == BLACK, (own, other), (other, own))
        out = np.column_stack([next_side, black.view(np.int64), white.view(np.int64)])
        return np.where(legal[:, None], out, REJECT)

    def random_games(self, n: int, rng: np.random.Generator) -> list[Ids]:
        """Return whole games, each move uniform among the legal ones."""
        return self.random_walks(n, rng)

    def sample_states(self, rng: np.random.Generator, n: int, *, published: bool = False) -> States:
        """Draw uniformly among the distinct positions of the pool in which a move is legal.

        Args:
            rng: Draws them.
            n: How many.
            published: Only positions that two games of the pool reach by different moves, which
                are openings.

        Raises:
            ValueError: No position is left to draw.
        """
        usable = self._pool_states[self._pool_states[:, 0] != OVER]
        if published:
            usable = self._openings
        if not len(usable):
            msg = f"no position to draw from the pool of {self.name}; take a larger pool."
            raise ValueError(msg)
        return usable[rng.integers(len(usable), size=n)]

    def sample_state_pairs(
        self, rng: np.random.Generator, n: int, *, published: bool = False
    ) -> tuple[States, States]:
        """Draw pairs of different positions after the same number of moves.

        Args:
            rng: Draws them.
            n: How many.
            published: After 4 to 59 moves, as the paper's code does.

        Raises:
            ValueError: No two positions of the pool have as many discs.
        """
        usable = self._pool_states[self._pool_states[:, 0] != OVER]
        discs = self._discs(usable)
        size = np.bincount(discs)[discs]
        first = np.flatnonzero((size > 1) & ((discs >= 8) | (not published)))
        if not len(first):
            msg = f"the pool of {self.name} has no two positions of one length; take a larger one."
            raise ValueError(msg)
        order = np.argsort(discs, kind="stable")
        at = rng.choice(first, n)
        starts = np.searchsorted(discs[order], discs[at])
        # One of the others: the place of the first is left out of the draw.
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        drawn = starts + rng.integers(0, size[at] - 1)
        second = order[drawn + (drawn >= place[at])]
        return usable[at], usable[second]

    def sample_prefixes(
        self, states: States, rng: np.random.Generator, lengths: Ids | None = None, *, published: bool = False
    ) -> Prefixes:
        """Draw games that lead to the positions.

        Args:
            states: Positions of the pool.
            rng: Draws them.
            lengths: Only the number of moves made is possible; others fail.
            published: A game of the pool as it was played, without swapping moves.

        Returns:
            Prefixes; for a position that the pool does not hold, the reason.
        """
        found: list[Ids] = []
        reasons: list[str] = []
        made = self._discs(states) - 4
        for i, state in enumerate(states):
            ways = self._ways(state)
            ok = bool(ways) and (lengths is None or int(lengths[i]) == int(made[i]))
            found.append(ways[int(rng.integers(len(ways)))] if ok else np.zeros(0, dtype=np.int64))
            missing = "" if ways else "no game of the pool reaches the position"
            wrong = "a position is reached by as many moves as discs were added, by no other number"
            reasons.append("" if ok else missing or wrong)
        ids = pad(found)
        if not published:
            for _ in range(SWAPS):
                ids = self._swapped(ids, states, rng)
        return Prefixes(ids, np.array([len(f) for f in found], dtype=np.int64), tuple(reasons))

    def state_labels(self, states: States) -> dict[str, Ids]:
        """Return the board, ``[n, square]``, and the side to move.

        ``board``: 0 empty, 1 black, 2 white. ``board_own``: 0 empty, 1 the side to move, 2 the
        other. ``side``: 0 black, 1 white, 2 over.
        """
        boards = np.ascontiguousarray(states[:, 1:]).view(np.uint64)
        black, white = self._rules.squares(boards[:, 0]), self._rules.squares(boards[:, 1])
        absolute = black + 2 * white.astype(np.int64)
        swapped = white + 2 * black.astype(np.int64)
        own = np.where(states[:, :1] == WHITE, swapped, absolute)
        return {"board": absolute, "board_own": own, "side": states[:, 0]}

    def _content(self) -> tuple[npt.NDArray[np.integer], ...]:
        return (self._pool[0],)

    def _discs(self, states: States) -> Ids:
        boards = np.ascontiguousarray(states[:, 1:]).view(np.uint64)
        return self._rules.squares(boards[:, 0] | boards[:, 1]).sum(axis=1)

    @cached_property
    def _pool(self) -> tuple[Ids, States, dict[bytes, list[tuple[int, int]]]]:
        """Games, their distinct positions, and (game, moves) of every occurrence."""
        given = self._games
        games = pad(given or self.random_games(self._n_pool, np.random.default_rng(self._seed)))
        after = self.trace(self.initial(len(games)), games)[:, 1:]
        illegal = np.argwhere(after[:, :, 0] < 0)
        if len(illegal):
            game, move = illegal[0].tolist()
            msg = f"game {game}: move {move + 1}, {self.tokens[games[game, move]]}, is not legal."
            raise ValueError(msg)
        occurrences: dict[bytes, list[tuple[int, int]]] = {}
        for game, move in np.argwhere(games != PAD).tolist():
            occurrences.setdefault(after[game, move].tobytes(), []).append((game, move + 1))
        distinct = np.frombuffer(b"".join(occurrences), dtype=np.int64).reshape(-1, 3)
        return games, distinct, occurrences

    @property
    def _pool_states(self) -> States:
        return self._pool[1]

    @cached_property
    def _openings(self) -> States:
        """Positions that two games of the pool reach by different moves."""
        shared = [key for key, places in self._pool[2].items() if len(places) > 1]
        states = np.frombuffer(b"".join(shared), dtype=np.int64).reshape(-1, 3)
        twice = np.array([len(self._ways(state)) > 1 for state in states], dtype=np.bool_)
        return states[twice & (states[:, 0] != OVER)]

    def _ways(self, state: npt.NDArray[np.int64]) -> list[Ids]:
        """Return the different prefixes of the pool that reach a position."""
        games, _, occurrences = self._pool
        places = occurrences.get(np.ascontiguousarray(state).tobytes(), [])
        different = {games[game, :moves].tobytes(): (game, moves) for game, moves in places}
        return [games[game, :moves] for game, moves in different.values()]

    def _swapped(self, ids: Ids, states: States, rng: np.random.Generator) -> Ids:
        """Swap two moves of each sequence, where that leads to the same state."""
        n, rows = (ids != PAD).sum(axis=1), np.arange(len(ids))
        first = (rng.random(len(ids)) * np.maximum(n - 2, 0)).astype(np.int64)
        gap = 2 * rng.geometric(0.4, len(ids))
        able = first + gap < n
        second = np.where(able, first + gap, first)
        out = ids.copy()
        if not ids.shape[1]:
            return out
        out[rows, first], out[rows, second] = ids[rows, second], ids[rows, first]
        same = (self.run(self.initial(len(ids)), out) == states).all(axis=1)
        return np.where(same[:, None], out, ids)


def _sides(states: States) -> tuple[Bits, Bits]:
    """Return the discs of the side to move and of the other; all squares of a rejected state."""
    boards = np.ascontiguousarray(states[:, 1:]).view(np.uint64)
    black = states[:, 0] != WHITE
    own = np.where(black, boards[:, 0], boards[:, 1])
    return own, np.where(black, boards[:, 1], boards[:, 0])
