"""Othello against open-spiel's rules."""

from typing import Any

import numpy as np
import pytest

PASS = 64


@pytest.fixture(scope="module")
def othello() -> Any:
    from mechprobe.worlds import Othello

    return Othello(8, pool=100)


def test_legal_moves_equal_open_spiel(othello: Any) -> None:
    """Both play the same random games; open-spiel's passes are skipped."""
    pyspiel = pytest.importorskip("pyspiel")
    rng = np.random.default_rng(0)
    game, n = pyspiel.load_game("othello"), 300
    others = [game.new_initial_state() for _ in range(n)]
    action_of = np.array([int(w[1]) * 8 - 8 + "abcdefgh".index(w[0]) for w in othello.tokens])
    states, passes, checked = othello.initial(n), 0, 0
    for _ in range(61):
        legal = othello.legal(states)
        chosen = np.where(legal, rng.random(legal.shape), -1).argmax(axis=1)
        for i, other in enumerate(others):
            while not other.is_terminal() and other.legal_actions() == [PASS]:
                other.apply_action(PASS)
                passes += 1
            expected: list[int] = [] if other.is_terminal() else other.legal_actions()
            assert action_of[legal[i]].tolist() == expected
            if expected:
                assert states[i, 0] == other.current_player()
                other.apply_action(int(action_of[chosen[i]]))
                checked += 1
        states = np.where(legal.any(axis=1)[:, None], othello.step(states, chosen), states)
    assert all(other.is_terminal() for other in others)
    assert (states[:, 0] == 2).all()
    assert checked > 17_000
    assert passes > 100


def test_final_score_equals_open_spiel(othello: Any) -> None:
    pyspiel = pytest.importorskip("pyspiel")
    from mechprobe.worlds import pad

    games = othello.random_games(30, np.random.default_rng(1))
    board = othello.state_labels(othello.run(othello.initial(30), pad(games)))["board"]
    for game, squares in zip(games, board, strict=True):
        other = pyspiel.load_game("othello").new_initial_state()
        for word in othello.decode(game):
            if other.legal_actions() == [PASS]:
                other.apply_action(PASS)
            other.apply_action(int(word[1]) * 8 - 8 + "abcdefgh".index(word[0]))
        text = "".join(c for line in str(other).split("\n") for c in line if c in "-xo")[-64:]
        assert "".join("-xo"[s] for s in squares) == text


def test_small_board_by_hand() -> None:
    from mechprobe.worlds import Othello

    world = Othello(6, pool=10)
    assert len(world.tokens) == 32
    assert world.tokens[0] == "a1"
    assert not {"c3", "c4", "d3", "d4"} & set(world.tokens)
    after = world.run(world.initial(), world.encode("c2")[None])
    board = world.state_labels(after)["board"][0].reshape(6, 6)
    assert board[1:4, 2].tolist() == [1, 1, 1]  # c3 was turned
    assert board[3, 3] == 2
    assert world.state_labels(after)["board_own"][0].reshape(6, 6)[3, 3] == 1
    assert world.decode(world.moves(after)[1]) == ["b2", "d2", "b4"]
    assert not world.accepts(world.initial(), world.encode("c2 a1")[None])[0]
    assert not world.accepts(world.initial(), world.encode("c2 c2")[None])[0]


def test_every_row_is_its_own_game(othello: Any) -> None:
    from mechprobe.worlds import pad

    games = othello.random_games(40, np.random.default_rng(2))
    together = othello.run(othello.initial(40), pad(games))
    for game, state in zip(games, together, strict=True):
        np.testing.assert_array_equal(othello.run(othello.initial(), game[None])[0], state)


def test_positions_late_in_the_game_have_many_prefixes(othello: Any) -> None:
    rng = np.random.default_rng(4)
    states = othello.sample_states(rng, 200)
    first = othello.sample_prefixes(states, rng)
    second = othello.sample_prefixes(states, rng, first.lengths)
    for found in (first, second):
        assert found.ok.all()
        np.testing.assert_array_equal(othello.run(othello.initial(200), found.ids), states)
    late = first.lengths > 20
    assert (first.ids != second.ids).any(axis=1)[late].mean() > 0.9


def test_published_states_are_openings(othello: Any) -> None:
    rng = np.random.default_rng(5)
    states = othello.sample_states(rng, 100, published=True)
    prefixes = othello.sample_prefixes(states, rng, published=True)
    assert prefixes.lengths.max() < 12
    first, second = othello.sample_state_pairs(rng, 100, published=True)
    for pair in zip(first, second, strict=True):
        discs = [(othello.state_labels(s[None])["board"] > 0).sum() for s in pair]
        assert discs[0] == discs[1] >= 8


def test_states_come_from_given_games() -> None:
    from mechprobe.worlds import Othello

    plain = Othello(6, pool=5)
    game = plain.encode("c2 b2 b3")
    world = Othello(6, games=[game])
    states = world.sample_states(np.random.default_rng(0), 50)
    assert len(np.unique(states, axis=0)) == 3
    elsewhere = plain.run(plain.initial(), plain.encode("e4")[None])
    found = world.sample_prefixes(elsewhere, np.random.default_rng(0))
    assert found.reasons == ("no game of the pool reaches the position",)


def test_refusals() -> None:
    from mechprobe.worlds import Othello

    with pytest.raises(ValueError, match=r"plays on 8 or 6 squares; found 7"):
        Othello(7)
    with pytest.raises(ValueError, match=r"pool must be at least 1"):
        Othello(8, pool=0)
    world = Othello(6, games=[np.array([0, 1])])
    with pytest.raises(ValueError, match=r"game 0: move 1, a1, is not legal"):
        world.sample_states(np.random.default_rng(0), 1)
    rng, alone = np.random.default_rng(0), Othello(6, games=[Othello(6).encode("c2")])
    with pytest.raises(ValueError, match=r"no two positions of one length"):
        alone.sample_state_pairs(rng, 1)
    with pytest.raises(ValueError, match=r"no position to draw from the pool"):
        alone.sample_states(rng, 1, published=True)
