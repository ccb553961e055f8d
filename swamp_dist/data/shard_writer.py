"""Writes the samples of a program as a shard set, one after the other, without holding them in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from swamp_dist.atomic_files import HashedFile, open_atomically
from swamp_dist.data.closing import close_set
from swamp_dist.data.coverage import cover
from swamp_dist.data.manifest import MANIFEST_FILE, FieldSpec, ManifestRecord, ShardFile
from swamp_dist.data.payload_index import index_payloads, pack_rows
from swamp_dist.data.sample_checks import SPLIT_NAME, check_keys, check_name, check_sample, field_specs
from swamp_dist.data.shard_plan import BuildPlan, Unit
from swamp_dist.data.shard_unit import FULL, EntryTar
from swamp_dist.data.staging import Staging, UnitRecord, publish
from swamp_dist.data.writer import building_alone, discard_building, find_existing
from swamp_dist.errors import UserError
from swamp_dist.records import Sample


class ShardWriter:
    """A shard set that grows sample by sample and stands at `folder` when the block ends well:

        with ShardWriter("data/mine") as out:
            out.write(Sample("key-1", {"text": vector, "video": other}), split="train")

    Entries keep the order in which they are written. Training permutes a split of up to
    `data.full_shuffle_below` bytes (8 GB) as a whole and a larger one in blocks, so write a larger one in
    random order. In memory are one sample and about 300 bytes for each entry written. A block that ends by an
    exception, or is killed, leaves no set behind; two writers of one folder wait for each other.

    Args:
        folder: where the set goes; its parent is made when needed.
        name: name of the set; default: that of the folder.
        entries_per_shard: entries in one tar file.
        item_fields: fields whose arrays have a leading axis of several items.
        ragged_fields: fields whose item is a set: an array of any number of elements on a leading axis.
        source: JSON-ready facts about where the samples come from, kept in the manifest.
        force: replace the set at `folder`, if there is one, when the block ends.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        name: str | None = None,
        entries_per_shard: int = 1000,
        item_fields: Collection[str] = (),
        ragged_fields: Collection[str] = (),
        source: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> None:
        if entries_per_shard < 1:
            raise ValueError(f"entries_per_shard = {entries_per_shard}: expected at least 1")
        for argument, given in (("item_fields", item_fields), ("ragged_fields", ragged_fields)):
            if isinstance(given, str):
                raise ValueError(f"{argument} = {given!r}: expected several names, for example [{given!r}]")
        self._folder = Path(folder)
        self._recipe = ManifestRecord(
            name=name or self._folder.name, source={"kind": "written", **(source or {})},
            entries_per_shard=entries_per_shard, shuffle_seed=None, fields={}, classes=0, splits={},
        )  # fmt: skip
        self._item_fields, self._ragged_fields = frozenset(item_fields), frozenset(ragged_fields)
        self._force = force
        self._staging = Staging(self._folder, "written")
        self._fields: dict[str, FieldSpec] = {}
        self._splits: dict[str, _SplitWriter] = {}
        self._lock = contextlib.ExitStack()
        self._failed: Exception | None = None

    def __enter__(self) -> ShardWriter:
        """Take the folder.

        Raises:
            UserError: there is a set (without `force`) or something else.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(building_alone(self._folder))
            if (self._folder / MANIFEST_FILE).is_file() and not self._force:
                raise UserError(
                    f"{self._folder} holds a shard set already: choose another folder, or replace it "
                    "(force=True)"
                )
            find_existing(self._folder, self._recipe, self._force)  # refuses what is no set
            discard_building(self._folder)
            self._staging.prepare()
            self._lock = stack.pop_all()
        return self

    def write(self, sample: Sample, split: str = "train") -> None:
        """Append one sample to a split.

        Raises:
            UserError: a name that is not safe, a key that the split has, captions (a build alone makes word
                ids of them), fields unlike those of the first sample, or a full disk. Unless the disk is
                full, the writer may go on with other samples.
            BadEntry: values are not finite, or a set has no elements.
        """
        if self._failed is not None:
            raise self._failed
        if sample.captions:
            raise UserError(
                f"entry {sample.key!r}: captions become word ids in a build alone: use a recipe with "
                "`source: {kind: python}` and `words`, or give the field itself"
            )
        check_name("split", split, SPLIT_NAME)
        check_keys(split, [sample.key])
        fields = self._fields or field_specs(sample, self._item_fields, self._ragged_fields)
        check_sample(sample, split, fields)
        self._fields = fields
        own = self._splits.setdefault(
            split, _SplitWriter(self._staging, split, self._recipe.entries_per_shard)
        )
        try:
            own.write(sample, fields)
        except OSError as error:
            self._failed = self._explain(error)
            raise self._failed from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the set its name; after an exception, remove what was written.

        Raises:
            UserError: nothing was written, or the disk is full.
        """
        with self._lock:
            try:
                if kind is None:
                    self._finish()
            finally:
                for split in self._splits.values():
                    split.discard()
                discard_building(self._folder)

    def _explain(self, error: OSError) -> Exception:
        if error.errno not in FULL:
            return error
        return UserError(
            f"shard set {self._folder}: {FULL[error.errno]} ({error.strerror}).\n"
            "Free space and write it again."
        )

    def _finish(self) -> None:
        if self._failed is not None:
            raise self._failed
        if not self._splits:
            raise UserError(f"shard set {self._folder}: nothing was written to it")
        for split in self._splits.values():
            split.close_shard(self._fields)
        records = [record for split in self._splits.values() for record in split.records]
        entries = {name: split.entries for name, split in self._splits.items()}
        plan = BuildPlan(self._recipe, entries, units=(), keys_sha256="")
        close_set(self._staging, plan, records, cover(plan, records))
        publish(self._staging)


