"""Targets, positions, layers and top_k: what is plainly meant is taken, the rest named."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

D_VOCAB = 300
SPACE = "\u2581"


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model whose tokenizer begins every text with a space, as SentencePiece does."""
    import transformers as tf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from mechprobe.models import load_model
    from tests.tiny import save_tiny

    words = [f"{SPACE}Answer", ":", "A", f"{SPACE}A", SPACE, "B", f"{SPACE}B", "Par", "is"]
    pieces = [(w, 0.0) for w in ("<pad>", "<bos>", "<eos>", "<unk>")]
    pieces += [(w, -1.0 - i / 10) for i, w in enumerate(words)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    folder = save_tiny(tmp_path_factory.mktemp("spaced"))
    tf.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)  # fmt: skip
    return load_model(folder, device="cpu")


def _targets(model: Any, targets: Any) -> tuple[list[str], list[int]]:
    from mechprobe.lens.request import resolve_targets

    found = resolve_targets(model, targets, [[0]])
    return found.labels, found.ids[0, 0].tolist()


@pytest.mark.parametrize(
    ("target", "piece"),
    [
        ("A", f"{SPACE}A"),
        (" A", f"{SPACE}A"),
        (("Answer:", "A"), "A"),
        (("Answer:", " A"), f"{SPACE}A"),
        (("<bos>Answer:", "A"), "A"),
        (("Answer", ":"), ":"),
        (("", "A"), f"{SPACE}A"),
    ],
)
def test_a_target_is_named_in_its_context_and_the_label_shows_the_piece(
    spaced: Any, target: Any, piece: str
) -> None:
    token = spaced.tokenizer.convert_tokens_to_ids(piece)
    assert _targets(spaced, [target]) == ([piece.replace(SPACE, " ")], [token])


def test_both_spellings_are_told_apart_in_one_lens(spaced: Any) -> None:
    import mechprobe as mp

    lens = mp.logit_lens(spaced, "Answer:", targets=["A", ("Answer:", "A"), 5], progress=False)
    assert lens.data["target"].values.tolist() == [" A", "A", ":"]
    assert lens.provenance.arguments["targets"] == {" A": 7, "A": 6, ":": 5}
    alone = mp.logit_lens(spaced, "Answer:", targets=[6], progress=False)
    np.testing.assert_array_equal(lens.data["target_log_prob"][..., 1], alone.data["target_log_prob"][..., 0])


KINDS: list[Any] = [
    5, np.int32(5), torch.tensor(5), np.array(5), [5], (5,), [torch.tensor(5)], np.array([5]),
    torch.tensor([5], dtype=torch.int16), pd.Series([5]), range(5, 6),
]  # fmt: skip


@pytest.mark.parametrize("given", KINDS, ids=repr)
def test_one_id_in_every_container(tiny_model: Any, given: Any) -> None:
    assert _targets(tiny_model, given) == (["5"], [5])


@pytest.mark.parametrize("given", [[2, 0], (2, 0), np.array([2, 0]), torch.tensor([2, 0])])
def test_two_ids_are_two_targets(tiny_model: Any, given: Any) -> None:
    assert _targets(tiny_model, given) == (["2", "0"], [2, 0])


def _objects(texts: list[str]) -> Any:
    return np.array(texts, dtype=object)


@pytest.mark.parametrize("make", [list, np.array, pd.Series, _objects])
def test_texts_in_every_container(spaced: Any, make: Callable[..., Any]) -> None:
    assert _targets(spaced, make(["A", "B"])) == ([" A", " B"], [7, 10])
    assert _targets(spaced, "B") == ([" B"], [10])
    assert _targets(spaced, None) == ([], [])


def test_targets_of_each_cell(tiny_model: Any) -> None:
    from mechprobe.lens.request import resolve_targets

    for dtype in (torch.int64, torch.uint8, torch.uint16):
        ids = torch.tensor([[5, 6]]).to(dtype)
        for cells in (ids, ids.numpy(), ids[..., None]):
            found = resolve_targets(tiny_model, cells, [[0, 1]])
            assert found.ids.tolist() == [[[5], [6]]]
            assert found.per_cell


