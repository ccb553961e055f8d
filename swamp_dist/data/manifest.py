"""The manifest of a shard set: what is in it, how large every file is, and a hash over all of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from swamp_dist.config.own_tars import import_hint
from swamp_dist.data.index_file import read_index
from swamp_dist.data.manifest_records import ClassNamesRecord as ClassNamesRecord
from swamp_dist.data.manifest_records import ClassVectorsRecord as ClassVectorsRecord
from swamp_dist.data.manifest_records import FieldSpec as FieldSpec
from swamp_dist.data.manifest_records import IndexFile as IndexFile
from swamp_dist.data.manifest_records import ManifestRecord as ManifestRecord
from swamp_dist.data.manifest_records import SetTables as SetTables
from swamp_dist.data.manifest_records import ShardFile as ShardFile
from swamp_dist.data.manifest_records import SplitRecord as SplitRecord
from swamp_dist.data.manifest_records import VocabularyRecord as VocabularyRecord
from swamp_dist.data.manifest_records import WordsRecord as WordsRecord
from swamp_dist.errors import UserError
from swamp_dist.explaining import nearest
from swamp_dist.file_names import MANIFEST_FILE as MANIFEST_FILE
from swamp_dist.file_names import STAGE_FILE


@dataclass(frozen=True)
class SplitIndex:
    """The entries of one split in manifest order: key, shard, byte range and class of each."""

    name: str
    folder: Path
    record: SplitRecord

    def __len__(self) -> int:
        return self.record.entries

    def __getstate__(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "folder": self.folder,
            "record": self.record,
        }  # a process maps its own copy

    @property
    def num_entries(self) -> int:
        """Number of entries N of the split."""
        return self.record.entries

    @property
    def bytes(self) -> int:
        """Size of all shards of the split."""
        return self.record.bytes

    @cached_property
    def rows(self) -> np.ndarray:
        """(N,) structured array, memory-mapped: key, shard, offset, size, label; compared with the manifest.

        Raises:
            UserError: the index file is missing or damaged, or a row is not one of the split.
        """
        return read_index(self.folder, self.record)

    @cached_property
    def columns(self) -> tuple[np.ndarray, ...]:
        """Keys, shards, offsets, sizes and labels of `rows`, (N,) each, mapped too: plain arrays, of which
        one number is had in a tenth of the time."""
        rows = self.rows.view(np.ndarray)
        return tuple(rows[name] for name in ("key", "shard", "offset", "size", "label"))

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64 class numbers, -1 where the set has none."""
        return np.asarray(self.rows["label"], dtype=np.int64)

    def keys(self, indices: Iterable[int] | np.ndarray) -> list[str]:
        """Keys of these entries."""
        return [key.decode("ascii") for key in self.rows["key"][np.asarray(indices, dtype=np.int64)].tolist()]

    def shard_path(self, shard: int) -> Path:
        """File of shard number `shard`."""
        return self.shard_paths[shard]

    @cached_property
    def shard_paths(self) -> tuple[Path, ...]:
        """Files of the shards by number."""
        return tuple(self.folder / shard.file for shard in self.record.shards)

    @property
    def shard_entries(self) -> tuple[int, ...]:
        """Entries of each shard, in manifest order."""
        return tuple(shard.entries for shard in self.record.shards)


@dataclass(frozen=True)
class Manifest:
    """A built shard set: its folder and the content of its manifest.json."""

    folder: Path
    record: ManifestRecord

    @property
    def name(self) -> str:
        """Name of the set."""
        return self.record.name

    @property
    def hash(self) -> str:
        """sha256 over the manifest: equal hashes mean the same entries in the same order."""
        return self.record.hash

    @property
    def classes(self) -> int:
        """Number of classes; 0 where the set has no labels."""
        return self.record.classes

    @property
    def fields(self) -> dict[str, FieldSpec]:
        """Every field of an entry by name."""
        return self.record.fields

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.record.splits)

    def split(self, name: str) -> SplitIndex:
        """The entries of a split.

        Raises:
            UserError: there is no such split; the message lists those there are.
        """
        if name not in self.record.splits:
            raise _unknown("split", name, self.record.splits, self.folder)
        return SplitIndex(name, self.folder, self.record.splits[name])

    def field(self, name: str) -> FieldSpec:
        """dtype and shape of a field.

        Raises:
            UserError: there is no such field; the message lists those there are.
        """
        if name not in self.record.fields:
            raise _unknown("field", name, self.record.fields, self.folder)
        return self.record.fields[name]


