"""Readers of the splits that an evaluation embeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from swamp_dist.config import DataSettings, EvaluateSettings, NormaliseSettings
from swamp_dist.data.entry import Entry
from swamp_dist.data.lanes import permutation
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.reader import EntryReader, open_reader
from swamp_dist.errors import UserError

Readers = tuple[EntryReader, EntryReader]
"""Of the entries that hold modality A and of those that hold B; without a gallery split one, twice."""


@contextlib.contextmanager
def open_readers(
    manifest: Manifest, settings: EvaluateSettings, data: DataSettings, in_memory: bool = False
) -> Iterator[Readers]:
    """Readers of the fields `data.a` and `data.b` of the splits of an evaluation, closed at the end.

    Args:
        in_memory: keep what is read, as `data.cache` says; for splits that are read again and again.

    Raises:
        UserError, ShardError: as `open_reader`.
    """
    how = (data.reading, data.cache if in_memory else "none")
    with contextlib.ExitStack() as stack:
        if settings.gallery is None:
            both = open_reader(manifest, settings.split, (data.a, data.b), *how)
            stack.enter_context(contextlib.closing(both))
            yield both, both
            return
        a = open_reader(manifest, settings.split, (data.a,), *how)
        stack.enter_context(contextlib.closing(a))
        b = open_reader(manifest, settings.gallery, (data.b,), *how)
        stack.enter_context(contextlib.closing(b))
        yield a, b


class BankReader:
    """Entries of a bank: those that its settings draw from a split, in its order."""

    def __init__(self, reader: EntryReader, settings: NormaliseSettings) -> None:
        self._reader = reader
        drawn = permutation(len(reader.split), "bank", settings.seed)[: settings.entries]
        self.chosen: np.ndarray = np.sort(drawn)

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, indices: Sequence[int]) -> Sequence[Entry]:
        """As `EntryReader.read`, of entries of the bank."""
        return self._reader.read(self.chosen[np.asarray(indices)])

    def misfit(self, index: int, finding: str, is_damaged: bool = True) -> UserError:
        """As `EntryReader.misfit`, of an entry of the bank."""
        return self._reader.misfit(int(self.chosen[index]), finding, is_damaged)


@contextlib.contextmanager
def open_bank(
    manifest: Manifest, settings: EvaluateSettings, data: DataSettings
) -> Iterator[BankReader | None]:
    """The bank of an evaluation, closed at the end; None where its scores are not normalised.

    Raises:
        UserError, ShardError: as `open_reader`.
    """
    if settings.normalise is None:
        yield None
        return
    reader = open_reader(manifest, settings.normalise.bank, (data.a, data.b), data.reading)
    with contextlib.closing(reader):
        yield BankReader(reader, settings.normalise)
