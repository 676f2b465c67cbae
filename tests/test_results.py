"""Results: saved, read back, refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import xarray as xr


@pytest.fixture(scope="module")
def lens(tiny_text_model: Any) -> Any:
    import mechprobe as mp

    return mp.logit_lens(
        tiny_text_model, ["the cat", "<script>alert(1)</script> \U0001f420"], positions=None,
        top_k=3, targets=["a"], progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def every_kind(lens: Any, tiny_text_model: Any) -> list[Any]:
    import mechprobe as mp

    return [
        lens,
        mp.generate_with_lens(tiny_text_model, "the dog", max_new_tokens=3, progress=False),
        mp.vocabulary_neighbors(tiny_text_model, {"a": 1.0, " seahorse": -0.5}, k=4),
        mp.vocabulary_neighbors(tiny_text_model, "the cat", at=(1, -1), k=4, metric="cosine"),
        mp.expressible(tiny_text_model, " seahorse"),
        mp.vocabulary_neighbors(tiny_text_model, {"cat\x00": 1.0}, k=2),
        mp.expressible(tiny_text_model, "cat\x00"),
    ]


def test_every_kind_survives_a_file(every_kind: list[Any], tmp_path: Path) -> None:
    import mechprobe as mp

    for i, result in enumerate(every_kind):
        path = result.save(tmp_path / f"{i}.nc")
        read = mp.load_result(path)
        assert type(read) is type(result)
        assert read.data.identical(result.data)
        assert read.provenance == result.provenance
        assert not list(tmp_path.glob(f".{i}.nc*"))


def test_every_kind_shows_and_cites_itself(every_kind: list[Any]) -> None:
    for result in every_kind:
        assert type(result).__name__ in repr(result)
        assert "<script>alert" not in result._repr_html_()
        assert len(result._repr_html_()) < 100_000
        assert result.citation().startswith("@software{mechprobe")
        assert len(result.to_dataframe()) > 0
        record = json.loads(result.to_json())
        assert set(record) == {"schema", "data", "provenance"}
        assert record["schema"] == result.schema()


def test_long_table_leaves_out_cells_that_are_not_there(lens: Any) -> None:
    frame = lens.to_dataframe()
    assert len(frame) == int(lens.data["valid"].sum()) * 4 * 3
    assert (frame["top_token"] >= 0).all()


def test_files_that_are_no_results_are_refused(lens: Any, tmp_path: Path) -> None:
    import mechprobe as mp

    with pytest.raises(FileNotFoundError, match="there is no file"):
        mp.load_result(tmp_path / "none.nc")
    text = tmp_path / "text.nc"
    text.write_text("hello")
    with pytest.raises(ValueError, match="is not a result saved by mechprobe"):
        mp.load_result(text)
    plain = tmp_path / "plain.nc"
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(plain, engine="h5netcdf")
    with pytest.raises(ValueError, match="is not a result saved by mechprobe"):
        mp.load_result(plain)
    newer = tmp_path / "newer.nc"
    data = lens.data.copy()
    data.attrs = {"schema": "mechprobe/lens/99", "provenance": lens.provenance.to_json()}
    data.to_netcdf(newer, engine="h5netcdf")
    with pytest.raises(ValueError, match=r"schema 'mechprobe/lens/99'; this version .* reads"):
        mp.load_result(newer)
    broken = tmp_path / "broken.nc"
    data.attrs = {"schema": lens.schema(), "provenance": "{}"}
    data.to_netcdf(broken, engine="h5netcdf")
    with pytest.raises(ValueError, match="not a provenance record"):
        mp.load_result(broken)


def test_a_full_disk_while_saving_leaves_the_old_file(
    lens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lens.save(tmp_path / "a.nc")
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mechprobe.files.os.fsync", full)
    with pytest.raises(OSError, match=r"could not write .*No space left.*nothing was left behind"):
        lens.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_saving_into_no_folder_is_an_error(lens: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="could not write"):
        lens.save(tmp_path / "missing" / "a.nc")


def test_provenance_says_what_made_it(lens: Any) -> None:
    record = lens.provenance
    assert record.function == "mechprobe.logit_lens"
    assert record.arguments["targets"] == {"a": int(lens.data["target_token"].values[0, 0, 0])}
    assert record.versions["torch"]
    assert len(record.data_digest) == 64


def test_git_state_of_a_tree_and_of_none(tmp_path: Path) -> None:
    import subprocess

    from mechprobe.provenance import git_state

    assert git_state(tmp_path) == {}
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    state = git_state(tmp_path)
    assert len(str(state["commit"])) == 40
    assert state["dirty"] is False


def test_plot_of_a_prompt_that_is_not_there(lens: Any) -> None:
    with pytest.raises(IndexError, match="there is no prompt 5; this result has 2"):
        lens.plot(prompt=5)
