"""Builds shards in child processes, each of which opens the raw data for itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import TypeAlias

from swamp_dist.data.build import Builder, MissingPolicy
from swamp_dist.data.manifest import FieldSpec
from swamp_dist.data.shard_plan import BuildPlan, BuildSource, Unit, keys_sha256
from swamp_dist.data.shard_unit import build_unit
from swamp_dist.data.staging import Staging, UnitRecord
from swamp_dist.data.worker_end import end_with
from swamp_dist.errors import UserError

SourceFactory: TypeAlias = Callable[[], BuildSource]
"""Opens the raw data; can be pickled."""


@dataclass(frozen=True)
class _Child:
    """A pool of one process: where it breaks, the shard that the process was building is known."""

    pool: ProcessPoolExecutor
    process: BaseProcess


@dataclass
class _Build:
    """What a child builds from."""

    staging: Staging
    plan: BuildPlan
    open_source: SourceFactory
    may_skip: bool
    fields: dict[str, FieldSpec]
    source: BuildSource | None = None
    """Opened with the first shard."""


def build_in_processes(
    staging: Staging, plan: BuildPlan, open_source: SourceFactory, policy: MissingPolicy, count: int
) -> Builder:
    """Builds shards in up to `count` child processes, which end with this one, however it ends.

    Raises (when it builds):
        UserError: as `build_unit`, or a child died: names it and its shard.
    """

    def build(units: Sequence[Unit], fields: Mapping[str, FieldSpec]) -> Iterator[UnitRecord]:
        order = _Build(staging, plan, open_source, policy.may_skip, dict(fields))
        children = _start(order, min(count, len(units)))
        try:
            yield from _build_all(children, units)
        finally:
            for child in children:
                child.process.terminate()  # the pool would wait for the shard it is building
            for child in children:
                child.pool.shutdown()

    return build


def open_checked(open_source: SourceFactory, plan: BuildPlan) -> BuildSource:
    """The raw data, opened once more.

    Raises:
        UserError: they do not list the entries that the plan was made for.
    """
    source = open_source()
    if keys_sha256(source) != plan.keys_sha256:
        raise UserError(
            "the raw data list other entries than when the build began: were files moved? Run it again"
        )
    return source


def _start(build: _Build, count: int) -> list[_Child]:
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads and the locks they hold
    arguments = (os.getpid(), build)
    pools = [
        ProcessPoolExecutor(1, mp_context=context, initializer=_prepare_child, initargs=arguments)
        for _ in range(count)
    ]
    try:
        numbers = [number.result() for number in [pool.submit(os.getpid) for pool in pools]]
    except BrokenProcessPool:
        for pool in pools:
            pool.shutdown()
        raise UserError("a child process died while it was starting. Try fewer --workers.") from None
    processes = {process.pid: process for process in multiprocessing.active_children()}
    return [_Child(pool, processes[number]) for pool, number in zip(pools, numbers, strict=True)]


def _build_all(children: Sequence[_Child], units: Sequence[Unit]) -> Iterator[UnitRecord]:
    """Give each child a shard, and another when it has finished, until none is left."""
    left = iter(units)
    first = zip(children, left, strict=False)
    building = {child.pool.submit(_build_unit, unit): (child, unit) for child, unit in first}
    while building:
        for future in wait(building, return_when=FIRST_COMPLETED).done:
            child, unit = building.pop(future)
            try:
                record = future.result()
                for unit in islice(left, 1):
                    building[child.pool.submit(_build_unit, unit)] = (child, unit)
            except BrokenProcessPool:
                raise _death(child, unit) from None
            yield record


def _death(child: _Child, unit: Unit) -> UserError:
    child.pool.shutdown()  # collects the process
    code = child.process.exitcode
    how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    hint = "\nOut of memory? Try fewer --workers." if code == -signal.SIGKILL else ""
    return UserError(
        f"shard {unit.name}: child process {child.process.pid} died ({how}).{hint}\n"
        "Finished shards are kept: the same command goes on from them."
    )


# -- the child -------------------------------------------------------------------------------------

_build: _Build | None = None


def _prepare_child(parent: int, build: _Build) -> None:
    global _build  # the pool's way: the initializer sets what the calls find
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends its children
    _build = build


def _build_unit(unit: Unit) -> UnitRecord:
    """One shard; errors of any class come back as one of two that can be pickled."""
    build = _build
    assert build is not None, "the initializer has run"
    try:
        build.source = build.source or open_checked(build.open_source, build.plan)
        return build_unit(build.staging, build.plan, unit, build.source, build.may_skip, build.fields)
    except UserError as error:
        raise UserError(str(error)) from None
    except Exception:
        trace = traceback.format_exc()
        raise RuntimeError(f"shard {unit.name}, child process {os.getpid()}:\n{trace}") from None
