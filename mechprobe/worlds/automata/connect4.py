"""Cumulative Connect-4: the simplest world that next-token accuracy says nothing about."""

import numpy as np

from mechprobe.worlds.automata.arrays import PAD, REJECT, Ids, Mask, Prefixes, States
from mechprobe.worlds.automata.base import World

COLUMNS = 7


class CumulativeConnect4(World):
    r"""Discs are dropped into seven columns until all are full; nobody wins.

    A column is legal while it has room, so a game always has :math:`7 \cdot \text{rows}` moves and
    there are :math:`(\text{rows}+1)^7` states. A model that knows nothing is nearly always right
    about the next move.

    Attributes:
        rows: Room in each column.

    Raises:
        ValueError: No rows.

    Example:
        >>> world = CumulativeConnect4(1)
        >>> world.decode(world.moves(world.run(world.initial(), world.encode("3 7")[None]))[1])
        ['1', '2', '4', '5', '6']

    Source:
        Vafa et al. (2024), https://arxiv.org/abs/2406.03689, section 2.
    """

    spelled = "connect4:2"

    def __init__(self, rows: int = 6) -> None:
        if rows < 1:
            msg = f"CumulativeConnect4 needs at least one row; found {rows}."
            raise ValueError(msg)
        self.rows = rows
        tokens = [str(column + 1) for column in range(COLUMNS)]
        super().__init__(f"connect4 {rows} rows", tokens, max_length=COLUMNS * rows)

    @property
    def n_states(self) -> int:
        """States, reject not counted."""
        return (self.rows + 1) ** COLUMNS

    def initial(self, n: int = 1) -> States:
        """Return empty boards."""
        return np.zeros((n, COLUMNS), dtype=np.int64)

    def step(self, states: States, tokens: Ids) -> States:
        """Return the boards after one disc each; reject stays reject."""
        out = states.copy()
        rows = np.arange(len(states))
        out[rows, tokens] += 1
        out[(out[rows, tokens] > self.rows) | (states[:, 0] < 0)] = REJECT
        return out

    def legal(self, states: States) -> Mask:
        """Return the columns that have room."""
        return (states < self.rows) & (states[:, :1] >= 0)

    def sample_states(self, rng: np.random.Generator, n: int, *, published: bool = False) -> States:
        """Draw uniformly among boards that are neither empty nor full.

        Args:
            rng: Draws them.
            n: How many.
            published: Makes no difference here.
        """
        del published
        out = rng.integers(0, self.rows + 1, (n, COLUMNS))
        while len(odd := np.flatnonzero(np.isin(out.sum(axis=1), (0, self.max_length)))):
            out[odd] = rng.integers(0, self.rows + 1, (len(odd), COLUMNS))
        return out

    def usable_states(self, *, published: bool = False) -> int:
        """Return how many states ``sample_states`` draws from."""
        del published
        return self.n_states - 2

    def sample_prefixes(
        self, states: States, rng: np.random.Generator, lengths: Ids | None = None, *, published: bool = False
    ) -> Prefixes:
        """Draw games that lead to the boards, every order of the moves as likely.

        Args:
            states: Boards.
            rng: Draws them.
            lengths: Only the number of discs on the board is possible; others fail.
            published: Makes no difference here.
        """
        del published
        discs = np.where(states[:, 0] >= 0, states.sum(axis=1), 0)
        able = (states[:, 0] >= 0) & (discs == (discs if lengths is None else lengths))
        discs = np.where(able, discs, 0)
        ids = np.full((len(states), int(discs.max(initial=0))), PAD, dtype=np.int64)
        filled = np.arange(ids.shape[1]) < discs[:, None]
        ids[filled] = np.repeat(
            np.tile(np.arange(COLUMNS), len(states)), np.where(able[:, None], states, 0).reshape(-1)
        )
        order = np.where(filled, rng.random(ids.shape), 2).argsort(axis=1)
        reason = "a board is reached by as many moves as it has discs, by no other number"
        reasons = tuple("" if ok else reason for ok in able.tolist())
        return Prefixes(np.take_along_axis(ids, order, axis=1), discs, reasons)

    def state_labels(self, states: States) -> dict[str, Ids]:
        """Return the height of each column, and how many discs there are."""
        return {"heights": states, "discs": states.sum(axis=1)}

    def summary(self) -> dict[str, str | int]:
        """Return what is worth knowing about its size."""
        return super().summary() | {"states": self.n_states}
