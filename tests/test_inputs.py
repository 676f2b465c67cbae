"""What users have in hand becomes the ids that it plainly means, or is refused by name."""

from collections import UserDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PAD, BOS, EOS = 0, 1, 2  # of the tiny text model
SIDES = ("none", "left", "right", "both")
ONES = {"input_ids": [[5, 0]], "attention_mask": [[1, 1]]}

Rows = list[list[int]]


def _padded(rows: Rows, side: str, extra: int, pad: int = PAD) -> tuple[Rows, Rows]:
    """Fill rows up to a rectangle, ``extra`` wider than the longest row; return it and its mask."""
    width = max(map(len, rows)) + (extra if side != "none" else 0)
    filled: Rows = []
    masks: Rows = []
    for row in rows:
        n = width - len(row)
        left = {"left": n, "both": n // 2}.get(side, 0)
        filled.append([pad] * left + row + [pad] * (n - left))
        masks.append([0] * left + [1] * len(row) + [0] * (n - left))
    return filled, masks


# Several prompts of any length: nothing is filled up, so side and mask do not come in.
LOOSE: dict[str, Callable[[Rows], Any]] = {
    "lists": lambda rows: rows,
    "tuples": lambda rows: tuple(map(tuple, rows)),
    "deque": lambda rows: deque(rows),
    "tensors": lambda rows: [torch.tensor(row) for row in rows],
    "int32 tensors": lambda rows: tuple(torch.tensor(row, dtype=torch.int32) for row in rows),
    "arrays": lambda rows: [np.array(row, np.uint16) for row in rows],
    "numpy integers": lambda rows: [[np.int64(t) for t in row] for row in rows],
    "0-d tensors": lambda rows: [list(torch.tensor(row)) for row in rows],
    "mixed": lambda rows: [np.array(rows[0]), *map(tuple, rows[1:])],
    "object array": lambda rows: np.array([*rows, None], dtype=object)[:-1],
    "column": lambda rows: pd.Series(rows),
    "encodings": lambda rows: [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows],
}
# Rectangles without a mask.
BARE: dict[str, Callable[[Rows], Any]] = {
    "tensor": torch.tensor,
    "uint8 tensor": lambda rows: torch.tensor([[t % 256 for t in r] for r in rows]).to(torch.uint8),
    "array": np.array,
    "rectangle of lists": lambda rows: rows,
    "rows of a tensor": lambda rows: list(torch.tensor(rows)),
    "encoding without mask": lambda rows: {"input_ids": torch.tensor(rows)},
}
# Rectangles with one.
MASKED: dict[str, Callable[[Rows, Rows], Any]] = {
    "encoding of lists": lambda rows, mask: {"input_ids": rows, "attention_mask": mask},
    "encoding of tensors": lambda rows, mask: {
        "input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask),
        "token_type_ids": torch.zeros(1),
    },
    "encoding of arrays": lambda rows, mask: UserDict(
        input_ids=np.array(rows), attention_mask=np.array(mask)
    ),
    "boolean mask": lambda rows, mask: {
        "input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask).bool(),
    },
}  # fmt: skip
IDS = st.lists(st.integers(3, 255), min_size=1, max_size=9)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    rows=st.lists(IDS, min_size=1, max_size=4),
    side=st.sampled_from(SIDES),
    extra=st.integers(0, 3),
    bos=st.booleans(),
)
def test_every_container_of_ids_means_the_same_ids(
    tiny_text_model: Any, rows: Rows, side: str, extra: int, bos: bool
) -> None:
    from mechprobe.models import token_ids

    if bos:
        rows = [[BOS, *row] for row in rows]
    # A rectangle without padding has rows of one length.
    shortest = min(map(len, rows))
    square = [row[:shortest] for row in rows] if side == "none" else rows
    for make in LOOSE.values():
        assert token_ids(tiny_text_model, make(rows)) == rows
    filled, mask = _padded(square, side, extra)
    for make_masked in MASKED.values():
        assert token_ids(tiny_text_model, make_masked(filled, mask)) == square
    for make in BARE.values():
        if filled == square:
            assert token_ids(tiny_text_model, make(filled)) == square
        else:
            with pytest.raises(ValueError, match=r"row \d of the ids is padded \(id 0\)"):
                token_ids(tiny_text_model, make(filled))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(row=IDS, mask=st.lists(st.booleans(), min_size=9, max_size=9))
