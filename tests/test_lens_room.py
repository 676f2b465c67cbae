"""The lens within a given memory."""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

RAGGED = [[5, 9, 100, 42, 7, 3, 250], [8, 8, 31], [77], [4, 3, 2, 9]]


def _lens(model: Any, prompts: Any = None, **options: Any) -> Any:
    import mechprobe as mp

    asked: dict[str, Any] = {"positions": None, "top_k": 5, "targets": [4, 9]}
    return mp.logit_lens(model, prompts or RAGGED, progress=False, **(asked | options))


def _compute(**options: Any) -> Any:
    import mechprobe as mp

    return mp.Compute(**options)


def _watch_readout(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Keep what every call of the kernel was given."""
    from mechprobe.kernels import readout

    calls: list[dict[str, Any]] = []

    def watched(rows: torch.Tensor, W_U: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append({"rows": rows, "W_U": W_U} | kwargs)
        return readout(rows, W_U, *args, **kwargs)

    monkeypatch.setattr(import_module("mechprobe.lens.lens"), "readout", watched)
    return calls


@pytest.mark.parametrize("scratch_mb", [1e-6, 1e-3, 0.01, 0.05, 300.0])
def test_less_memory_gives_the_same(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch, scratch_mb: float
) -> None:
    from mechprobe.kernels.readout import SCRATCH_BYTES

    whole = _lens(tiny_model, compute=_compute(batch_size=1)).data
    calls = _watch_readout(monkeypatch)
    tight = _lens(tiny_model, compute=_compute(scratch_mb=scratch_mb)).data
    for name in ("top_token", "target_rank", "valid", "token"):
        np.testing.assert_array_equal(tight[name], whole[name])
    for name in ("top_log_prob", "entropy", "kl_to_final", "target_log_prob"):
        np.testing.assert_allclose(tight[name], whole[name], atol=1e-5)
    longest = max(map(len, RAGGED)) * 4 * 32 * 4  # one prompt: entries, d_model, bytes
    for call in calls:
        assert call["rows"].nbytes <= max(0.4e6 * scratch_mb, longest)
        assert call["scratch_bytes"] == min(int(0.4e6 * scratch_mb), SCRATCH_BYTES)
    assert len(calls) == (1 if scratch_mb >= 0.05 else 4)


def test_residuals_and_logits_share_the_memory(tiny: Callable[..., Any]) -> None:
    """Of a model with 4 entries of 32 numbers: 512 bytes a position."""
    from mechprobe.lens.compute import memory_plan
    from mechprobe.lens.lens import lens_reader
    from mechprobe.models import looking_at

    with looking_at(tiny("llama")) as session:
        reader = lens_reader(session, None, "resid_post", "final", None)
    plan = memory_plan(reader, 0.512)
    assert (plan.positions, plan.tile_bytes) == (400, 204_800)
    assert memory_plan(reader, 1e-9).positions == 1
    # Bound by residuals, by tokens of the forward pass, and by neither.
    assert plan.batch_size([100, 50], [100, 50]) == 4
    assert plan.batch_size([500, 50], [1, 1]) == 2
    assert memory_plan(reader, 300.0).batch_size([100], [100]) is None


def test_fewer_positions_need_fewer_batches(tiny_model: Any, monkeypatch: Any) -> None:
    """What is not read is not kept: one position each fits where all positions do not."""
    calls = _watch_readout(monkeypatch)
    _lens(tiny_model, compute=_compute(scratch_mb=0.01))
    assert len(calls) == 4
    calls.clear()
    _lens(tiny_model, compute=_compute(scratch_mb=0.01), positions=-1)
    assert len(calls) == 1


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"scratch_mb": 0}, ValueError, "scratch_mb must be positive and finite; found 0. The default"),
    ({"scratch_mb": -1.5}, ValueError, "found -1.5"),
    ({"scratch_mb": math.inf}, ValueError, "found inf"),
    ({"scratch_mb": math.nan}, ValueError, "found nan"),
    ({"scratch_mb": "150"}, TypeError, "must be a number of megabytes; found '150'"),
    ({"scratch_mb": True}, TypeError, "found True"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1; found 0"),
    ({"batch_size": 2.0}, TypeError, "batch_size must be an integer or None; found 2.0"),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_values_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _compute(**change)


@pytest.mark.usefixtures("as_users_run_it")
def test_numpy_s_numbers_are_numbers_and_a_dictionary_is_no_compute(tiny_model: Any) -> None:
    """What is plainly meant is taken; what is not is refused by name."""
    own = _lens(tiny_model, compute=_compute(batch_size=np.int64(2), scratch_mb=np.float32(50)))
    assert own.provenance.arguments["compute"]["batch_size"] == 2
    with pytest.raises(TypeError, match=r"compute must be mp\.Compute\(.*found {'batch_size': 2}"):
        _lens(tiny_model, compute={"batch_size": 2})


def test_the_record_says_how_it_was_calculated(tiny_model: Any) -> None:
    plain = _lens(tiny_model)
    steps = _lens(tiny_model, compute=_compute(batch_size=2, compiled=False))
    told = steps.provenance.arguments["compute"]
    assert told == {"batch_size": 2, "scratch_mb": 300.0, "compiled": False}
    assert plain.provenance.arguments["compute"]["compiled"] is True
    assert steps.provenance.model["arithmetic"]["reductions"] == ["torch"]
    np.testing.assert_array_equal(steps.data["top_token"], plain.data["top_token"])
