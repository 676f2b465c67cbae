"""``logit_lens(screen=True)``: exact ids and ranks, and the cost of the rest in the result."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.compiler import compiler_or_skip
from tests.tiny import save_tiny

RAGGED = [[5, 9, 100, 42, 7, 3, 250], [8, 8, 31], [77], [4, 3, 2, 9]]
ERROR = ("screen_logit_bound", "screen_entropy_error", "screen_kl_error", "screen_cells")


def _lens(model: Any, prompts: Any = None, **options: Any) -> Any:
    import mechprobe as mp

    asked: dict[str, Any] = {"positions": None, "top_k": 5, "targets": [4, 9]}
    return mp.logit_lens(model, prompts or RAGGED, progress=False, **(asked | options))


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    compiler_or_skip()


@pytest.mark.parametrize("options", [{}, {"scratch_mb": 0.01}, {"targets": None}, {"layers": [0]}])
def test_ids_and_ranks_are_exact(tiny_model: Any, options: dict[str, Any]) -> None:
    plain, screened = (_lens(tiny_model, screen=x, **options).data for x in (False, True))
    names = ["top_token", "model_token", *(["target_rank"] if "target_rank" in plain else [])]
    for name in names:
        np.testing.assert_array_equal(screened[name], plain[name])
    bound = float(screened["screen_logit_bound"]) + 1e-5
    assert 0 < bound < 0.1
    for name in ("top_log_prob", "kl_to_final"):
        assert float(np.abs(screened[name] - plain[name]).max()) <= bound
    assert not set(ERROR) & set(plain)


def test_the_error_is_that_of_the_cells(tiny_model: Any) -> None:
    """Prompts of two positions: all of them are compared."""
    prompts = [[7, 8], [5, 100]]
    plain, screened = (
        _lens(tiny_model, prompts, screen=x, batch_size=1).data for x in (False, True)
    )
    assert float(screened["screen_cells"]) == 4 * plain.sizes["layer"]
    for name, error in (("entropy", ERROR[1]), ("kl_to_final", ERROR[2])):
        largest = float(np.abs(screened[name] - plain[name]).max())
        assert float(screened[error]) == pytest.approx(largest, abs=2e-6)


def test_the_error_is_saved(tiny_model: Any, tmp_path: Path) -> None:
    import mechprobe as mp

    result = _lens(tiny_model, screen=True)
    loaded = mp.load_result(result.save(tmp_path / "r.nc"))
    for name in ERROR:
        assert float(loaded.data[name]) == float(result.data[name])
        assert loaded.data[name].attrs["long_name"]
    assert result.provenance.arguments["screen"] is True


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compute_dtype": "bfloat16"}, "rounds and repairs, compute_dtype only rounds"),
        ({"top_k": 65}, "at most 64 ids and follows at most 16 targets; found top_k=65"),
        ({"targets": list(range(17))}, "found top_k=5 and 17 targets"),
    ],
)
def test_too_much_is_refused(tiny_model: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _lens(tiny_model, screen=True, **change)


def test_what_cannot_be_screened_is_refused(
    tiny: Any, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    screening = import_module("mechprobe.lens.screening")
    capped, half = tiny("gemma2"), tiny("llama", dtype=torch.bfloat16)
    with pytest.raises(NotImplementedError, match="adds a bias to its logits, or caps or scales"):
        _lens(capped, screen=True)
    with pytest.raises(NotImplementedError, match=r"is torch\.bfloat16 on cpu, not float32"):
        _lens(half, screen=True)

    def none() -> None:
        msg = "no C compiler was found (CC, cc, gcc, clang)."
        raise RuntimeError(msg)

    monkeypatch.setattr(screening, "reductions", none)
    with pytest.raises(NotImplementedError, match=r"its part in C cannot be compiled .no C"):
        _lens(tiny_model, screen=True)


@pytest.mark.model
def test_the_packaged_model_is_read_in_the_order_of_float64(smollm2: Any) -> None:
    """Every cell of 40 positions, all layers, against float64 products of the same rows."""
    from mechprobe.kernels import readout
    from mechprobe.kernels.native import reductions
    from mechprobe.kernels.screen import screen_of
    from mechprobe.kernels.screened import screened_readout
    from mechprobe.lens.logit_lens import lens_reader
    from mechprobe.models import looking_at

    ids = smollm2.to_tokens("The quick brown fox jumps over the lazy dog. " * 4)[:, :41]
    with looking_at(smollm2) as session:
        reader = lens_reader(session, None, "resid_post", "final", None)
        rows = reader.rows(ids[:, :-1], torch.arange(40)[None], check=True)
        rows, W_U = rows[:, 0], reader.path.W_U
    targets = ids[0, 1:, None]
    found, _ = screened_readout(rows, screen_of(W_U), reductions(), k=10, targets=targets)
    want = readout(rows.double(), W_U.double(), k=10, targets=targets)
    assert torch.equal(found.top_id, want.top_id)
    assert torch.equal(found.target_rank, want.target_rank)
    for name in ("log_z", "entropy", "top_log_prob", "target_log_prob"):
        error = (getattr(found, name)[0] - getattr(want, name)[0]).abs().max()
        assert float(error) < 5e-5  # as exact as the compiled reductions have to be


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """A model that no other test has."""
    from mechprobe.models import load_model

    return load_model(save_tiny(tmp_path / "own", "llama"), device="cpu", dtype=torch.float32)


def test_the_rounded_unembedding_is_kept_with_the_model(own: Any) -> None:
    from mechprobe.lens.screening import Screening
    from mechprobe.models import looking_at

    def made(*, across: bool = False) -> Any:
        with looking_at(own) as session:
            path = session.unembedding
            if across:
                session.__dict__["unembedding"] = replace(path, W_U=path.W_U.contiguous())
            return Screening(session, 5)._screen

    first = made()
    assert made() is first
    # Columns that lie across each other are copied, and not kept.
    copies = [first, made(across=True), made(across=True)]
    assert len(set(map(id, copies))) == 3


@pytest.mark.parametrize("past_its_count", [False, True])
def test_weights_that_changed_are_rounded_again(own: Any, *, past_its_count: bool) -> None:
    """Also where they were written to behind torch's back."""
    before = _lens(own, screen=True).data
    weight = own.W_U.detach()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        noise = torch.randn(weight.shape, generator=generator) * 0.1
        if past_its_count:
            np.asarray(weight)[...] += noise.numpy()
        else:
            weight += noise
    screened, plain = (_lens(own, screen=x).data for x in (True, False))
    np.testing.assert_array_equal(screened["top_token"], plain["top_token"])
    assert bool((screened["top_token"] != before["top_token"]).any())


def test_the_rounded_unembedding_goes_with_the_model(tmp_path: Path) -> None:
    import gc
    import weakref

    from mechprobe.models import load_model, session

    gc.collect()
    n_before = len(session._KEPT)
    folder = save_tiny(tmp_path / "model", "llama")
    model = load_model(folder, device="cpu", dtype=torch.float32)
    _lens(model, screen=True)
    assert len(session._KEPT) == n_before + 1
    screen = weakref.ref(session._KEPT[model][1]["screen"])
    assert screen() is not None
    del model
    gc.collect()
    assert len(session._KEPT) == n_before
    assert screen() is None