class _SplitWriter:
    """One split: its finished shards and the one that is open."""

    def __init__(self, staging: Staging, split: str, entries_per_shard: int) -> None:
        self._staging = staging
        self._split = split
        self._per_shard = entries_per_shard
        self._keys: set[str] = set()
        self._records: list[UnitRecord] = []
        self._open: _OpenShard | None = None

    @property
    def entries(self) -> int:
        """Entries written so far."""
        return len(self._keys)

    @property
    def unit(self) -> Unit:
        """The shard that is open, or will be opened next."""
        number = len(self._records)
        return Unit(self._split, number, number * self._per_shard, self.entries)

    def write(self, sample: Sample, fields: Mapping[str, FieldSpec]) -> None:
        if sample.key in self._keys:
            raise UserError(
                f"split {self._split!r}: two entries have the key {sample.key!r}; keys must be unique"
            )
        if self._open is None:
            self._open = _open_shard(self._staging, self.unit)
        self._open.tar.add(sample)
        self._keys.add(sample.key)
        if len(self._open.tar.rows) == self._per_shard:
            self.close_shard(fields)

    def close_shard(self, fields: Mapping[str, FieldSpec]) -> None:
        """Finish the open shard, if there is one."""
        if self._open is None:
            return
        unit, opened = self.unit, self._open
        rows = tuple(opened.tar.rows)
        opened.tar.close()
        opened.stack.close()
        self._open = None
        shard = ShardFile(
            file=self._staging.tar(unit).name, bytes=opened.file.bytes, sha256=opened.file.digest,
            entries=len(rows),
        )  # fmt: skip
        self._records.append(
            UnitRecord(
                plan=self._staging.plan,
                split=self._split,
                number=unit.number,
                shard=shard,
                fields=dict(fields),
                rows=rows,
                payloads=pack_rows(index_payloads(self._staging.tar(unit), rows, fields)),
            )
        )

    @property
    def records(self) -> Sequence[UnitRecord]:
        """Of the finished shards, in order."""
        return self._records

    def discard(self) -> None:
        """Give up the open shard, if there is one: its file is removed."""
        if self._open is not None:
            self._open.tar.discard()
            given_up = InterruptedError()
            self._open.stack.__exit__(InterruptedError, given_up, None)
            self._open = None


@dataclass(frozen=True)
class _OpenShard:
    file: HashedFile
    tar: EntryTar
    stack: contextlib.ExitStack
    """Closes the file and gives it its name."""


def _open_shard(staging: Staging, unit: Unit) -> _OpenShard:
    stack = contextlib.ExitStack()
    file = stack.enter_context(open_atomically(staging.tar(unit), staging.scratch))
    return _OpenShard(file, EntryTar(file), stack)