def _unknown(what: str, name: str, known: Iterable[str], folder: Path) -> UserError:
    names = list(known)
    close = nearest(name, names)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(f"no {what} {name!r} in shard set {folder}.{hint} It has: {', '.join(names)}.")


def build_command(recipe: Path | None, folder: Path, force: bool = False) -> str:
    """The command that builds `folder`, for error messages."""
    return f"swamp shards build {recipe or 'RECIPE.yaml'} --out {folder}" + (" --force" if force else "")


def read_manifest(folder: Path, recipe: Path | None = None) -> Manifest:
    """The manifest of a shard set, without a look at its shards.

    Raises:
        UserError: the folder or its manifest is missing, unreadable or was changed by hand.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        found = "there is no manifest.json in it" if folder.is_dir() else "the folder does not exist"
        fix = import_hint(folder) or f"Build it with: {build_command(recipe, folder)}"
        if (folder / STAGE_FILE).is_file():
            found = "it is the folder of a run"
            fix = f"Name the set that its {STAGE_FILE} has as data.shards."
        raise UserError(f"no shard set at {folder}: {found}.\n{fix}")
    rebuild = f"Build the set again with: {build_command(recipe, folder, force=True)}"
    try:
        record = ManifestRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: {where}: {first['msg']}.\n{rebuild}") from None
    if record.content_hash() != record.hash:
        raise UserError(
            f"{path}: the content does not match its own hash; it was edited or damaged.\n{rebuild}"
        )
    return Manifest(folder, record)


def load_manifest(folder: Path, recipe: Path | None = None) -> Manifest:
    """The manifest of a shard set whose shards are all there in full length.

    Raises:
        UserError: as `read_manifest`, or shards are missing or of another size, or payload indexes are
            missing; all are named.
    """
    manifest = read_manifest(folder, recipe)
    faults = [
        f"  {shard.file}: {fault}"
        for split in manifest.record.splits.values()
        for shard in split.shards
        if (fault := size_fault(folder / shard.file, shard.bytes)) is not None
    ]
    _check_payload_files(manifest)
    words = manifest.record.words
    if words is not None and (fault := size_fault(folder / words.file, words.bytes)) is not None:
        faults.append(f"  {words.file}: {fault}")
    if faults:
        shown = faults[:10] + ([f"  ... and {len(faults) - 10} more"] if len(faults) > 10 else [])
        raise UserError(
            f"shard set {folder}: {len(faults)} damaged file(s)\n" + "\n".join(shown) + "\n"
            f"Copy them again, or build the set again with: {build_command(recipe, folder, force=True)}"
        )
    return manifest


def _check_payload_files(manifest: Manifest) -> None:
    named = [split.payloads.file for split in manifest.record.splits.values() if split.payloads is not None]
    missing = [name for name in named if not (manifest.folder / name).is_file()]
    if missing:
        raise UserError(
            f"shard set {manifest.folder}: {', '.join(missing)} missing.\n{index_hint(manifest.folder)}"
        )


def index_hint(folder: Path) -> str:
    """The command that writes the payload indexes of a set, for error messages."""
    return f"Write it again from the shards with: swamp shards index {folder}"


def size_fault(path: Path, expected: int) -> str | None:
    """What is wrong with a file's size: missing, truncated, longer than the manifest says; or None."""
    if not path.is_file():
        return "missing"
    found = path.stat().st_size
    if found == expected:
        return None
    kind = "truncated" if found < expected else "too long"
    return f"{kind}: {found} bytes, the manifest says {expected}"
