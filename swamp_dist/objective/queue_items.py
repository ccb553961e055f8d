"""Which rows of the queue count: one of each item (`objective.swamp.queue.unique_items`).

An item is the unit that is drawn: an entry or, of whole videos, a caption of one. All rows of the batch
count. An older row counts unless its item is in the batch or in another row that is newer. So the answer
follows from ids and insertion indices alone: it is found anew in every step, the same on every rank and after
a resume. A row that does not count keeps its slot until it is the oldest.

Shape letters: C rows of the full queue, n valid rows of all ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swamp_dist.objective.ring_buffer import write_ring


class QueueItems:
    """The items of all rows, on every rank, and where the rows of this rank lie among them."""

    def __init__(self, capacity: int, room: int, device: torch.device) -> None:
        """For a queue of `capacity` rows, of which a rank has room for `room`."""
        self._ids = torch.full((capacity,), -1, device=device)
        self._slots = torch.full((room,), -1, device=device)

    def write(self, ids: Tensor, mine: Tensor, pushed: int, written: int) -> None:
        """Rows with items `ids` come after `pushed` others; those at positions `mine` of them come here,
        after `written` others."""
        write_ring(self._ids, ids, pushed)
        write_ring(self._slots, (pushed + mine) % len(self._ids), written)

    def counting(self, valid: int, pushed: int, batch: int) -> Tensor:
        """(n,) bool: which of the `valid` rows count, in slots of the ring of all rows; the newest `batch` of
        the `pushed` ones all do."""
        oldest = pushed % len(self._ids) if valid == len(self._ids) else 0
        return rows_that_count(self._ids[:valid].roll(-oldest), batch).roll(oldest)

    def of_mine(self, counting: Tensor, held: int) -> Tensor:
        """(held,) bool of the rows that are here, in their own slots."""
        return counting[self._slots[:held]]


def rows_that_count(ids: Tensor, batch: int) -> Tensor:
    """(n,) bool: which rows with items `ids` (n,), oldest first, count; the newest `batch` rows all do.

    A stable sort brings the rows of an item together, the newest last. Nothing is read by the host.
    """
    ordered, places = ids.sort(stable=True)
    is_newest = torch.ones_like(ids, dtype=torch.bool)
    is_newest[:-1] = ordered[1:] != ordered[:-1]
    counts = torch.empty_like(is_newest).scatter_(0, places, is_newest)
    counts[max(0, len(ids) - batch) :] = True
    return counts
