"""One call of the loss on this rank: what was given, what is wrong with it, and the ids that follow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World


@dataclass(frozen=True)
class PairRows:
    """What a loop hands to the loss, b pairs of this rank."""

    a: Tensor
    """(b, D) embeddings of modality A, of any length and any floating type."""
    b: Tensor
    """(b, D) embeddings of modality B."""
    items: Tensor | None
    """(b,) integer ids of what was drawn."""
    labels: Tensor | None
    """(b,) integer classes."""
    entries: Tensor | None
    """(b,) integers: pairs of one entry have the same."""

    def facts(self) -> dict[str, object]:
        """What has to be equal on all ranks."""
        return {
            "pairs": len(self.a) if self.a.dim() else 0,
            "type of embeddings": f"{self.a.dtype}, {self.b.dtype}",
            "a has a gradient": self.a.requires_grad,
            "b has a gradient": self.b.requires_grad,
            "gradients are on": torch.is_grad_enabled(),
            "items": self.items is not None,
            "labels": self.labels is not None,
            "entries": self.entries is not None,
        }

    def fault(self, settings: ObjectiveSettings, embedding_dim: int, pairs_per_entry: int) -> str | None:
        """What is wrong with it, and the fix; None where nothing is."""
        return self._wrong_rows(embedding_dim, pairs_per_entry) or self._wrong_ids(settings)

    def _wrong_rows(self, embedding_dim: int, pairs_per_entry: int) -> str | None:
        for name, rows in (("a", self.a), ("b", self.b)):
            if rows.dim() != 2 or rows.shape[1] != embedding_dim or not rows.is_floating_point():
                return (
                    f"embeddings {name}: expected floating-point rows of shape (pairs, {embedding_dim}), "
                    f"found {rows.dtype} of shape {tuple(rows.shape)}.\n"
                    "Fix: build the loss with the size of the embeddings (embedding_dim)"
                )
        if self.a.shape != self.b.shape:
            return (
                f"row i of a and row i of b are a pair: expected equally many, found {len(self.a)} and "
                f"{len(self.b)}"
            )
        if self.a.device != self.b.device:
            return f"embeddings a are on {self.a.device}, b on {self.b.device}: move both to one device"
        if len(self.a) == 0 or len(self.a) % pairs_per_entry:
            return (
                f"a batch of {len(self.a)} pairs: expected a multiple of pairs_per_entry = {pairs_per_entry}"
            )
        return None

    def _wrong_ids(self, settings: ObjectiveSettings) -> str | None:
        contrastive = settings.contrastive
        several = contrastive.positives if contrastive.weight > 0 else "partner"
        for name, ids in (("items", self.items), ("labels", self.labels), ("entries", self.entries)):
            if ids is not None and (ids.shape != self.a.shape[:1] or ids.is_floating_point()):
                return (
                    f"{name}: expected {len(self.a)} integers, one for each pair, found {ids.dtype} of "
                    f"shape {tuple(ids.shape)}"
                )
        if settings.swamp.weight > 0 and settings.swamp.queue.unique_items and self.items is None:
            return "swamp.queue.unique_items tells items apart: give their ids (items)"
        if several == "entry" and self.entries is None:
            return "contrastive.positives = entry: give the entry of each pair (entries)"
        if several == "class" and (self.labels is None or bool((self.labels < 0).any())):
            found = "none" if self.labels is None else "a negative one"
            return (
                "contrastive.positives = class: give a class of at least 0 for each pair (labels), "
                f"found {found}"
            )
        return None

    def queue_ids(self) -> Tensor:
        """(b,) int64 ids for the queue, on the device of the rows; 0 where none were given."""
        if self.items is None:
            return torch.zeros(len(self.a), dtype=torch.int64, device=self.a.device)
        return self.items.to(self.a.device, torch.int64)

    def entry_ids(self, pairs_per_entry: int, world: World) -> Tensor:
        """(b,) int64: as given, else the place in the global batch of entries that stand one after the
        other."""
        if self.entries is not None:
            return self.entries.to(self.a.device, torch.int64)
        count = len(self.a) // pairs_per_entry
        first = world.rank * count
        places = torch.arange(first, first + count, device=self.a.device)
        return places.repeat_interleave(pairs_per_entry)

    def class_ids(self) -> Tensor | None:
        """(b,) int64 classes, on the device of the rows."""
        return None if self.labels is None else self.labels.to(self.a.device, torch.int64)
