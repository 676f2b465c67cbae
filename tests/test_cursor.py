"""Laws of the cursor: in whatever pieces, rows, forks and padding, the text is read as it is."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

# Rotary, learned and moved positions, ALiBi; grouped heads, a window, an attention of its own.
NAMES = ("llama", "gpt2", "gpt_neox", "mistral", "opt", "bloom", "gptj")
# The ones that may keep rows in slots: all without a window.
MANY = tuple(name for name in NAMES if name != "mistral")
# Which are told that rows share what they have read, where nothing is padded.
SHARED = {"llama", "gpt2", "gpt_neox", "opt"}
WAYS = [(name, False) for name in NAMES] + [(name, True) for name in MANY]


def ids_of(n: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 290, (n, length), generator=torch.Generator().manual_seed(seed))


def whole(session: Any, texts: list[Tensor] | Tensor, last: int = 1) -> Tensor:
    """Logits behind the last tokens of texts of one length, by the model as its user runs it."""
    ids = torch.stack(list(texts))
    with torch.no_grad():
        out: Tensor = session.model.original_model(ids, use_cache=False).logits[:, -last:]
    return out


def assert_near(found: Tensor | None, own: Tensor) -> None:
    assert found is not None
    assert found.shape == own.shape
    tolerance = 2e-6 if own.dtype == torch.float64 else 2e-5
    assert (found - own).abs().max() <= tolerance * own.abs().max()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On models this small threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def exact(tiny: Callable[..., Any]) -> Callable[[str], Any]:
    """Models in float64, where padding does not turn to NaN in a softmax of float32."""
    dtypes = dict.fromkeys(("gpt2", "gpt_neox", "gptj", "bloom"), torch.float64)
    return lambda name: tiny(name, sharpness=4.0, dtype=dtypes.get(name, torch.float32))


@pytest.mark.parametrize(("name", "many"), WAYS)
def test_in_pieces_as_at_once(exact: Callable[[str], Any], name: str, *, many: bool) -> None:
    from mechprobe.models import Cursor, looking_at

    ids = ids_of(3, 9)
    with looking_at(exact(name)) as session:
        own = whole(session, ids, 9)
        at_once = Cursor(session, many=many).read(ids, logits="all", keep=False)
        assert_near(at_once, own)
        cursor = Cursor(session, many=many)
        assert cursor.read(ids[:, :4], logits="none") is None
        assert_near(cursor.read(ids[:, 4:7], logits="all"), own[:, 4:7])
        assert_near(cursor.advance(np.arange(3), ids[:, 7]), own[:, 7:8])
        assert_near(cursor.read(ids[:, 8:]), own[:, 8:])


@pytest.mark.parametrize(("name", "many"), WAYS)
def test_every_row_as_if_alone(exact: Callable[[str], Any], name: str, *, many: bool) -> None:
    """Rows are repeated, dropped and put in another order, and read on in two pieces."""
    from mechprobe.models import Cursor, looking_at

    rng = np.random.default_rng(0)
    with looking_at(exact(name)) as session:
        texts = list(ids_of(4, 5))
        cursor = Cursor(session, many=many)
        cursor.read(torch.stack(texts))
        for n in (6, 6, 3, 11, 1, 2):
            rows, said = rng.integers(0, len(texts), n), torch.as_tensor(rng.integers(3, 290, n))
            found = cursor.advance(rows, said)
            texts = [torch.cat([texts[row], t[None]]) for row, t in zip(rows, said, strict=True)]
            assert cursor.n_rows == n
            assert_near(found, whole(session, texts))
        more = ids_of(2, 3, seed=2)
        texts = [torch.cat(pair) for pair in zip(texts, more, strict=True)]
        assert_near(cursor.read(more, logits="all"), whole(session, texts, 3))
        found = cursor.advance(np.array([1, 1, 0]), more[[1, 1, 0], 0])
        texts = [torch.cat([texts[row], more[row, :1]]) for row in (1, 1, 0)]
        assert_near(found, whole(session, texts))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("name", "many"), [way for way in WAYS if way[0] != "bloom"])
def test_padding_is_not_read(exact: Callable[[str], Any], name: str, side: str, *, many: bool) -> None:
    from mechprobe.models import Cursor, looking_at

    lengths, width = [5, 2, 7], 7
    texts = [ids_of(1, n, seed=n)[0] for n in lengths]
    ids, mask = torch.full((3, width), 9), torch.zeros(3, width, dtype=torch.int64)
    for row, text in enumerate(texts):
        at = slice(width - len(text), None) if side == "left" else slice(0, len(text))
        ids[row, at], mask[row, at] = text, 1
    with looking_at(exact(name)) as session:
        cursor = Cursor(session, many=many)
        first = cursor.read(ids, mask=mask, logits="all")
        assert first is not None
        for row, text in enumerate(texts):
            assert_near(first[row][mask[row] > 0][None], whole(session, [text], 9))
        rows, rng = np.array([1, 2, 1, 0]), np.random.default_rng(3)
        for _ in range(2):
            said = torch.as_tensor(rng.integers(3, 290, len(rows)))
            found = cursor.advance(rows, said)
            texts = [torch.cat([texts[row], t[None]]) for row, t in zip(rows, said, strict=True)]
            assert_near(found, torch.cat([whole(session, [text]) for text in texts]))
            rows = np.roll(rows, 1)


def test_padding_that_moves_tokens_of_a_model_that_takes_no_positions(exact: Callable[[str], Any]) -> None:
    from mechprobe.models import Cursor, looking_at

    ids, mask = ids_of(2, 4), torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    with looking_at(exact("bloom")) as session:
        with pytest.raises(NotImplementedError, match=r"Bloom.* cannot be told where tokens stand"):
            Cursor(session).read(ids, mask=mask)
        found = Cursor(session).read(ids, mask=mask.flip(1), logits="all", keep=False)
        assert found is not None
        assert_near(found[1:, :3], whole(session, ids[1:, :3], 3))


@pytest.mark.parametrize(("name", "many"), [("llama", False), ("llama", True), ("bloom", True)])
def test_forks_go_their_own_ways(exact: Callable[[str], Any], name: str, *, many: bool) -> None:
    from mechprobe.models import Cursor, looking_at

    ids, more = ids_of(3, 6), ids_of(3, 4, seed=7)
    with looking_at(exact(name)) as session:
        cursor = Cursor(session, many=many)
        cursor.read(ids[:, :5])
        cursor.advance(np.array([2, 0, 1]), ids[[2, 0, 1], 5])
        other, some = cursor.fork(), cursor.fork(np.array([1, 1]))
        for step in range(4):  # in turns: what one reads must not reach the others
            for reader, rows, tail in (
                (cursor, [2, 0, 1], more[:, : step + 1]),
                (other, [2, 0, 1], more.flip(1)[:, : step + 1]),
                (some, [0, 0], more[:2, : step + 1]),
            ):
                found = reader.advance(np.arange(len(rows)), tail[:, -1])
                assert_near(found, whole(session, torch.cat([ids[rows], tail], dim=1)))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "mistral", "opt", "bloom"])
def test_greedy_is_hugging_faces(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import Cursor, looking_at

    model, ids = tiny(name, sharpness=4.0), ids_of(1, 6)
    theirs = model.original_model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False,
        eos_token_id=None,
    )[0, 6:].tolist()  # fmt: skip
    with looking_at(model) as session:
        assert list(Cursor(session).greedy(ids, 9)) == theirs
        stopped = list(Cursor(session).greedy(ids, 9, stop={theirs[3]}))
    assert stopped == theirs[: theirs.index(theirs[3]) + 1]


@pytest.mark.parametrize("n", [3, 8, 20])
def test_beyond_a_window(tmp_path: Any, n: int) -> None:
    """A cache that slid holds fewer columns than the text has tokens."""
    import transformers as tf

    from mechprobe.models import Cursor, load_model, looking_at
    from tests.tiny import config

    sizes = config("mistral")
    sizes.sliding_window = 5
    tf.AutoModelForCausalLM.from_config(sizes).save_pretrained(tmp_path / "m")
    model = load_model(tmp_path / "m", device="cpu", dtype=torch.float64)
    ids = ids_of(2, n + 4)
    with looking_at(model) as session:
        own = whole(session, ids, n + 4)
        cursor = Cursor(session)
        cursor.read(ids[:, :n])
        for step in range(n, n + 4):
            found = cursor.advance(np.array([1, 0]), ids.roll(step - n + 1, 0)[:, step])
            assert_near(found, own.roll(step - n + 1, 0)[:, step : step + 1])


@pytest.mark.parametrize("many", [False, True])
def test_sinks_see_rows_and_new_tokens(exact: Callable[[str], Any], *, many: bool) -> None:
    from mechprobe.models import Cursor, last_stream, looking_at, run

    ids, order = ids_of(3, 5), np.array([2, 2, 0, 1])
    with looking_at(exact("llama")) as session:
        stream, seen = last_stream(session.model), list[Tensor]()
        cursor = Cursor(session, many=many)
        cursor.read(ids[:, :3], {stream: seen.append})
        cursor.advance(order, ids[order, 3], {stream: seen.append}, logits="none")
        again = np.array([3, 0])
        cursor.advance(again, ids[order[again], 4], {stream: seen.append})
        wholes = list[Tensor]()
        run(session, ids, {stream: wholes.append})
    assert_near(seen[0], wholes[0][:, :3])
    assert_near(seen[1], wholes[0][order, 3:4])
    assert_near(seen[2], wholes[0][order[again], 4:])


@pytest.mark.parametrize("layer", [-1, 1, 2])
def test_logits_of_a_layer(exact: Callable[[str], Any], layer: int) -> None:
    import mechprobe as mp
    from mechprobe.models import Cursor, looking_at

    model, ids = exact("llama"), ids_of(2, 6)
    lens = mp.logit_lens(model, ids, layers=[layer], positions=None, top_k=300, progress=False).data
    with looking_at(model) as session:
        cursor = Cursor(session, many=True, layer=layer)
        first = cursor.read(ids[:, :4], logits="all")
        second = cursor.advance(np.array([1, 0]), ids[[1, 0], 4])
    assert first is not None
    assert second is not None
    found = torch.cat([first, second[[1, 0]]], dim=1).log_softmax(-1).numpy()
    top = lens["top_token"].values[:, :5, 0]
    own = lens["top_log_prob"].values[:, :5, 0]
    np.testing.assert_allclose(np.take_along_axis(found, top, 2), own, atol=1e-5)


def test_which_models_share_what_was_read(exact: Callable[[str], Any]) -> None:
    from mechprobe.models import Cursor, looking_at
    from mechprobe.models.forks import ForkCache

    for name in MANY:
        with looking_at(exact(name)) as session:
            cursor = Cursor(session, many=True)
            cursor.read(ids_of(2, 4))
            cursor.advance(np.array([0, 0, 1]), torch.tensor([5, 6, 7]))
            assert isinstance(cursor._cache, ForkCache) == (name in SHARED), name


def test_forked_rows_are_compared_with_the_models_own_in_every_call(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attention that is wrong on real rows is not trusted, though it was right in a call."""
    from mechprobe.models import Cursor, forks, looking_at
    from mechprobe.models.forks import ForkCache

    model, ids = tiny("qwen2", sharpness=4.5), ids_of(3, 5)
    plain, said = forks.forked_attention, torch.tensor([5, 6, 7, 8])

    def off(*args: Any) -> Tensor:
        return plain(*args) * 1.01

    def read() -> tuple[Any, Tensor | None]:
        with looking_at(model) as session:
            cursor = Cursor(session, many=True)
            cursor.read(ids)
            rows = np.array([0, 1, 2, 0])
            found = cursor.advance(rows, said)
            assert_near(found, whole(session, torch.cat([ids[rows], said[:, None]], dim=1)))
            second = Cursor(session, many=True)
            second.read(ids)
            return cursor._cache, second._cache

    assert all(isinstance(cache, ForkCache) for cache in read())
    monkeypatch.setattr(forks, "forked_attention", off)
    assert not any(isinstance(cache, ForkCache) for cache in read())


def test_a_cursor_that_kept_nothing(exact: Callable[[str], Any]) -> None:
    from mechprobe.models import Cursor, looking_at

    with looking_at(exact("llama")) as session:
        cursor = Cursor(session)
        for go_on in (cursor.fork, lambda: cursor.advance(np.arange(2), torch.tensor([5, 6]))):
            with pytest.raises(RuntimeError, match="nothing that it could go on from"):
                go_on()
        cursor.read(ids_of(2, 4), keep=False)
        with pytest.raises(RuntimeError, match="nothing that it could go on from"):
            cursor.read(ids_of(2, 4))
