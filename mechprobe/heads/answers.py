"""The model's own answer to a task, as it is and with some of its heads changed."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mechprobe.heads.places import SPELLINGS, Place
from mechprobe.heads.rows import keep_at
from mechprobe.models import Batch, Session, batches, last_stream, run
from mechprobe.models.protocol import Edit

Answers = npt.NDArray[np.float64]
# An edit of one micro-batch, for which it is made: its prompts, and the batch.
Edits = Callable[[Batch], Mapping[str, Edit]]

_PROVED_ON = 64  # tokens


class AnswerReader:
    """Log-probabilities of the candidates at the last prompt token.

    The read-out path is compared with the model's own logits once, at the first batch.

    Args:
        session: The model.
        found: Tokens of every example.
    """

    def __init__(self, session: Session, found: list[Place]) -> None:
        self.session, self.found = session, found
        self._path = session.unembedding
        self._proved = False

    def read(
        self,
        edits: Edits | None = None,
        *,
        batch_size: int | None = None,
        done: Callable[[int], object] = lambda n: n,
    ) -> Answers:
        """Return log-probabilities (example, candidate, spelling).

        Args:
            edits: Makes the changes for each micro-batch; none by default.
            batch_size: Prompts per forward pass.
            done: Told how many prompts a batch held.
        """
        width = max(len(p.answers) for p in self.found)
        out = np.full((len(self.found), width, len(SPELLINGS)), np.nan)
        hook = last_stream(self.session.model)
        for batch in batches(self.session.model, [p.ids for p in self.found], batch_size):
            kept: dict[int, Tensor] = {}
            ends = torch.tensor([len(self.found[i].ids) - 1 for i in batch.index])
            edit = edits(batch) if edits else None
            keep = keep_at(kept, 0, ends)
            run(self.session, batch.ids, {hook: keep}, edit=edit, mask=batch.mask)
            self.fill(out, batch.index, self.log_probs(kept[0], batch))
            done(len(batch.index))
        return out

    def fill(self, out: Answers, index: list[int], log_probs: Tensor) -> None:
        """Put the candidates' log-probabilities of a batch into ``out``."""
        for row, i in enumerate(index):
            for c, answer in enumerate(self.found[i].answers):
                for s, spelling in enumerate(SPELLINGS):
                    if answer[spelling] >= 0:
                        out[i, c, s] = float(log_probs[row, answer[spelling]])

    def log_probs(self, resid: Tensor, batch: Batch) -> Tensor:
        """Return log-probabilities of all ids from last residuals.

        Raises:
            ValueError: Our read-out path is not the model's.
        """
        if not self._proved:
            self._prove(batch.ids[:1, :_PROVED_ON])
        exact = torch.promote_types(self._path.W_U.dtype, torch.float32)
        return self._path.logits(resid).to(exact).log_softmax(-1).cpu()

    def _prove(self, ids: Tensor) -> None:
        kept: dict[int, Tensor] = {}
        keep = keep_at(kept, 0, torch.tensor([ids.shape[1] - 1]))
        hook = last_stream(self.session.model)
        own = run(self.session, ids, {hook: keep}, logits="last").logits
        assert own is not None
        own = own[:, -1].to(self._path.W_U.device)
        self._path.require_identity(kept[0], own, self.session.name)
        self._proved = True


def likelier_spelling(answers: Answers) -> int:
    """Return the index of the spelling that the model gives more probability (a tie: with a space).

    No label is used: the spelling that is right more often on these questions would flatter the
    model as it is, and make whatever is changed in it look harmful.
    """
    mass = np.nansum(np.exp(answers), axis=1).mean(0)
    # A spelling in which some candidate is no single token cannot answer every question.
    exists = ~np.isnan(answers).all(-1)
    known = ~np.isnan(answers[exists]).any(0)
    return int(np.argmax(np.where(known, mass, -1.0)))


def choices(log_probs: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the most likely candidate of each example; missing ones are never chosen."""
    return np.where(np.isnan(log_probs), -np.inf, log_probs).argmax(1)


def margins(log_probs: npt.NDArray[np.float64], right: npt.NDArray[np.int64]) -> Answers:
    """Return the logit of the right answer less that of the best other one."""
    z = np.where(np.isnan(log_probs), -np.inf, log_probs)
    own = np.take_along_axis(z, right[:, None], 1)[:, 0]
    others = z.copy()
    np.put_along_axis(others, right[:, None], -np.inf, 1)
    return own - others.max(1)