def test_one_prompt_in_every_container(tiny_text_model: Any, row: list[int], mask: Any) -> None:
    from mechprobe.models import token_ids

    def dtypes(names: str) -> list[Any]:
        return [getattr(torch, n) for n in names.split()]

    whole = [torch.tensor(row).to(d) for d in dtypes("uint8 int16 uint16 int32 uint32 int64")]
    kinds = [row, tuple(row), deque(row), pd.Series(row), list(map(np.int32, row)), *whole]
    kinds += [t.numpy() for t in whole] + [{"input_ids": row}, {"input_ids": torch.tensor([row])}]
    for kind in kinds:
        assert token_ids(tiny_text_model, kind) == [row]
    mask = [True, *mask[1 : len(row)]]
    kept = [t for t, keep in zip(row, mask, strict=True) if keep]
    assert token_ids(tiny_text_model, {"input_ids": row, "attention_mask": mask}) == [kept]
    assert token_ids(tiny_text_model, range(3, 7)) == [[3, 4, 5, 6]]


TEXTS = ["the cat", "the cat sat on the mat", "a dog"]
KINDS_OF_TEXTS: dict[str, Callable[[list[str]], Any]] = {
    "list": list, "tuple": tuple, "array": np.array, "column": pd.Series, "index": pd.Index,
    "objects": lambda texts: np.array(texts, dtype=object),
    "numpy texts": lambda texts: list(np.array(texts)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_TEXTS)
def test_texts_in_every_container(tiny_text_model: Any, kind: str) -> None:
    from mechprobe.models import token_ids

    one_by_one = [token_ids(tiny_text_model, text)[0] for text in TEXTS]
    assert token_ids(tiny_text_model, KINDS_OF_TEXTS[kind](TEXTS)) == one_by_one
    assert token_ids(tiny_text_model, [TEXTS[0], one_by_one[1]]) == one_by_one[:2]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("tensors", [None, "pt", "np"])
@pytest.mark.parametrize("padding", [True, "max_length"])
def test_the_tokenizers_own_output_is_read_without_its_padding(
    tiny_text_model: Any, side: str, tensors: Any, padding: Any
) -> None:
    from mechprobe.models import token_ids

    tokenizer = tiny_text_model.tokenizer
    plain = [tokenizer(text)["input_ids"] for text in TEXTS]
    options = {"padding": padding, "max_length": 40, "padding_side": side, "truncation": True}
    whole = tokenizer(TEXTS, return_tensors=tensors, **options)
    assert token_ids(tiny_text_model, whole) == plain
    assert token_ids(tiny_text_model, dict(whole)) == plain
    assert token_ids(tiny_text_model, tokenizer(TEXTS[0], return_tensors=tensors)) == plain[:1]
    with pytest.raises(ValueError, match="is padded"):
        token_ids(tiny_text_model, whole["input_ids"])


@pytest.mark.parametrize(
    ("kind", "side"), [*((k, "left") for k in LOOSE), *((k, s) for k in MASKED for s in SIDES)]
)
def test_the_lens_reads_the_same_whatever_the_container(tiny_text_model: Any, kind: str, side: str) -> None:
    import mechprobe as mp

    rows = [[BOS, 5, 6, 7], [8, 9, 10, 11]] if side == "none" else [[BOS, 5, 6, 7], [8, 9]]
    given = LOOSE[kind](rows) if kind in LOOSE else MASKED[kind](*_padded(rows, side, 2))
    plain = mp.logit_lens(tiny_text_model, rows, top_k=3, progress=False)
    found = mp.logit_lens(tiny_text_model, given, top_k=3, progress=False)
    assert found.data.identical(plain.data)
    assert found.provenance.data_digest == plain.provenance.data_digest


REFUSED: list[tuple[Any, type[Exception], str]] = [
    ({"a": 5}, TypeError, r"cannot be a dict with keys 'a': it has no input_ids\. Pass a text"),
    ({}, TypeError, "cannot be an empty dictionary"),
    ({"text": ["the cat"]}, TypeError, "keys 'text'"),
    ([{"text": "the cat"}], TypeError, "prompt 0 cannot be a dict with keys 'text'"),
    ({"role": "user", "content": "hi"}, TypeError, "is one chat message; pass a list of messages"),
    ({"the cat"}, TypeError, r"cannot be {'the cat'} \(set\)"),
    ((t for t in ["the cat"]), TypeError, r"\(generator\)\. Pass a text"),
    ({"a": 1}.keys(), TypeError, r"\(dict_keys\)"),
    (b"the cat", TypeError, r"\(bytes\)"),
    ([b"the cat"], TypeError, r"prompt 0 is neither text .* \(bytes\)"),
    (None, TypeError, r"cannot be None \(NoneType\)"),
    ([None], TypeError, r"prompt 0 is neither text nor a list of integer ids: None"),
    (5, TypeError, r"cannot be 5 \(int\)"),
    ([True, False], TypeError, r"prompt 0 is neither .* True \(bool\)"),
    ([5, True], TypeError, r"must all be integers; found True \(bool\)"),
    ([[5, 6.0]], TypeError, r"prompt 0 must be a text or integer ids; found 6\.0 \(float\)"),
    (["the cat", 5], TypeError, r"must all be integers; found 'the cat' \(str\)"),
    ([[[5, 6]]], TypeError, r"prompt 0 must be .* found \[5, 6\] \(list\)"),
    ([torch.tensor([[5, 6]])], TypeError, r"prompt 0 must be .* found \[5, 6\]"),
    (torch.ones(2), TypeError, r"must hold integer ids, .* torch\.float32, shape \(2,\)"),
    (torch.tensor([True]), TypeError, r"torch\.bool"),
    (torch.tensor(5), TypeError, r"torch\.int64, shape \(\)"),
    (torch.ones(1, 2, 3, dtype=torch.long), TypeError, r"shape \(1, 2, 3\)"),
    (torch.ones(3, dtype=torch.long, device="meta"), TypeError, "meta device, which holds no num"),
    (torch.ones(3, dtype=torch.long).to_sparse(), TypeError, "must hold integer ids"),
    (np.ones((2, 3)), TypeError, r"an array of float64, shape \(2, 3\)"),
    (np.array([["a", "b"]]), TypeError, r"an array of <U1, shape \(1, 2\)"),
    (np.ma.array([5, 6], mask=[False, True]), TypeError, "found an array of int64"),
    (pd.DataFrame({"a": [5]}), TypeError, r"\(DataFrame\)"),
    (np.array([]), ValueError, "no prompt was given"),
    (torch.ones(0, 3, dtype=torch.long), ValueError, "no prompt was given"),
    (torch.ones(1, 0, dtype=torch.long), ValueError, "prompt 0 is empty"),
    ({"input_ids": []}, ValueError, "prompt 0 is empty"),
    (["the cat", ""], ValueError, "prompt 1 is empty"),
    ([5, -100], ValueError, r"holds id -100; the model's ids are 0\.\.299"),
    ({"input_ids": "the cat"}, TypeError, "input_ids must be a list, array or tensor"),
    ({"input_ids": [5], "position_ids": [9]}, ValueError, "brings position_ids, which would not"),
    ({"input_ids": [5], "attention_mask": [1, 1]}, ValueError, "must have the shape of input_ids"),
    ({"input_ids": [[5]], "attention_mask": [[1], [1]]}, ValueError, "have the shape of input_ids"),
    ({"input_ids": [5], "attention_mask": [0]}, ValueError, "drops every token of prompt 0"),
    ({"input_ids": [5, 6], "attention_mask": [1, -9.5]}, ValueError, r"must hold 0 \(padding\)"),
    ({"input_ids": [5], "attention_mask": "1"}, TypeError, "attention_mask must be a list"),
    ([{"input_ids": [[5], [6]]}], ValueError, "prompt 0 holds 2 prompts"),
    ([5, 6, PAD], ValueError, r"row 0 .* padded \(id 0\), .* whole output \(its attention_mask"),
    ([[5, 6], [PAD, 6]], ValueError, r"row 1 of the ids is padded"),
    (torch.tensor([[5, PAD]]), ValueError, r"row 0 of the ids is padded"),
    ([5, EOS, EOS], ValueError, r"row 0 of the ids is padded \(id 2\)"),
    ("the cat " * 64, ValueError, r"context holds 64; .* first token is BOS \(id 1\), put before"),
]  # fmt: skip


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("prompts", "error", "message"), REFUSED)
def test_everything_else_is_refused_by_name(
    tiny_text_model: Any, prompts: Any, error: type[Exception], message: str
) -> None:
    from mechprobe.models import token_ids

    with pytest.raises(error, match=message):
        token_ids(tiny_text_model, prompts)


