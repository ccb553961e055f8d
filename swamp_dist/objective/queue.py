"""The queue of recent embeddings that joins the batch in the solve (paper, Algorithm 1).

A ring: the row with global insertion index g lives in slot g mod capacity, and a row is valid by its
index alone. Nothing is ever shifted, and no size has to divide another.
"""

from __future__ import annotations

import torch
from torch import Tensor


def queue_capacity(size: int, batch_pairs: int, counts_batch: bool) -> int:
    """Rows that are solved together once the queue is full.

    The newest max(Q, B) rows where the batch counts into the queue (Algorithm 1), else the newest Q
    rows before the batch plus the batch (Appendix E). Either way it holds the batch exactly once.
    """
    return max(size, batch_pairs) if counts_batch else size + batch_pairs


class Queue:
    """The newest `capacity` pairs of embeddings, the whole of them on every rank.

    Lives outside the module: module buffers would be broadcast from rank 0 on each step.
    """

    def __init__(
        self, capacity: int, embedding_dim: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.capacity = capacity
        self.pushed = 0
        """Pairs ever pushed; the next one gets this insertion index."""
        self._a = torch.zeros(capacity, embedding_dim, device=device, dtype=dtype)
        self._b = torch.zeros_like(self._a)
        self._ids = torch.full((capacity,), -1, device=device)
        self._steps = torch.full((capacity,), -1, device=device)

    def __len__(self) -> int:
        """Valid rows. They are the first slots of the ring, whether it is full or not."""
        return min(self.pushed, self.capacity)

    @property
    def a(self) -> Tensor:
        """(len, D) embeddings of modality A, in slot order."""
        return self._a[: len(self)]

    @property
    def b(self) -> Tensor:
        """(len, D) embeddings of modality B, in slot order."""
        return self._b[: len(self)]

    @property
    def ids(self) -> Tensor:
        """(len,) sample ids, in slot order."""
        return self._ids[: len(self)]

    @property
    def steps(self) -> Tensor:
        """(len,) training step at which each row was pushed, in slot order."""
        return self._steps[: len(self)]

    def push(self, a: Tensor, b: Tensor, ids: Tensor, step: int) -> None:
        """Insert a batch of pairs, a and b (n, D) and ids (n,), over the oldest rows.

        Raises:
            ValueError: the batch does not fit.
        """
        if len(a) > self.capacity:
            raise ValueError(f"a batch of {len(a)} pairs does not fit a queue of {self.capacity}")
        self._write(a, b, ids, torch.full_like(ids, step))

    def _write(self, a: Tensor, b: Tensor, ids: Tensor, steps: Tensor) -> None:
        first = self.pushed % self.capacity
        before_wrap = min(len(a), self.capacity - first)
        for ring, rows in ((self._a, a), (self._b, b), (self._ids, ids), (self._steps, steps)):
            ring[first : first + before_wrap] = rows[:before_wrap]
            ring[: len(rows) - before_wrap] = rows[before_wrap:]
        self.pushed += len(a)

    def ages(self, step: int) -> Tensor:
        """(len,) steps since each row was pushed."""
        return step - self.steps

    def state(self) -> dict[str, Tensor]:
        """Everything the queue holds, oldest row first, as copies on the CPU.

        The order is that of insertion and not of slots, so it can be dealt to any layout and capacity.
        """
        first = self.pushed % self.capacity if self.pushed > self.capacity else 0
        rings = {"a": self.a, "b": self.b, "ids": self.ids, "steps": self.steps}
        state = {name: ring.roll(-first, dims=0).to("cpu", copy=True) for name, ring in rings.items()}
        return state | {"pushed": torch.tensor(self.pushed)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over `state`; of more rows than fit, the newest.

        Raises:
            ValueError: the rows have another embedding size.
        """
        if state["a"].shape[1:] != self._a.shape[1:]:
            raise ValueError(
                f"the saved queue holds embeddings of size {state['a'].shape[1]}, this one {self._a.shape[1]}"
            )
        kept = min(len(state["a"]), self.capacity)
        newest = [state[name][len(state[name]) - kept :] for name in ("a", "b", "ids", "steps")]
        self._ids.fill_(-1)
        self._steps.fill_(-1)
        # A ring with free slots counts from 0 again: validity is read off the count.
        self.pushed = int(state["pushed"]) - kept if kept == self.capacity else 0
        self._write(*newest)


def queue_figures(queue: Queue, step: int) -> dict[str, Tensor]:
    """How full the queue is and how old its rows are, in steps: 0-d tensors by metric tag."""
    ages = queue.ages(step).to(queue.a.dtype)
    return {
        "queue/fill": ages.new_full((), len(queue) / queue.capacity),
        "queue/age_mean": ages.mean(),
        "queue/age_max": ages.amax(),
    }
