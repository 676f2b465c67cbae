"""Published sets from the hub, with a local stand-in for it."""

import sys
from pathlib import Path
from typing import Any

import pytest

MCQA = {"subject": "birds", "question": "Which flies?", "choices": ["dog", "crow"], "answer": 1}
HUB_ROWS = {
    "mmlu": ("cais/mmlu", "all", "test", MCQA),
    "hellaswag": ("Rowan/hellaswag", "default", "validation", {
        "activity_label": "Cooking", "ctx": "Boil it.", "endings": ["a", "b"], "label": "1"}),
    "cosmos_qa": ("allenai/cosmos_qa", "default", "validation", {
        "context": "It rained.", "question": "Why?", "answer0": "a", "answer1": "b",
        "answer2": "c", "answer3": "d", "label": 1, "id": "x"}),
    "prontoqa": ("renma/ProntoQA", "default", "validation", {
        "context": "Max is a bif.", "question": "Is it true or false? Max is a bif.",
        "options": ["A) True", "B) False"], "answer": "A"}),
}  # fmt: skip


class _Hub:
    """Stands in for ``datasets.load_dataset``; gives rows of real tables, read from Parquet."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        import pandas as pd

        self.path = folder / "rows.parquet"
        pd.DataFrame(rows).to_parquet(self.path)
        self.asked: tuple[Any, ...] = ()

    def __call__(self, repository: str, config: str, *, split: str, revision: str) -> Any:
        import datasets

        self.asked = (repository, config, split, revision)
        return datasets.Dataset.from_parquet(str(self.path), cache_dir=str(self.path.parent / "cache"))


@pytest.mark.parametrize("name", HUB_ROWS)
def test_hub_sets_are_asked_for_at_a_pinned_commit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    from mechprobe.tasks import from_hub

    repository, config, split, row = HUB_ROWS[name]
    hub = _Hub(tmp_path, [row] * 3)
    monkeypatch.setattr("datasets.load_dataset", hub)
    task = from_hub(name, limit=2)
    assert len(task) == 2
    assert hub.asked[:3] == (repository, config, split)
    assert re.fullmatch(r"[0-9a-f]{40}", hub.asked[3])
    assert task.notes == (f"{repository} at {hub.asked[3]}, {split}",)
    assert task.examples[0].label == ("true" if name == "prontoqa" else "B")
    again = from_hub(name, "v2", split="train")
    assert hub.asked == (repository, config, "train", "v2")
    assert len(again) == 3
    if name != "prontoqa":
        n = len(task.examples[0].options)
        assert len(from_hub(name, extra_options=True).examples[0].options) == n + 2


def test_hub_requests_that_cannot_be_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.tasks import from_hub

    with pytest.raises(ValueError, match=r"from_hub knows mmlu, hellaswag.*found 'gsm8k'"):
        from_hub("gsm8k")
    with pytest.raises(ValueError, match="'prontoqa' has none"):
        from_hub("prontoqa", extra_options=True)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        from_hub("mmlu", limit=0)
    row = HUB_ROWS["hellaswag"][3] | {"label": ""}
    monkeypatch.setattr("datasets.load_dataset", _Hub(tmp_path, [row]))
    with pytest.raises(ValueError, match="Rowan/hellaswag, test, record 0: label '' is not among"):
        from_hub("hellaswag", split="test")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="from_hub needs the package 'datasets'"):
        from_hub("mmlu")
