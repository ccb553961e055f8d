"""One rank under one Ray Train worker: a child process, so that a rank lives in the same kind of process everywhere.

Ray Train runs its function in a thread of the worker, where no signal handler can be set, next to Ray's own threads.
The worker therefore starts `python -m swamp_dist.launch.rank` and watches it. The child hears of the worker's end from
the kernel and saves if its peers still can; the next worker on that machine waits for it before it starts its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swamp_dist.config import RayCluster
from swamp_dist.environment import Place
from swamp_dist.launch.attempt import committed_step, given_up, starts_from
from swamp_dist.launch.local import CPU_DEFAULTS, RANK_DEFAULTS, ExitCode, die_with_parent, last_words
from swamp_dist.launch.processes import ProcessMark, marked, own_mark, send
from swamp_dist.launch.ray_post import Ending, News
from swamp_dist.launch.rundir import RunDir

RETURNED = {ExitCode.DONE, ExitCode.USER_MISTAKE, ExitCode.HELD, ExitCode.REQUEUE}
"""Endings of a rank that another start would only repeat, or that it was asked for."""
STOPPED_FOR = (ExitCode.USER_MISTAKE, ExitCode.HELD)
"""Endings of one rank that end the stage, whatever its peers end with."""
_MARK = "SWAMP_RAY_RUN"
"""Variable of a rank and of all that it starts: the run folder, by which the next worker finds what was left."""
_POLL_SECONDS = 0.2
_KILLED_SECONDS = 30.0


@dataclass(frozen=True)
class RankOrder:
    """What the workers of a stage need to know; plain values."""

    stage_yaml: str
    run_dir: str
    """As the user gave it, relative to the working folder."""
    working_folder: str
    job: str
    """Tells the starts of this submission from those of others: the SLURM job, or a name made for the occasion."""
    counted: bool
    """The first start of a driver stands in the run folder's events already."""
    ranks: int
    max_restarts: int
    peer_seconds: float
    on_gpu: bool
    environment: Mapping[str, str]
    """On top of the worker's own."""
    driver: ProcessMark = field(default_factory=own_mark)
    """Who passes signals on: the process that `swamp cancel` has to ask."""

    @property
    def folder(self) -> RunDir:
        """The run folder, from any working folder."""
        return RunDir(Path(self.working_folder) / self.run_dir)


def make_order(stage_yaml: Path, run_dir: Path, cluster: RayCluster) -> RankOrder:
    """The order of a stage that this process drives. A remote worker has another environment: it gets the essentials."""
    job = os.environ.get("SLURM_JOB_ID", "")
    own = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    threads = os.environ.get("OMP_NUM_THREADS", str(cluster.cpus_per_worker))
    environment = own | {"OMP_NUM_THREADS": threads} | cluster.environment
    return RankOrder(
        str(stage_yaml),
        str(run_dir),
        os.getcwd(),
        job or f"ray-{uuid.uuid4().hex[:12]}",
        bool(job),
        cluster.workers,
        cluster.max_restarts,
        cluster.peer_seconds,
        cluster.on_gpu,
        environment,
    )


def opening(order: RankOrder, news: News) -> ExitCode | None:
    """Before a start of the ranks: None to go on, else the code that the stage ends with. One rank asks.

    Counts the start in events.jsonl. `news` is of the start before; its user's mistakes are not repeated.
    """
    folder = order.folder
    if folder.done:
        return ExitCode.DONE
    if news.signals:
        return ExitCode.REQUEUE
    final = [e.code for e in news.endings if e.code in STOPPED_FOR]
    if final:
        return ExitCode(final[0])
    events, step = folder.read_events(), committed_step(folder)
    starts = starts_from(events, order.job, step)
    launched = [e for e in events if e.get("event") == "launched" and e.get("job") == order.job]
    first = order.counted and bool(launched) and launched[-1].get("by") != "ray"
    if not first and starts > order.max_restarts:
        said = news.culprit.split(". Last lines of")[0] or "its worker was lost"
        reason = given_up(starts, step, order.max_restarts, said)
        folder.append_event("failed", job=order.job, reason=reason, given_up=True)
        return ExitCode.FAILED
    folder.append_event("launched", job=order.job, step=None if first else step, by="ray")
    who = order.driver.as_dict()
    folder.append_event("starting", **who, world_size=order.ranks, logs=folder.log_sizes())
    return None


def rank_environment(order: RankOrder, place: Place, own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a rank's process.

    CUDA_VISIBLE_DEVICES stays as Ray set it: all GPUs of this node's workers, into which LOCAL_RANK is the index.
    """
    defaults = {} if order.on_gpu else CPU_DEFAULTS
    mark = {_MARK: str(order.folder.path.resolve())}
    return {**defaults, **own, **order.environment, **RANK_DEFAULTS, **place.variables(), **mark}


def run_rank(
    order: RankOrder,
    place: Place,
    hear: Callable[[float], News],
    module: str = "swamp_dist.launch.rank",
) -> Ending:
    """Start this worker's rank and wait for its end.

    Args:
        hear: waits so many seconds or until there is something new; all news of this start.
    """
    log = order.folder.console_log if place.rank == 0 else order.folder.log(place.rank)
    with log.open("ab") as out:
        before = out.tell()
        child = subprocess.Popen(
            [sys.executable, "-u", "-m", module, order.stage_yaml, order.run_dir],
            cwd=order.working_folder,
            env=rank_environment(order, place),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,  # of this thread, which waits for the child below
        )
    try:
        _follow(child, order.peer_seconds, hear)
    finally:
        if child.poll() is None:
            child.kill()
    code = child.wait()
    text = log.read_bytes()[before:].decode(errors="replace")
    said = "" if code in RETURNED else _failure(place, code, log, text)
    return Ending(place.rank, code, said)


def _follow(child: subprocess.Popen[bytes], peer_seconds: float, hear: Callable[[float], News]) -> None:
    """Pass signals on until the child ends; kill it where its peers ended long ago and it does not."""
    passed, deadline = 0, None
    while child.poll() is None:
        news = hear(_POLL_SECONDS)
        if news.killed:
            child.kill()
        for number in news.signals[passed:]:
            child.send_signal(signal.SIGTERM if number == signal.SIGINT else number)
        passed = len(news.signals)
        if news.endings and deadline is None:
            deadline = time.monotonic() + peer_seconds
        if deadline is not None and time.monotonic() > deadline:
            child.kill()
            child.wait()


def _failure(place: Place, code: int, log: Path, text: str) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    said = "".join(f"\n  | {line}" for line in last_words(text))
    return f"rank {place.rank} on {own_mark().host} {how}." + (f" Last lines of {log}:{said}" if said else "")


def end_ranks(run_dir: Path, seconds: float) -> None:
    """Wait until no rank of an earlier start is left on this machine; kill those that hang for so many seconds.

    They were told to save by their workers' end. A rank whose peer was killed may wait for it in a collective for
    minutes, and would hold folder and GPU.

    Raises:
        RuntimeError: one cannot be killed.
    """
    deadline, run = time.monotonic() + seconds, str(run_dir.resolve())
    while left := marked(_MARK, run):
        if time.monotonic() > deadline + _KILLED_SECONDS:
            raise RuntimeError(f"processes {[m.pid for m in left]} of an earlier start cannot be ended")
        if time.monotonic() > deadline:
            for mark in left:
                send(mark, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