REFUSED: list[tuple[Any, type[Exception], str]] = [
    ({"a": 5}, TypeError, r"or a pair \(context, word\); found a dict with keys 'a'"),
    ({5}, TypeError, r"found \{5\} \(set\)"),
    ((t for t in [5]), TypeError, r"\(generator\)"),
    (b"A", TypeError, r"\(bytes\)"),
    (2.0, TypeError, r"a target must be a text, an id .* found 2\.0 \(float\)"),
    ([2.0], TypeError, r"found 2\.0 \(float\)"),
    (True, TypeError, r"found True \(bool\)"),
    ([None], TypeError, "found None"),
    (np.array([2.0]), TypeError, "found an array of float64"),
    (torch.tensor([True]), TypeError, r"found a tensor of torch\.bool"),
    (torch.tensor(2.0), TypeError, r"found a tensor of torch\.float32, shape \(\)"),
    (torch.ones(1, 1, device="meta", dtype=torch.long), TypeError, "holds no numbers"),
    (torch.ones(1, 1), TypeError, r"per cell must be integers .* torch\.float32"),
    (np.array([["A"]]), ValueError, "per cell must be integers"),
    (np.ones((1, 2), int), ValueError, r"\[prompt, pos\] = \[1, 1\] .* shape \(1, 2\)"),
    (np.ones((1, 1, 1, 1), int), ValueError, "and a third axis for several"),
    ([[2, 0]], TypeError, r"found \[2, 0\] \(list\)"),
    ([["Answer:", "A"]], TypeError, r"a pair \(context, word\); found \['Answer:', 'A'\] \(list\)"),
    ([("Answer:", 5)], TypeError, r"found \('Answer:', 5\) \(tuple\)"),
    (("Answer:", "A"), ValueError, r"pass \['Answer:', 'A'\] for two, \[\('Answer:', 'A'\)\] for"),
    ([("Answer: ", "A")], ValueError, r"'A' after 'Answer: ' begins inside the token ' A' \(7\)"),
    ([("Answer:", "Paris")], ValueError, r"is 2 tokens: 'Par' \(11\), 'is' \(12\)"),
    ([("Answer:", "")], ValueError, "'' after 'Answer:' is empty"),
    ([("Answer:", "\ud800")], ValueError, "no valid Unicode"),
    ([D_VOCAB], ValueError, "target id 300 is no id"),
    ([-1], ValueError, r"valid: 0\.\.299"),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("targets", "error", "message"), REFUSED)
def test_other_targets_are_refused_by_name(
    spaced: Any, targets: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _targets(spaced, targets)


def test_a_word_in_context_needs_a_tokenizer(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer, so target \('a', 'b'\) cannot be text"):
        _targets(tiny_model, [("a", "b")])


INTEGERS = [[1, 0], (1, 0), np.array([1, 0]), torch.tensor([1, 0]), [np.int64(1), np.uint8(0)]]
NOT_INTEGERS = [2.0, [1.0], True, [True], "1", {1}, {1: 0}, np.array([1.0]), [[1, 0]]]


@pytest.mark.parametrize("given", INTEGERS, ids=repr)
def test_positions_and_layers_are_integers_of_any_kind(tiny_model: Any, given: Any) -> None:
    from mechprobe.lens.request import resolve_layers, resolve_positions

    assert resolve_positions(given, [3]) == [[1, 0]]
    assert resolve_layers(tiny_model, given, "resid_post") == [1, 0]
    assert resolve_positions(range(2), [3]) == [[0, 1]]
    assert resolve_layers(tiny_model, range(2), "resid_post") == [0, 1]
    assert resolve_layers(tiny_model, np.int64(1), "resid_post") == [1]
    assert resolve_positions(np.int64(-1), [3, 2]) == [[2], [1]]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("given", NOT_INTEGERS, ids=repr)
def test_positions_layers_and_top_k_are_nothing_else(tiny_model: Any, given: Any) -> None:
    from mechprobe.lens.request import check_top_k, resolve_layers, resolve_positions

    with pytest.raises(TypeError, match="positions must be integers, a slice or None; found"):
        resolve_positions(given, [3])
    with pytest.raises(TypeError, match="layers must be integers or None; found"):
        resolve_layers(tiny_model, given, "resid_post")
    with pytest.raises(TypeError, match="top_k must be an integer; found"):
        check_top_k(given, D_VOCAB)


@pytest.mark.parametrize("k", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_top_k_is_an_integer_of_any_kind(k: Any) -> None:
    from mechprobe.lens.request import check_top_k

    assert check_top_k(k, D_VOCAB) == 3
    assert type(check_top_k(k, D_VOCAB)) is int


@pytest.mark.usefixtures("as_users_run_it")
def test_the_public_function_refuses_before_any_forward_pass(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mechprobe as mp
    from mechprobe.models import Cursor

    def ran(*_: Any, **__: Any) -> None:
        pytest.fail("the model ran")

    monkeypatch.setattr(Cursor, "read", ran)
    bad: list[dict[str, Any]] = [
        {"top_k": 2.5}, {"top_k": True}, {"targets": {"a": 5}}, {"positions": 1.0},
        {"layers": {1}}, {"targets": [2.0]},
    ]  # fmt: skip
    for change in bad:
        with pytest.raises(TypeError, match=next(iter(change)).rstrip("s")):
            mp.logit_lens(tiny_model, [[1, 2, 3]], progress=False, **change)
