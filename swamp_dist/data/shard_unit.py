"""Builds one shard: reads its entries, checks, encodes and writes them; the sidecar comes last."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator
from typing import Any

from swamp_dist.atomic_files import HashedFile, open_atomically
from swamp_dist.data.entry import encode_entry
from swamp_dist.data.manifest import FieldSpec, ShardFile
from swamp_dist.data.payload_index import index_payloads, pack_rows
from swamp_dist.data.sample_checks import check_sample, check_size, field_specs
from swamp_dist.data.shard_plan import BuildPlan, BuildSource, Unit, unit_entries
from swamp_dist.data.staging import Skipped, Staging, UnitRecord
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import RawSplit, Sample

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}
"""Errors of writing that a user can mend, by number."""

Row = tuple[str, int, int, int]
"""Key, offset, size and class of an entry."""
WHOLE_SPLITS = ("test", "testall", "test_photos")
"""Splits that are built whole or not at all."""


def build_unit(
    staging: Staging,
    plan: BuildPlan,
    unit: Unit,
    source: BuildSource,
    may_skip: bool,
    fields: dict[str, FieldSpec],
) -> UnitRecord:
    """Write one shard and its sidecar into the staging folder; one entry is in memory at a time.

    Args:
        staging: where the set grows.
        plan: what the unit is part of.
        unit: which shard.
        source: the opened raw data.
        may_skip: leave out entries that raise BadEntry, and say so in the record.
        fields: what every entry must have; filled from the first entry where it is empty.

    Raises:
        UserError: an entry is missing or malformed (unless `may_skip`) or cannot be stored, or the disk is
        full.
    """
    skipped: list[Skipped] = []
    tally: Counter[str] = Counter()
    try:
        with open_atomically(staging.tar(unit), staging.scratch) as file:
            samples = _samples(plan, unit, source, may_skip, fields, skipped)
            rows = _write_tar(file, _count_samples(samples, source, tally))
        payloads = pack_rows(index_payloads(staging.tar(unit), rows, fields))  # of what the disk gives back
        shard = ShardFile(
            file=staging.tar(unit).name, bytes=file.bytes, sha256=file.digest, entries=len(rows)
        )
        record = UnitRecord(
            plan=plan.hash, split=unit.split, number=unit.number, shard=shard, fields=fields if rows else {},
            rows=tuple(rows), payloads=payloads, skipped=tuple(skipped), tally=dict(tally),
        )  # fmt: skip
        staging.put(staging.sidecar(unit), record.model_dump_json())
    except OSError as error:
        raise _explain(error, staging, unit) from error
    return record


def _samples(
    plan: BuildPlan,
    unit: Unit,
    source: BuildSource,
    may_skip: bool,
    fields: dict[str, FieldSpec],
    skipped: list[Skipped],
) -> Iterator[Sample]:
    split = source.splits[unit.split]
    for number in unit_entries(plan, unit).tolist():
        try:
            yield _read_and_check(split, number, unit, source, fields)
        except BadEntry as error:
            if not may_skip or unit.split in WHOLE_SPLITS:
                raise UserError(
                    f"split {unit.split!r}, entry {error}\n{_way_out(unit, error.kind)} "
                    "Finished shards are kept: the same command goes on from them."
                ) from error
            message = str(error).removeprefix(f"{error.key}: ")
            skipped.append(Skipped(key=split.keys[number], kind=error.kind, message=message))


def _way_out(unit: Unit, kind: str) -> str:
    if unit.split in WHOLE_SPLITS:
        return (
            "Mend the raw data: figures on a test split with gaps would stand beside published ones of "
            "another protocol, so on_missing=skip does not reach it. A shorter list of your own is the "
            "honest way to fewer items."
        )
    return f"Mend the raw data, or leave such entries out with on_missing=skip ({kind})."


def _read_and_check(
    split: RawSplit, number: int, unit: Unit, source: BuildSource, fields: dict[str, FieldSpec]
) -> Sample:
    sample = split.read(number)
    if sample.key != split.keys[number]:
        raise UserError(
            f"split {unit.split!r}: entry {number} is {sample.key!r}, the source listed "
            f"{split.keys[number]!r}"
        )
    if not fields:
        fields.update(field_specs(sample, source.item_fields, source.ragged_fields))
    check_sample(sample, unit.split, fields)
    return sample


def _count_samples(samples: Iterator[Sample], source: BuildSource, tally: Counter[str]) -> Iterator[Sample]:
    for sample in samples:
        tally.update(source.tally(sample))
        yield sample


class EntryTar:
    """Entries one after the other in a tar file, each with its place."""

    def __init__(self, file: HashedFile) -> None:
        from webdataset.writer import TarWriter  # imports torch; only a build pays for it

        self._tar: Any = TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False)
        self.rows: list[Row] = []

    def add(self, sample: Sample) -> None:
        """Append an entry, or nothing of it.

        Raises:
            UserError: a member that readers would refuse.
        """
        members = encode_entry(sample)
        for suffix, payload in members:
            check_size(sample.key, suffix, payload)
        start = self._tar.tarstream.offset
        for suffix, payload in members:
            self._tar.write({"__key__": sample.key, suffix: payload})  # one by one: keeps the json first
        self.rows.append((sample.key, start, self._tar.tarstream.offset - start, sample.label))

    def close(self) -> None:
        """Write the end of the tar; the file stays open."""
        self._tar.close()

    def discard(self) -> None:
        """Give up the tar: its stream would write its end, once it is forgotten, into a closed file."""
        self._tar.tarstream.fileobj.closed = True


def _write_tar(file: HashedFile, samples: Iterator[Sample]) -> list[Row]:
    tar = EntryTar(file)
    try:
        for sample in samples:
            tar.add(sample)
        tar.close()
    except BaseException:
        tar.discard()
        raise
    return tar.rows


def _explain(error: OSError, staging: Staging, unit: Unit) -> Exception:
    """What the user can mend, as a UserError; anything else as it is."""
    if error.errno in FULL:
        return UserError(
            f"shard {unit.name} in {staging.home}: {FULL[error.errno]} ({error.strerror}).\n"
            "Finished shards are kept there: free space and run the same command, which goes on from them."
        )
    if not staging.set.is_dir():
        return UserError(
            f"shard {unit.name}: {staging.home} is gone: another process has finished the set or removed the "
            f"folder.\nSee whether {staging.folder} is there; if not, run the same command again."
        )
    return error