def test_ids_that_look_padded_are_taken_where_a_mask_says_so(tiny_text_model: Any) -> None:
    from mechprobe.models import token_ids

    assert token_ids(tiny_text_model, ONES) == [[5, 0]]
    assert token_ids(tiny_text_model, [5, PAD, 6]) == [[5, PAD, 6]]


def test_ids_of_a_model_without_tokenizer_are_taken_as_they_are(tiny_model: Any) -> None:
    from mechprobe.models import token_ids

    assert token_ids(tiny_model, torch.tensor([[5, 0, 0]])) == [[5, 0, 0]]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model of its own, with a chat template, whose padding is its EOS."""
    from mechprobe.models import load_model
    from tests.tiny import save_tiny

    model = load_model(save_tiny(tmp_path_factory.mktemp("chat"), tokenizer=True), device="cpu")
    tokenizer: Any = getattr(model, "tokenizer")  # noqa: B009
    tokenizer.pad_token = "<eos>"
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}"
        "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return model


def test_padding_that_is_also_eos(chatty: Any) -> None:
    """One may be text: with a warning at the end. Two in a row are padding."""
    from mechprobe.models import token_ids

    for ids in ([[5, 6], [5, EOS]], torch.tensor([[5, EOS]]), [EOS, 5]):
        with pytest.warns(UserWarning, match=r"begins or ends with id 2, .* also the padding"):
            token_ids(chatty, ids)
    for ids in ([[5, EOS, EOS]], torch.tensor([[EOS, EOS, 5], [EOS, EOS, 6]]), [EOS, EOS]):
        with pytest.raises(ValueError, match=r"row 0 of the ids is padded \(id 2\)"):
            token_ids(chatty, ids)
    encoding = chatty.tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert token_ids(chatty, encoding) == [chatty.tokenizer(t)["input_ids"] for t in TEXTS]
    assert token_ids(chatty, [5, EOS, EOS, 6]) == [[5, EOS, EOS, 6]]


def test_a_bos_that_is_also_padding_and_eos_begins_a_text(chatty: Any) -> None:
    """GPT-2's tokenizer has one token for all three."""
    from mechprobe.models import token_ids

    tokenizer = chatty.tokenizer
    before = tokenizer.bos_token
    tokenizer.bos_token = "<eos>"
    try:
        for ids in ([[EOS, 5], [EOS, 6]], [[EOS]]):
            assert token_ids(chatty, ids) == ids
        with pytest.raises(ValueError, match=r"row 0 of the ids is padded \(id 2\)"):
            token_ids(chatty, [[EOS, EOS, 5], [EOS, 5, 6]])
    finally:
        tokenizer.bos_token = before


