"""One contender in a process of its own: ``mechprobe.bench.worker KIND NAME MODEL WORKLOAD FILE``.

Reads one JSON command a line from standard input and answers each with one JSON line. Alone in its
process, a contender cannot warm another's caches, keep its memory or leave a switch behind.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from mechprobe.bench.contender import AbsentError, Contender
from mechprobe.bench.memory import peak_bytes, reset_peak
from mechprobe.bench.pieces import taken_away

Message = dict[str, Any]


# Modules that hold the contenders of a benchmark; only one benchmark's imports are paid for.
_HOMES = {
    "lens": ("lens_contenders", "lens_peers"),
    "generation": ("generation_contenders",),
    "heads": ("heads_contenders",),
    "world": ("world_contenders",),
}


def contenders(kind: str) -> Mapping[str, Callable[[str], Contender]]:
    """Return the contenders of a benchmark."""
    found: dict[str, Callable[[str], Contender]] = {}
    for home in _HOMES[kind]:
        found |= import_module(f"mechprobe.bench.{home}").CONTENDERS
    return found


class Worker:
    """A loaded contender and what is known of its memory."""

    def __init__(self, kind: str, name: str, model: str, work: str, file: str) -> None:
        self.contender = contenders(kind)[taken_away(name)](model)
        self.contender.draw(work, Path(file))
        self.contender.take(Path(file))
        # Weights are mapped from their file and come into memory when first read; the body alone
        # reads a few rows of a tied unembedding, whose other 113 MB are nobody's extra memory.
        for weight in self.contender.model.parameters():
            weight.detach().sum()
        # Measured before the contender ever ran, so that nothing it leaves behind hides in it.
        self.contender.forward()
        gc.collect()
        self.resettable = reset_peak()
        self.contender.forward()
        self.forward_peak = peak_bytes()

    def ready(self) -> Message:
        """Say what this contender gives and how it is run."""
        import torch

        return {"outputs": self.contender.outputs, "threads": torch.get_num_threads()}

    def run(self, save: str | None) -> Message:
        """Run once; time it, measure its memory, and save its outputs where asked to."""
        gc.collect()
        reset_peak()
        clock = self.contender.clock
        with self.contender.around():
            start = clock()
            result = self.contender.run()
            seconds = clock() - start
        extra = peak_bytes() - self.forward_peak - self.contender.n_bytes(result)
        if save is not None:
            import numpy as np

            arrays: Any = self.contender.arrays(result)
            np.savez(save, **arrays)
        return {"seconds": seconds, "extra_bytes": extra if self.resettable else None}

    def exact_logits(self, cells: str, save: str) -> Message:
        """Write float64 logits of the cells in a file."""
        import numpy as np

        from mechprobe.bench.lens_contenders import Mechprobe

        if not isinstance(self.contender, Mechprobe):
            msg = "only the lens of mechprobe gives exact logits."
            raise TypeError(msg)
        np.save(save, self.contender.exact_logits(np.load(cells)))
        return {}

    def answer(self, command: Message) -> Message:
        """Carry out one command."""
        if command["do"] == "run":
            return self.run(command.get("save"))
        return self.exact_logits(command["cells"], command["save"])


def serve(arguments: list[str], commands: IO[str], answers: IO[str]) -> None:
    """Load the contender and answer commands until there are no more."""

    def say(message: Message) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        worker = Worker(*arguments)
        say(worker.ready())
        for line in commands:
            say(worker.answer(json.loads(line)))
    except AbsentError as reason:
        say({"absent": str(reason)})
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise


def main() -> None:
    """Serve on the process's own standard streams."""
    # Libraries print to standard output; the answers go where only they can.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.argv[1:], sys.stdin, answers)


if __name__ == "__main__":
    main()
