"""The parent's end of a worker process."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

# Huge pages for every contender's heap: temporaries as large as TransformerLens' (12.6 MB) come and
# go slowly in pages of 4 kB.
_TUNABLES = "glibc.malloc.hugetlb=1"
# glibc before 2.38 cuts the room for an aligned block from a larger one and frees the scraps. While
# a scrap waits in a cache for small blocks, its neighbours stay apart and too small for the next
# such block; then TransformerLens grows by every temporary until the system kills it (24 GB at
# 8 x 256 tokens, in some runs and not in others). Without those caches it is as fast and stays at
# 2 GB; with temporaries outside the heap (mmap_threshold) it is 1.3 times slower.
_OWN_TUNABLES = {"transformer_lens": ":glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"}


class WorkerProcess:
    """A contender running elsewhere; use it in a ``with`` block.

    Args:
        kind: ``"lens"``, ``"heads"`` and so on.
        contender: Its name.
        model: What ``load_model`` takes.
        workload: Name of the workload.
        file: The input; mechprobe's worker writes it, the others read it.
    """

    def __init__(self, kind: str, contender: str, model: str, workload: str, file: Path) -> None:
        self.contender = contender
        # A file, not a pipe: nobody reads it while the worker runs, and a full pipe would stop it.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mechprobe.bench.worker", kind, contender, model, workload, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "GLIBC_TUNABLES": _TUNABLES + _OWN_TUNABLES.get(contender, "")},
        )

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self.end()

    def end(self) -> None:
        """Let the worker go, and its memory with it."""
        if not self._log.closed:
            # Closes the pipes and waits; at the end of its input a worker leaves by itself.
            self._process.communicate()
            self._log.close()

    def receive(self) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            RuntimeError: The worker failed or died; the message holds what it said last.
        """
        if self._process.stdout is None:
            msg = f"the worker of {self.contender} has no output pipe."
            raise RuntimeError(msg)
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            msg = f"contender {self.contender} failed: {answer['error']}"
            raise RuntimeError(msg)
        return answer

    def ask(self, **command: object) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises:
            RuntimeError: The worker failed or died.
        """
        if self._process.stdin is None:
            msg = f"the worker of {self.contender} has no input pipe."
            raise RuntimeError(msg)
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            msg = f"contender {self.contender} is gone: {self._last_words()}"
            raise RuntimeError(msg) from error
        return self.receive()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read().strip().splitlines()
        return f"its process ended with code {code} ({' | '.join(said[-3:]) or 'silently'})"
