"""Runs a planned pipeline on this machine: Ray holds the graph, `local` owns the processes.

One Ray task a stage; its dependencies are the references of the stages before it. A task starts a child
process and waits, so Ray needs little memory, and the stage sees the same environment as `swamp run`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swamp_dist.config import PipelineSettings, ShardSettings
from swamp_dist.launch.console import Report, StageStatus, look
from swamp_dist.launch.graph import write_graph
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.plan import Plan, PlannedStage, plan_pipeline
from swamp_dist.launch.rundir import RunDir

logger = logging.getLogger(__name__)
Runner = Callable[[Path, Path, int], int]
"""(stage_yaml, run_dir, ranks) -> exit code; leaves result.json in `run_dir` when it returns 0."""
Build = Callable[[ShardSettings, Path], object]
"""(recipe, folder): makes a shard set, or keeps the one that is there."""

_OURS_NOT_RAYS = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Ray sets these in its workers; stages get the values of the process that started the pipeline."""
_LOOK_SECONDS = 1.0
_OBJECT_STORE_BYTES = 80 * 2**20
_FINAL = {ExitCode.DONE, ExitCode.USER_MISTAKE, ExitCode.HELD}
"""Endings that another attempt would only repeat."""


@dataclass(frozen=True)
class Ending:
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
class _Order:
    """All that a Ray task needs; plain values."""

    key: str
    stage_yaml: str
    run_dir: str
    ranks: int
    retries: int
    working_folder: str
    environment: dict[str, str | None]


def run_pipeline(
    settings: PipelineSettings,
    run_dir: Path,
    report: Report,
    *,
    runner: Runner | None = None,
    build: Build | None = None,
) -> list[StageStatus]:
    """Build missing shards, run every stage that has no result yet, and say how each ended.

    A stage that fails blocks those after it while others go on. Safe to kill and run again: done stages
    are skipped and a half-done one continues from its last commit.

    Raises:
        UserError: something in the pipeline, a job or a recipe is wrong; nothing has been started.
        RunDirHeld: the same pipeline runs already in this folder.
    """
    plan = plan_pipeline(settings, run_dir)
    with RunDir(run_dir).hold():
        write_graph(plan)
        _build_missing(plan, build or _build_shards)
        for stage in plan.stages:
            if not RunDir(stage.run_dir).done:
                RunDir(stage.run_dir).write_stage(stage.settings)
        statuses = {s.key: _initial(s) for s in plan.stages}
        if any(s.state == "waiting" for s in statuses.values()):
            with _ray(settings.concurrency) as ray:
                _drive(ray, settings, plan, statuses, runner or run_in_child, report)
        report(list(statuses.values()))
    return list(statuses.values())


def run_in_child(stage_yaml: Path, run_dir: Path, ranks: int) -> int:
    """Run a stage's ranks in a process of their own that ends with this one; output to its console log."""
    command = [sys.executable, "-m", "swamp_dist.launch.local", str(stage_yaml), str(run_dir), str(ranks)]
    with RunDir(run_dir).console_log.open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                child.terminate()


def _build_shards(settings: ShardSettings, out: Path) -> None:
    from swamp_dist.launch.shards import build_shards

    build_shards(settings, out)


def _build_missing(plan: Plan, build: Build) -> None:
    """Building is repeatable: a set that is there is kept, and refused if another recipe made it."""
    for shards in plan.shards:
        if not (shards.out / "manifest.json").is_file():
            logger.info("building shards %s from %s", shards.out, shards.recipe)
        build(shards.settings, shards.out)


# -- the graph -------------------------------------------------------------------------------------


