"""The lens: what the model would say after every layer, and what it could say at all."""

from mechprobe.lens.generate import generate_with_lens as generate_with_lens
from mechprobe.lens.logit_lens import logit_lens as logit_lens
from mechprobe.lens.vocabulary import expressible as expressible
from mechprobe.lens.vocabulary import vocabulary_neighbors as vocabulary_neighbors
