"""Files appear whole or not at all: no room, kills, links, permissions, writers at once."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_head_results import scores_data, scores_of

SIZES = np.unique(np.geomspace(1, 60_000, 20).astype(int)).tolist()


def task() -> Any:
    from mechprobe import tasks

    return tasks.select_and_copy(40, seed=0)


def page(path: Path) -> object:
    return scores_of(scores_data()).html(path)


def netcdf(path: Path) -> object:
    return scores_of(scores_data()).save(path)

    world = worlds.Counter(2)
    walks = world.random_walks(40, np.random.default_rng(0))
    recipe = worlds.Recipe(steps=2, n_layers=1, n_heads=1, d_model=16)
    return worlds.train_sequence_model(world, walks, path.parent / "made", recipe=recipe, progress=False)


WRITERS: dict[str, Callable[[Path], object]] = {
    "r.nc": netcdf,
    "r.html": page,
    "t.jsonl.gz": lambda path: task().save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_room_at_any_size(name: str, tmp_path: Path) -> None:
    """In a child whose files may not be larger: the interpreter lives, the old file is as it was."""
    path = tmp_path / name
    WRITERS[name](path)
    old = path.read_bytes()
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.test_files import WRITERS\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "write, path = WRITERS[sys.argv[1]], Path(sys.argv[2])\n"
        "for size in map(int, sys.argv[3:]):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        write(path)\n"
        "        print(size, 'written')\n"
        "    except OSError as error:\n"
        "        print(size, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(path), *map(str, SIZES)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    told = done.stdout.splitlines()
    assert len(told) == len(SIZES)
    for size, line in zip(SIZES, told, strict=True):
        expected = "written" if size >= len(old) else f"could not write {path}: File too large; nothing was"
        assert line.startswith(f"{size} {expected}")
    assert any("could not" in line for line in told)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert len(path.read_bytes()) == len(old)


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "r.nc"
    code = (
        "import os, sys, signal\n"
        "from mechprobe import files\n"
        "files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_whole(sys.argv[1], b'half')\n"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    assert not path.exists()
    netcdf(path)
    assert [p.name for p in tmp_path.iterdir()] == ["r.nc"]


def test_permissions_and_links_are_as_they_were(tmp_path: Path) -> None:
    from mechprobe.files import write_whole

    place, link = tmp_path / "there" / "r.nc", tmp_path / "link.nc"
    place.parent.mkdir()
    mask = os.umask(0o027)
    try:
        write_whole(place, b"one")
    finally:
        os.umask(mask)
    assert place.stat().st_mode & 0o777 == 0o640
    place.chmod(0o604)
    link.symlink_to(place)
    assert write_whole(link, b"two") == link
    assert link.is_symlink()
    assert place.read_bytes() == b"two"
    assert place.stat().st_mode & 0o777 == 0o604


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each sees its file or another's, never none and never a mixture; none is cleared by another."""
    from mechprobe.files import write_whole

    path, wrong = tmp_path / "x", list[object]()
    write_whole(path, b"0" * 5000)

    def write(i: int) -> None:
        try:
            for _ in range(40):
                write_whole(path, str(i).encode() * 5000)
                found = path.read_bytes()
                if len(found) != 5000 or len(set(found)) != 1:
                    wrong.append(len(found))
        except OSError as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_kills_at_random_lose_nothing(tmp_path: Path) -> None:
    """A child that saves one of two results again and again is killed at any moment."""
    import mechprobe as mp

    path, rng = tmp_path / "r.nc", np.random.default_rng(0)
    code = (
        "import sys\n"
        "from tests.test_head_results import scores_data, scores_of\n"
        "data = scores_data()\n"
        "both = [scores_of(data), scores_of(data.isel(example=slice(0, 120)))]\n"
        "both[0].save(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for one in both:\n"
        "        one.save(sys.argv[1])\n"
    )
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(float(rng.uniform(0.01, 0.3)))
        child.kill()
        child.wait()
        child.stdout.close()
        assert mp.load_result(path).data.sizes["example"] in {120, 240}
    netcdf(path)
    assert [p.name for p in tmp_path.iterdir()] == ["r.nc"]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"could not write .*r\.nc: No such file or directory"):
        netcdf(tmp_path / "none" / "r.nc")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