HELLO = {"role": "user", "content": "the cat"}
FIRM = {"role": "system", "content": "sat"}


def test_chat_messages_are_the_chat_prompt(chatty: Any) -> None:
    import mechprobe as mp
    from mechprobe.models import token_ids

    alone = token_ids(chatty, mp.chat_prompt(chatty, "the cat"))
    both = token_ids(chatty, mp.chat_prompt(chatty, "the cat", system="sat", answer_start=" on"))
    begun = [FIRM, HELLO, {"role": "assistant", "content": " on"}]
    assert token_ids(chatty, [HELLO]) == token_ids(chatty, (HELLO,)) == alone
    assert token_ids(chatty, begun) == both
    assert token_ids(chatty, [[HELLO], begun]) == alone + both
    assert token_ids(chatty, [HELLO], prepend_bos=False) == [alone[0][1:]]
    assert chatty.tokenizer.decode(both[0]) == "<bos>[system]sat[user]the cat[assistant] on"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "tool", "content": "x"}], "template of this model refuses .* no tools"),
        ([{"role": "assistant", "content": "x"}], "begins without a question"),
        ([HELLO, {"role": "assistant", "content": None}], "or not with text"),
    ],
)
def test_chats_that_cannot_be_read(chatty: Any, messages: Any, message: str) -> None:
    from mechprobe.models import token_ids

    with pytest.raises(ValueError, match=message):
        token_ids(chatty, messages)


def test_a_chat_needs_a_template(tiny_text_model: Any, tiny_model: Any) -> None:
    from mechprobe.models import token_ids

    with pytest.raises(ValueError, match="has no chat template"):
        token_ids(tiny_text_model, [HELLO])
    with pytest.raises(ValueError, match="no tokenizer, so a chat message"):
        token_ids(tiny_model, [HELLO])


@pytest.mark.parametrize(("text", "n_bos"), [("cat", 0), ("<bos>cat", 1), ("<bos><bos>cat", 2)])
def test_only_a_bos_that_was_added_is_taken_away(tiny_text_model: Any, text: str, n_bos: int) -> None:
    from mechprobe.models import token_ids

    own = tiny_text_model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert own.count(BOS) == n_bos
    assert token_ids(tiny_text_model, text, prepend_bos=False) == [own]
    assert token_ids(tiny_text_model, text) == [own if n_bos else [BOS, *own]]


@pytest.fixture
def strange_torch() -> Iterator[None]:
    """Defaults of torch that a notebook may have left behind."""
    dtype = torch.get_default_dtype()
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float16)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(dtype)


@pytest.mark.usefixtures("strange_torch")
def test_torchs_defaults_do_not_come_in(tiny_text_model: Any) -> None:
    from mechprobe.models import batches, token_ids

    ids = token_ids(tiny_text_model, ["the cat", "the cat sat"])
    assert ids[0][0] == BOS
    (batch,) = batches(tiny_text_model, ids)
    assert batch.ids.device.type == "cpu"
    assert batch.ids.dtype == torch.int64
    assert batch.mask is not None
    assert batch.mask.sum(-1).tolist() == [len(row) for row in ids]
