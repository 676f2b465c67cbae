"""Attention of rows that continue the same prompts: what a prompt left is read once for all.

Keys and values of a prompt are multiplied with the queries of all its rows in one product, instead
of being copied to every row and read back by it. A row's scores over its prompt and over its own
words then go through one softmax.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Seats:
    """Rows in cells ``[prompt, kv_head, seat]``, as many seats as the fullest prompt needs.

    Attributes:
        cell_of_row: Cell of each row and kv head.
        row_of_cell: Row and kv head in each cell; any in an empty one.
    """

    cell_of_row: Int[Tensor, " row_kv"]
    row_of_cell: Int[Tensor, " cell"]

    def to(self, device: torch.device) -> "Seats":
        """Return the same on a device."""
        return Seats(self.cell_of_row.to(device), self.row_of_cell.to(device))


def forked_attention(
    query: Float[Tensor, "row head d_head"],
    keys: Float[Tensor, "prompt kv_head d_head pos"],
    values: Float[Tensor, "prompt kv_head pos d_value"],
    own_keys: Float[Tensor, "row kv_head own d_head"],
    own_values: Float[Tensor, "row kv_head own d_value"],
    seats: Seats,
    scaling: float,
    bias: Float[Tensor, "prompt 1 1 pos"] | None = None,
) -> Float[Tensor, "row head d_value"]:
    """Return what one query of each row reads from the row's prompt and its own words.

    Args:
        query: Heads that share keys stand next to each other.
        keys: Of the prompts.
        values: Of the prompts.
        own_keys: Of what each row has read since.
        own_values: Of what each row has read since.
        seats: Where the rows of each prompt sit together.
        scaling: What scores are multiplied with.
        bias: Added to the scores of prompts; -inf where one is padded.
    """
    n, n_heads, d_head = query.shape
    n_prompts, n_kv, _, n_pos = keys.shape
    each = n_heads // n_kv
    asked = (query * scaling).reshape(n * n_kv, each * d_head)
    seated = asked.index_select(0, seats.row_of_cell).view(n_prompts, n_kv, -1, d_head)
    shared = seated @ keys
    if bias is not None:
        shared += bias
    shared = shared.view(-1, each * n_pos).index_select(0, seats.cell_of_row)
    own = asked.view(n, n_kv, each, d_head) @ own_keys.transpose(2, 3)
    scores = torch.cat([shared.view(n, n_kv, each, n_pos), own], dim=-1)
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(dim=-1, dtype=wide).to(values.dtype)
    of_prompt = weights[..., :n_pos].reshape(n * n_kv, each * n_pos).index_select(0, seats.row_of_cell)
    read = of_prompt.view(n_prompts, n_kv, -1, n_pos) @ values
    found = read.view(-1, each * values.shape[-1]).index_select(0, seats.cell_of_row)
    found = found.view(n, n_kv, each, -1) + weights[..., n_pos:] @ own_values
    return found.view(n, n_heads, -1)
