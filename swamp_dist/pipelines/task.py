"""What a Ray worker does for one stage of a pipeline: wait for those before it, run it, try again."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from swamp_dist.backends.forked_stages import NotForked, fork_server, may_fork, run_forked
from swamp_dist.errors import ExitCode
from swamp_dist.runs.events import attempts
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.processes import life, mark_from

Runner = Callable[[Path, Path, int], int]
"""(stage_yaml, run_dir, ranks) -> exit code; leaves result.json in `run_dir` when it returns 0."""
_FINAL = {ExitCode.DONE, ExitCode.USER_MISTAKE, ExitCode.HELD, ExitCode.INTERRUPTED}
"""Endings that another attempt would only repeat, or that a person wanted."""
_OURS_NOT_RAYS = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Ray sets these in its workers; stages get the values of the process that started the pipeline."""
_STAGE_MODULE = "swamp_dist.backends.local"
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class StageExit:
    """How a stage ended: what its Ray task gives to the tasks after it."""

    key: str
    code: int | None
    """Exit code of the last attempt; None where it was not started."""
    blocked_by: str | None = None
    """The stage before it that is not done."""

    @property
    def done(self) -> bool:
        """True if the stages after it may start."""
        return self.code == ExitCode.DONE


@dataclass(frozen=True)
class StageSpec:
    """All that a Ray task needs; plain values."""

    key: str
    stage_yaml: str
    run_dir: str
    ranks: int
    retries: int
    working_folder: str
    environment: dict[str, str | None]


def stage_task(spec: StageSpec, runner: Runner, *before: StageExit) -> StageExit:
    """Run a stage, once those before it have ended; the result of one is the start of the next."""
    blocker = next((each.key for each in before if not each.done), None)
    if blocker is not None:
        return StageExit(spec.key, None, blocker)
    os.chdir(spec.working_folder)  # settings hold paths relative to where the pipeline was started
    _restore(spec.environment)
    code: int = ExitCode.FAILED
    for _ in range(1 + spec.retries):
        code = _attempt(spec, runner)
        if code in _FINAL:
            break
    return StageExit(spec.key, code)


def stage_environment(processes: int) -> dict[str, str | None]:
    """Variables of the stages where `processes` ranks run at a time on this machine; None = not set."""
    own = {name: os.environ.get(name) for name in _OURS_NOT_RAYS}
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    return own | {"OMP_NUM_THREADS": own["OMP_NUM_THREADS"] or threads}


def run_in_child(stage_yaml: Path, run_dir: Path, ranks: int, server: str | None = None) -> int:
    """Run a stage's ranks in a process of their own that ends with this one; output to its console log.

    Args:
        server: address of the `fork_server` that the process is forked from; None = a new process.
    """
    folder = RunDir(run_dir)
    _let_orphans_end(folder)
    if folder.done:  # by the ranks of a killed driver
        return ExitCode.DONE
    folder.append_event("launched")
    arguments = [str(stage_yaml), str(run_dir), str(ranks)]
    with folder.console_log.open("ab", buffering=0) as log:
        if server is not None:
            try:
                return run_forked(server, _STAGE_MODULE, arguments, log.fileno())
            except NotForked as why:
                log.write(f"{why}: the processes of this stage start as usual\n".encode())
            if folder.done:
                return ExitCode.DONE
        child = subprocess.Popen(
            [sys.executable, "-m", _STAGE_MODULE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                child.terminate()


@contextlib.contextmanager
def forking(runner: Runner, environment: Mapping[str, str | None], stages: int) -> Iterator[Runner]:
    """Inside, several stages on this machine are forked from one process, which imports what they need while
    Ray starts; the runner to use. Others, and a single one, run as they are."""
    if runner is not run_in_child or stages < 2 or not may_fork():
        yield runner
        return
    with fork_server(environment) as server:
        yield partial(run_in_child, server=server)


def _let_orphans_end(folder: RunDir) -> None:
    """Wait for ranks whose driver or Ray worker was killed: they save and end by themselves.

    Only for those that a pipeline launched. What `swamp run` started is another run, and is refused.
    """
    events = folder.read_events()
    tries = attempts(events)
    if not tries:
        return
    opened = next(i for i, event in enumerate(events) if event is tries[-1].events[0])
    if opened == 0 or events[opened - 1]["event"] != "launched":
        return
    holder = mark_from(folder.read_holder())
    marks = [*tries[-1].marks, *([holder] if holder else [])]
    while any(life(mark) == "alive" for mark in marks):
        time.sleep(_POLL_SECONDS)


def _attempt(spec: StageSpec, runner: Runner) -> int:
    folder = RunDir(Path(spec.run_dir))
    code = runner(Path(spec.stage_yaml), folder.path, spec.ranks)
    return ExitCode.FAILED if code == ExitCode.DONE and not folder.done else code


def _restore(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
