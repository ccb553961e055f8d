"""Builds shards in child processes, each of which opens the raw data for itself."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NoReturn, TypeAlias

from swamp_dist.data.build import Builder, MissingPolicy
from swamp_dist.data.manifest import FieldSpec
from swamp_dist.data.shard_plan import BuildPlan, BuildSource, Unit, keys_sha256
from swamp_dist.data.shard_unit import build_unit
from swamp_dist.data.staging import Staging, UnitRecord
from swamp_dist.records import UserError

Opener: TypeAlias = Callable[[], BuildSource]
"""Opens the raw data; can be pickled."""
_GOES_ON = "Finished shards are kept: the same command goes on from them."
_context = multiprocessing.get_context(
    "spawn"
)  # a fork would inherit threads of libraries, and locks they hold


@dataclass
class _Child:
    process: SpawnProcess
    pipe: Connection
    unit: Unit | None = None
    """What it is building."""


def in_processes(
    staging: Staging, plan: BuildPlan, opener: Opener, policy: MissingPolicy, workers: int
) -> Builder:
    """Builds shards in up to `workers` child processes, which end with this one, however it ends.

    Raises (when it builds):
        UserError: as `build_unit`, or a child died: names it and its shard.
    """

    def build(units: Sequence[Unit], fields: Mapping[str, FieldSpec]) -> Iterator[UnitRecord]:
        children = [
            _start(staging, plan, opener, policy, dict(fields)) for _ in range(min(workers, len(units)))
        ]
        try:
            yield from _deal(children, list(units))
        finally:
            for child in children:
                child.process.terminate()
            for child in children:
                child.process.join()

    return build


def open_checked(opener: Opener, plan: BuildPlan) -> BuildSource:
    """The raw data, opened once more.

    Raises:
        UserError: they do not list the entries that the plan was made for.
    """
    source = opener()
    if keys_sha256(source) != plan.keys_sha256:
        raise UserError(
            "the raw data list other entries than when the build began: were files moved? Run it again"
        )
    return source


def _start(
    staging: Staging,
    plan: BuildPlan,
    opener: Opener,
    policy: MissingPolicy,
    fields: dict[str, FieldSpec],
) -> _Child:
    ours, theirs = _context.Pipe()
    arguments = (theirs, os.getpid(), staging, plan, opener, policy.may_skip, fields)
    process = _context.Process(target=_child_main, args=arguments, daemon=True)
    process.start()
    theirs.close()  # so that its end is the end of the pipe
    return _Child(process, ours)


def _deal(children: list[_Child], units: list[Unit]) -> Iterator[UnitRecord]:
    """Give each child a shard, and another when it has finished, until none is left."""
    left = iter(units)
    for child in children:
        _give(child, next(left, None))
    while busy := {child.pipe: child for child in children if child.unit is not None}:
        for pipe in wait(list(busy)):
            child = busy[pipe]  # type: ignore[index]
            record = _receive(child)
            _give(child, next(left, None))
            yield record


def _give(child: _Child, unit: Unit | None) -> None:
    child.unit = unit
    if unit is None:
        return
    try:
        child.pipe.send(unit)
    except OSError:
        _died(child)


def _receive(child: _Child) -> UnitRecord:
    try:
        kind, content = child.pipe.recv()
    except (EOFError, OSError):
        _died(child)
    if kind == "refused":
        raise UserError(content)
    if kind == "failed":
        name = child.unit.name if child.unit else ""
        raise RuntimeError(f"shard {name}, child process {child.process.pid}:\n{content}")
    assert isinstance(content, UnitRecord)
    return content


def _died(child: _Child) -> NoReturn:
    child.process.join(10)
    code, name = child.process.exitcode, child.unit.name if child.unit else "(none)"
    how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    hint = "\nOut of memory? Try fewer --workers." if code == -signal.SIGKILL else ""
    raise UserError(f"shard {name}: child process {child.process.pid} died ({how}).{hint}\n{_GOES_ON}")


# -- the child -------------------------------------------------------------------------------------


def _child_main(
    pipe: Connection,
    parent: int,
    staging: Staging,
    plan: BuildPlan,
    opener: Opener,
    may_skip: bool,
    fields: dict[str, FieldSpec],
) -> None:
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends its children
    source: BuildSource | None = None
    while True:
        try:
            unit = pipe.recv()
        except EOFError:
            return
        answer: tuple[str, Any]
        try:
            source = source or open_checked(opener, plan)
            answer = ("built", build_unit(staging, plan, unit, source, may_skip, fields))
        except UserError as error:
            answer = ("refused", str(error))
        except Exception:
            answer = ("failed", traceback.format_exc())
        pipe.send(answer)


def _end_with(parent: int) -> None:
    """End this process when its parent does, be it by SIGKILL."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(1)