def _drive(
    ray: Any,
    settings: PipelineSettings,
    plan: Plan,
    statuses: dict[str, StageStatus],
    runner: Runner,
    report: Report,
) -> None:
    """Hand all stages to Ray and follow them; updates `statuses` in place."""
    began = time.time()
    task = ray.remote(num_cpus=1, max_retries=settings.retries)(_stage_task)
    environment = _stage_environment(settings.ranks * settings.concurrency)
    references: dict[str, Any] = {}
    for stage in plan.stages:
        if statuses[stage.key].state == "done":
            continue
        folder = RunDir(stage.run_dir)
        order = _Order(
            stage.key,
            str(folder.stage_yaml),
            str(folder.path),
            settings.ranks,
            settings.retries,
            os.getcwd(),
            environment,
        )
        before = [references[key] for key in stage.after if key in references]
        references[stage.key] = task.options(name=stage.key).remote(order, runner, *before)
    keys = {reference: key for key, reference in references.items()}
    pending = list(keys)
    while pending:
        ended, pending = ray.wait(pending, num_returns=1, timeout=_LOOK_SECONDS)
        for reference in ended:
            statuses[keys[reference]] = _outcome(ray, reference, statuses[keys[reference]])
        for key in (keys[reference] for reference in pending):
            statuses[key] = look(statuses[key], began)
        report(list(statuses.values()))


def _stage_task(order: _Order, runner: Runner, *before: Ending) -> Ending:
    """What a Ray worker does for a stage, once those before it have ended."""
    blocker = next((ending.key for ending in before if not ending.done), None)
    if blocker is not None:
        return Ending(order.key, None, blocker)
    os.chdir(order.working_folder)  # settings hold paths relative to where the pipeline was started
    _restore(order.environment)
    code: int = ExitCode.FAILED
    for _ in range(1 + order.retries):
        code = _attempt(order, runner)
        if code in _FINAL:
            break
    return Ending(order.key, code)


def _attempt(order: _Order, runner: Runner) -> int:
    folder = RunDir(Path(order.run_dir))
    folder.append_event("launched")
    code = runner(Path(order.stage_yaml), folder.path, order.ranks)
    return ExitCode.FAILED if code == ExitCode.DONE and not folder.done else code


def _restore(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _stage_environment(processes: int) -> dict[str, str | None]:
    own = {name: os.environ.get(name) for name in _OURS_NOT_RAYS}
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    return own | {"OMP_NUM_THREADS": own["OMP_NUM_THREADS"] or threads}


@contextlib.contextmanager
def _ray(concurrency: int) -> Iterator[Any]:
    """A Ray of our own on the loopback interface, without dashboard; an already running one is used."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # tasks only wait; killing them helps nobody
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's switch for the loopback address
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    scratch = tempfile.mkdtemp(prefix="swamp-ray-")
    try:
        ray.init(
            address="local",
            num_cpus=concurrency,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=scratch,
        )
        with _terminated_as_interrupted():
            yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the pipeline like Ctrl-C: workers go, and with them their stages, which save first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# -- what became of a stage ------------------------------------------------------------------------


def _initial(stage: PlannedStage) -> StageStatus:
    folder = RunDir(stage.run_dir)
    return StageStatus(stage.key, stage.run_dir, "done" if folder.done else "waiting")


def _outcome(ray: Any, reference: Any, status: StageStatus) -> StageStatus:
    try:
        ending: Ending = ray.get(reference)
    except ray.exceptions.RayError as error:
        return replace(status, state="failed", message=f"its worker was lost: {error}")
    if ending.blocked_by is not None:
        return replace(
            status, state="blocked", message=f"not started because {ending.blocked_by} is not done"
        )
    if ending.code is None or not ending.done:
        return replace(status, state="failed", message=_reason(ending.code, status.run_dir))
    return replace(status, state="done")


def _reason(code: int | None, run_dir: Path) -> str:
    meanings: dict[int | None, str] = {
        ExitCode.USER_MISTAKE: "refused its settings or data",
        ExitCode.HELD: "found its run folder held by another run",
        ExitCode.REQUEUE: "was asked to stop; its progress is saved",
    }
    log = RunDir(run_dir).console_log
    lines = log.read_text(errors="replace").splitlines()[-12:] if log.is_file() else []
    said = "".join(f"\n  | {line}" for line in lines)
    return f"{meanings.get(code, f'failed with exit code {code}')}; see {log}{said}"
