"""Builds shards as tasks of a Ray: the one that is running, or one of our own on this machine."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swamp_dist.backends.ray.session import build_session
from swamp_dist.data.build import Builder, MissingPolicy
from swamp_dist.data.manifest import FieldSpec
from swamp_dist.data.shard_plan import BuildPlan, BuildSource, Unit
from swamp_dist.data.shard_unit import build_unit
from swamp_dist.data.staging import Staging, UnitRecord
from swamp_dist.errors import UserError
from swamp_dist.prepare.workers import SourceFactory, open_checked

logger = logging.getLogger(__name__)
_TASKS_A_CPU = 4
"""Tasks are groups of shards: few enough that a worker seldom opens the raw data again, many enough
that none is left with much at the end."""


def on_ray(staging: Staging, plan: BuildPlan, opener: SourceFactory, policy: MissingPolicy) -> Builder:
    """Builds shards as Ray tasks, each a group of shards; a task whose worker died is tried again.

    All nodes need the raw data and the target folder under the same paths.

    Raises (when it builds):
        UserError: as `build_unit`, or a group's workers died again and again: names its shards.
    """

    def build(units: Sequence[Unit], fields: Mapping[str, FieldSpec]) -> Iterator[UnitRecord]:
        if not units:
            return
        with build_session() as ray:
            task = ray.remote(num_cpus=1, max_retries=2)(_build_group)
            groups = _groups(units, int(ray.cluster_resources().get("CPU", 1)))
            folder = os.getcwd()  # settings hold paths relative to where the build was started
            names = {
                task.remote(folder, staging, plan, opener, policy.may_skip, dict(fields), group): group
                for group in groups
            }
            yield from _follow(ray, names)

    return build


def _groups(units: Sequence[Unit], cpus: int) -> list[list[Unit]]:
    size = -(-len(units) // (cpus * _TASKS_A_CPU))
    return [list(units[start : start + size]) for start in range(0, len(units), size)]


def _follow(ray: Any, pending: dict[Any, list[Unit]]) -> Iterator[UnitRecord]:
    try:
        while pending:
            ended, _ = ray.wait(list(pending), num_returns=1)
            group = pending.pop(ended[0])
            yield from _outcome(ray, ended[0], group)
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


def _outcome(ray: Any, reference: Any, group: list[Unit]) -> list[UnitRecord]:
    name = f"shards {group[0].name} to {group[-1].name}"
    try:
        records, refused, failed = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise UserError(
            f"{name}: the Ray worker was lost: {str(error).splitlines()[0]}\n"
            "Finished shards are kept: the same command goes on from them."
        ) from error
    if refused:
        raise UserError(refused)
    if failed:
        raise RuntimeError(f"{name}:\n{failed}")
    return [UnitRecord.model_validate_json(record) for record in records]


def _build_group(
    folder: str,
    staging: Staging,
    plan: BuildPlan,
    opener: SourceFactory,
    may_skip: bool,
    fields: dict[str, FieldSpec],
    units: list[Unit],
) -> tuple[list[str], str, str]:
    """What a Ray worker does: records as JSON, and what a user can mend, and a trace of anything else."""
    os.chdir(folder)
    try:
        source = _opened(opener, plan)
        records = [build_unit(staging, plan, unit, source, may_skip, fields) for unit in units]
    except UserError as error:
        return [], str(error), ""
    except Exception:
        return [], "", traceback.format_exc()
    return [record.model_dump_json() for record in records], "", ""


_SOURCES: dict[str, BuildSource] = {}


def _opened(opener: SourceFactory, plan: BuildPlan) -> BuildSource:
    """The raw data, opened once a worker process and plan."""
    if plan.hash not in _SOURCES:
        _SOURCES.clear()
        _SOURCES[plan.hash] = open_checked(opener, plan)
    return _SOURCES[plan.hash]
