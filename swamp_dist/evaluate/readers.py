"""Readers of the splits that an evaluation embeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from swamp_dist.config import DataSettings, EvaluateSettings
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.reader import EntryReader, open_reader

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
