"""The folder where a set grows: finished shards with their sidecars, one folder per plan.

    .NAME.building/PLAN/set/       what becomes the shard set
    .NAME.building/PLAN/finished/  a sidecar per finished shard, written after its tar
    .NAME.building/PLAN/scratch/   files that are being written

Everything gets its name by rename when it is whole, so that a build may be killed anywhere, and several
processes on several hosts may build in one folder at once. Another recipe has another PLAN.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from swamp_dist.atomic_files import open_atomically, remove_left_over, sync_folder
from swamp_dist.data.manifest import FieldSpec, ShardFile, size_fault
from swamp_dist.data.shard_plan import BuildPlan, Unit
from swamp_dist.errors import UserError
from swamp_dist.file_names import MANIFEST_FILE

logger = logging.getLogger(__name__)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Skipped(_Record):
    """An entry that a build left out."""

    key: str
    kind: str
    message: str


class UnitRecord(_Record):
    """The sidecar of a finished shard: all that the manifest and the report need to know of it."""

    plan: str
    """Hash of the plan that the shard belongs to."""
    split: str
    number: int
    shard: ShardFile
    fields: dict[str, FieldSpec]
    """Of its first entry; empty where every entry was left out."""
    rows: tuple[tuple[str, int, int, int], ...]
    """Key, offset, size and class of its entries."""
    payloads: str = ""
    """Their rows of the payload index (`pack_rows`); empty in a build that an earlier version began."""
    skipped: tuple[Skipped, ...] = ()
    tally: dict[str, int] = {}
    """Sums of what the source counts per entry."""


@dataclass(frozen=True)
class Staging:
    """Paths of one build; `folder` is where the set will stand."""

    folder: Path
    plan: str

    @property
    def root(self) -> Path:
        """What the builds of `folder` share, whatever their plan."""
        return building_folder(self.folder)

    @property
    def home(self) -> Path:
        """The folder of this plan."""
        return self.root / self.plan[:16]

    @property
    def set(self) -> Path:
        """The shard set to be."""
        return self.home / "set"

    @property
    def scratch(self) -> Path:
        """Where files are written before they get their name."""
        return self.home / "scratch"

    def tar(self, unit: Unit) -> Path:
        """The shard of a unit."""
        return self.set / f"{unit.name}.tar"

    def sidecar(self, unit: Unit) -> Path:
        """What says that the unit's shard is finished."""
        return self.home / "finished" / f"{unit.name}.json"

    def prepare(self) -> None:
        """Make the folders; remove what killed processes of this host were writing."""
        for folder in (self.set, self.scratch, self.home / "finished"):
            folder.mkdir(parents=True, exist_ok=True)
        remove_left_over(self.scratch)

    def put(self, path: Path, content: str) -> None:
        """Write a small file into place."""
        with open_atomically(path, self.scratch) as file:
            file.write(content.encode())


def building_folder(folder: Path) -> Path:
    """Where the builds of `folder` grow."""
    return folder.parent / f".{folder.name}.building"


def discard_others(staging: Staging) -> None:
    """Remove what builds of other plans have left: nobody will finish them at this place."""
    for path in staging.root.glob("*"):
        if path == staging.home:
            continue
        logger.warning("discarding %s: an unfinished build of another recipe or other raw data", path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def finished_unit(staging: Staging, unit: Unit, may_skip: bool) -> UnitRecord | None:
    """The record of a shard that is whole and usable; None where it has to be built.

    A shard without some of its entries is not usable where every entry is asked for: they may be there now.
    """
    path = staging.sidecar(unit)
    if not path.is_file():
        return None
    try:
        record = UnitRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        logger.warning("%s cannot be read: building %s again", path, unit.name)
        return None
    fault = size_fault(staging.tar(unit), record.shard.bytes)
    if record.plan != staging.plan or fault is not None:
        logger.warning("%s: %s: building it again", staging.tar(unit), fault or "of another plan")
        return None
    return record if may_skip or not record.skipped else None


def finished_units(staging: Staging, plan: BuildPlan, may_skip: bool) -> dict[Unit, UnitRecord]:
    """Records of all finished shards."""
    found = ((unit, finished_unit(staging, unit, may_skip)) for unit in plan.units)
    return {unit: record for unit, record in found if record is not None}


def publish(staging: Staging) -> None:
    """Give the finished set its name, in place of another one if need be, and remove the staging folder.

    Raises:
        UserError: other files have come to its place since the build began; the finished shards stay.
    """
    folder = staging.folder
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST_FILE).is_file():
        raise UserError(
            f"{folder} was empty when the build began and now holds files that are no shard set: move them "
            "away; the same command then goes on from its finished shards"
        )
    sync_folder(staging.set)
    replaced = folder.parent / f".{folder.name}.replaced"
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    staging.set.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(staging.root, ignore_errors=True)
