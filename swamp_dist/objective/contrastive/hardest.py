"""Form `hardest`: the hinge with the most violating negative, both ways (paper, eq. 1).

Only 2B of the B^2 similarities have a gradient. So the matrix is searched without one, as a single product
y = b . a^T: its rows give the hardest a of each b, its columns the hardest b of each a. The chosen rows are
then fetched from the ranks that own them, and the loss meets those alone.

Shape letters: b pairs on this rank, B pairs in the global batch, D embedding size, C columns of a block. This
rank holds pairs [rank * b, (rank + 1) * b) of the batch; y_ij is the similarity of b_i and a_j.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from swamp_dist.distributed import World, best_over_ranks
from swamp_dist.objective.contrastive.columns import Block
from swamp_dist.objective.products import Precision, multiply
from swamp_dist.row_exchange import fetch_rows

NoNegatives = Callable[[slice], Tensor]
"""Of a slice of the columns, (b, C): True where a column is no negative of my row. Its own column need not be
told."""
_ROWS_AT_ONCE = 32
"""Rows whose largest value a CPU finds first, so that few are searched for where it is."""
_FEW = 2**16
"""Values up to which the columns of a block are searched by one call, which then takes less than several."""


class Best(NamedTuple):
    """The most similar negative of some pairs, (n,) each."""

    value: Tensor
    """-inf where a pair has no negative."""
    position: Tensor
    """Where in the global batch it is; the lowest of equals."""


class Hardest(NamedTuple):
    """What `hardest_negative` found on this rank; means over ranks are those of the batch."""

    loss: Tensor
    """0-d, with gradient."""
    hardest: Tensor
    """0-d: mean over both directions of the largest similarity with a negative, 0 where there is none."""


def hardest_negative(
    a: Tensor,
    b: Tensor,
    found: tuple[Best, Best],
    margin: float,
    world: World,
) -> Hardest:
    """Mean over my pairs i of [m + max_j x_ij - x_ii]+ + [m + max_j x_ji - x_ii]+, j != i.

    A nan of any negative reaches the loss. A direction in which a pair has no negative gives 0. Ties go to
    the lowest j, whatever the blocks and ranks.

    Args:
        a, b: (b, D) my rows; averaged over ranks, what the loss does to parameters is the batch's gradient.
        found: the hardest a of each of my b, and the hardest b of each of my a, as `search` gives them.
        margin: m.
        world: all ranks, equal b on each.
    """
    of_b, of_a = found
    # 1. Their rows, of the one modality for the other.
    for_b, for_a = _fetch(a, b, of_b.position, of_a.position, world)
    # 2. The loss of three similarities per pair, with gradient.
    own = (a * b).sum(1)
    scores = torch.stack(((a * for_a).sum(1), (b * for_b).sum(1)))
    is_alone = torch.stack((of_a.value, of_b.value)) == -torch.inf
    loss = (margin + scores - own).masked_fill(is_alone, 0).relu().sum(0).mean()
    return Hardest(loss, scores.detach().masked_fill(is_alone, 0).mean())


def _fetch(a: Tensor, b: Tensor, of_b: Tensor, of_a: Tensor, world: World) -> tuple[Tensor, Tensor]:
    """Rows (b, D) of the a at positions `of_b` and of the b at `of_a`, (b,) each, in one exchange."""
    count = len(a)
    # Positions among the pairs of all ranks, then among their rows: each holds its a and after them its b.
    pairs = torch.cat((of_b, of_a))
    wanted = pairs if world.size == 1 else pairs + pairs // count * count
    wanted[count:] += count
    fetched = fetch_rows(torch.cat((a, b)), wanted, world)
    return fetched[:count], fetched[count:]


@torch.no_grad()
def search(
    rows: Tensor,
    columns: Iterable[Block],
    world: World,
    no_negatives: NoNegatives | None = None,
    precision: Precision = "ieee",
) -> tuple[Best, Best]:
    """The hardest a of each of my b, and the hardest b, on whichever rank, of each of my a.

    A pair without a negative is given itself. Two all-reduces over B (`best_over_ranks`).

    Args:
        rows: (b, D) my b.
        columns: the a of all ranks, each once, in blocks and in any order; not read for a gradient.
        world: all ranks, equal b on each.
        no_negatives: pairs that are left out, alike whichever rank asks; None for none.
        precision: of the product; the values that are found are off by its rounding.
    """
    count, first_row = len(rows), world.rank * len(rows)
    of_rows: Best | None = None
    of_columns: dict[int, Best] = {}  # by the first column of a block
    for start, block in columns:
        here = slice(start, start + len(block))
        scores = multiply(rows, block.t(), precision)
        scores.diagonal(first_row - start).fill_(-torch.inf)  # empty where none of my pairs is in the block
        if no_negatives is not None:
            scores.masked_fill_(no_negatives(here), -torch.inf)
        value, index = scores.max(dim=1)  # the first of equals
        found = Best(value, index + start)
        of_rows = found if of_rows is None else _better(of_rows, found)
        value, index = _first_of_columns(scores)
        of_columns[start] = Best(value, index + first_row)
    assert of_rows is not None
    parts = [of_columns[start] for start in sorted(of_columns)]
    whole = parts[0] if len(parts) == 1 else Best(*(torch.cat(x) for x in zip(*parts, strict=True)))
    of_mine = Best(*(x[first_row : first_row + count] for x in best_over_ranks(*whole, world)))
    own = torch.arange(first_row, first_row + count, device=rows.device)
    return _or_itself(of_rows, own), _or_itself(of_mine, own)


def _better(known: Best, found: Best) -> Best:
    """Of each pair the larger, and of equals the lower index; nan is larger than any number."""
    is_nan = found.value.isnan()
    is_equal = (found.value == known.value) | (is_nan & known.value.isnan())
    is_larger = (found.value > known.value) | (is_nan & ~known.value.isnan())
    takes = is_larger | (is_equal & (found.position < known.position))
    return Best(*(torch.where(takes, new, old) for new, old in zip(found, known, strict=True)))


def _or_itself(best: Best, own: Tensor) -> Best:
    """Pairs without a negative have their `own` index."""
    return Best(best.value, torch.where(best.value == -torch.inf, own, best.position))


def _first_of_columns(scores: Tensor) -> tuple[Tensor, Tensor]:
    """`scores.max(dim=0)` of (b, C): the first of equals.

    A CPU reads badly along columns. Of large blocks it takes a fifth of the time to find which rows hold a
    column's maximum, and then where among them.
    """
    if scores.is_cuda or len(scores) <= _ROWS_AT_ONCE or scores.numel() <= _FEW:
        largest = scores.max(dim=0)
        return largest.values, largest.indices
    tops = torch.stack([rows.amax(dim=0) for rows in torch.split(scores, _ROWS_AT_ONCE)])
    value, part = tops.max(dim=0)
    rows = part * _ROWS_AT_ONCE + torch.arange(_ROWS_AT_ONCE, device=scores.device)[:, None]
    among = scores.gather(0, rows.clamp_(max=len(scores) - 1))  # the last row again is never the first
    return value, rows[0] + among.max(dim=0).indices
