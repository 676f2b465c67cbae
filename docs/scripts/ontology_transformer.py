"""What a small transformer learns of `tasks.ontology` from 20,000 questions and their labels alone.

python docs/scripts/ontology_transformer.py 20064 4
"""

import re
import sys

import numpy as np
import torch
from torch import Tensor, nn

from mechprobe.stats import accuracy_interval
from mechprobe.tasks import Task, ontology

WIDTH, HEADS, LAYERS, BATCH = 64, 4, 2, 64


class Reader(nn.Module):
    """Words, positions, a few layers, and a decision at the last word."""

    def __init__(self, n_words: int, n_places: int) -> None:
        """Start from random weights."""
        super().__init__()
        self.words, self.places = nn.Embedding(n_words, WIDTH), nn.Embedding(n_places, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.decide = nn.Linear(WIDTH, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits of both answers; 0 fills up on the left."""
        x = self.words(ids) + self.places.weight[-ids.shape[1] :]
        return self.decide(self.layers(x, src_key_padding_mask=ids == 0)[:, -1])


def affirmed(n: int, steps: range | int, seed: int) -> Task:
    """Return the affirmed half of ``2 n`` questions: the other half have the opposite answers."""
    task = ontology(2 * n, steps, range(6), seed=seed)
    return task.take([i for i, e in enumerate(task) if e.statement and " not " not in e.text(e.statement)])


def encoded(task: Task, known: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Return words as numbers, filled up on the left, and answers; words that are new get a number."""
    texts = [re.findall(r"\w+|[.:]", e.prompt.lower()) for e in task]
    ids = torch.zeros(len(task), max(map(len, texts)), dtype=torch.long)
    for row, words in zip(ids, texts, strict=True):
        row[-len(words) :] = torch.tensor([known.setdefault(w, len(known) + 1) for w in words])
    return ids, torch.tensor([e.answer for e in task])


def right_on(reader: Reader, ids: Tensor, answers: Tensor) -> np.ndarray:
    """Return on which questions it is right."""
    reader.eval()
    with torch.no_grad():
        said = torch.cat([reader(part).argmax(1) for part in ids.split(256)])
    return (said == answers).numpy()


def main(n: int, epochs: int, steps: range | int) -> None:
    """Learn from ``n`` questions and print a row of the table for 1,920 of new pairs of theories."""
    torch.manual_seed(0)
    known: dict[str, int] = {}
    train, test = affirmed(n, steps, 1), affirmed(1920, steps, 2)
    (ids, answers), tried = encoded(train, known), encoded(test, known)
    reader = Reader(len(known) + 1, max(ids.shape[1], tried[0].shape[1]))
    optimizer = torch.optim.AdamW(reader.parameters(), 1e-3, weight_decay=0.01)
    n_batches = epochs * len(ids) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=n_batches + epochs)
    for epoch in range(epochs):
        reader.train()
        for some in torch.randperm(len(ids)).split(BATCH):
            loss = nn.functional.cross_entropy(reader(ids[some]), answers[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        learnt = right_on(reader, ids[:2000], answers[:2000]).mean()
        value, low, high = accuracy_interval(right_on(reader, *tried), test.design.group)
        print(
            f"| steps {steps}, epoch {epoch + 1} of {epochs}: on what it learnt from {learnt:.3f} "
            f"| {value:.3f} [{low:.3f}, {high:.3f}] |",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), range(2, 6))
    main(int(sys.argv[1]) // 4, int(sys.argv[2]), 1)
