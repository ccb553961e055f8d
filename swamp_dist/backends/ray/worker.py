"""One rank under one Ray Train worker: a child process, as everywhere else.

Ray Train runs its function in a thread of the worker, where no signal handler can be set, next to Ray's own
threads. The worker therefore starts `python -m swamp_dist.backends.rank` and watches it. The kernel tells
the child of the worker's end, and it saves if its peers still can; the next worker on that machine waits
for it before it starts its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swamp_dist.backends import rank_process
from swamp_dist.backends.first_failure import last_words
from swamp_dist.backends.rank_process import die_with_parent
from swamp_dist.backends.ray.mailbox import RETURNED, STOPPED_FOR, MailboxState, RankExit
from swamp_dist.backends.starts import committed_step, given_up
from swamp_dist.config import RayCluster
from swamp_dist.environment import RankInfo, job_id
from swamp_dist.errors import ExitCode
from swamp_dist.runs.events import starts_from, stopped_by_alarm
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.processes import ProcessMark, find_marked, own_mark, send

_MARK = "SWAMP_RAY_RUN"
"""Variable of a rank and of all that it starts: the run folder, by which the next worker finds them."""
_POLL_SECONDS = 0.2
_KILLED_SECONDS = 30.0
_SAVE_SECONDS = 120.0
"""So long a rank has to save where its worker cannot ask any more how its peers are."""


@dataclass(frozen=True, kw_only=True)
class RankSpec:
    """What the workers of a stage need to know; plain values."""

    command: tuple[str, ...]
    """What a worker starts as its rank."""
    run_dir: str
    """As the user gave it, relative to the working folder."""
    working_folder: str
    job: str
    """Tells the starts of this submission from those of others: the SLURM job, or a random name."""
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


def make_spec(stage_yaml: Path, run_dir: Path, cluster: RayCluster) -> RankSpec:
    """What the workers of a stage that this process drives need.

    A remote worker has another environment: it gets the essentials.
    """
    job = job_id()
    own = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    threads = os.environ.get("OMP_NUM_THREADS", str(cluster.cpus_per_worker))
    environment = own | {"OMP_NUM_THREADS": threads} | cluster.environment
    return RankSpec(
        command=tuple(rank_process.rank_command(stage_yaml, run_dir)),
        run_dir=str(run_dir),
        working_folder=os.getcwd(),
        job=job or f"ray-{uuid.uuid4().hex[:12]}",
        counted=bool(job),
        ranks=cluster.workers,
        max_restarts=cluster.max_restarts,
        peer_seconds=cluster.peer_seconds,
        on_gpu=cluster.on_gpu,
        environment=environment,
    )


def before_start(spec: RankSpec, state: MailboxState) -> ExitCode | None:
    """Before a start of the ranks: None to go on, else the code that the stage ends with. One rank asks.

    Counts the start in events.jsonl. `state` is of the start before; its user's mistakes are not repeated.
    """
    folder = spec.folder
    if folder.done:
        return ExitCode.DONE
    if state.signals:
        return ExitCode.REQUEUE
    final = [e.code for e in state.exits if e.code in STOPPED_FOR]
    if final:
        return ExitCode(final[0])
    events, step = folder.read_events(), committed_step(folder)
    if state.exits and stopped_by_alarm(events):
        return ExitCode.FAILED
    starts = starts_from(events, spec.job, step)
    launched = [e for e in events if e.get("event") == "launched" and e.get("job") == spec.job]
    first = spec.counted and bool(launched) and launched[-1].get("by") != "ray"
    if not first and starts > spec.max_restarts:
        said = state.culprit.split(". Last lines of")[0] or "its worker was lost"
        reason = given_up(starts, step, spec.max_restarts, said)
        folder.append_event("failed", job=spec.job, reason=reason, given_up=True)
        return ExitCode.FAILED
    folder.append_event("launched", job=spec.job, step=None if first else step, by="ray")
    who = spec.driver.as_dict()
    folder.append_event("starting", **who, world_size=spec.ranks, logs=folder.log_sizes())
    return None


def rank_environment(spec: RankSpec, info: RankInfo, own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a rank's process.

    CUDA_VISIBLE_DEVICES stays as Ray set it: all GPUs of this node's workers; LOCAL_RANK is the index.
    """
    mark = {_MARK: str(spec.folder.path.resolve())}
    return rank_process.rank_environment(info, spec.on_gpu, own, spec.environment) | mark


def run_rank(
    spec: RankSpec,
    info: RankInfo,
    hear: Callable[[float], MailboxState],
) -> RankExit:
    """Start this worker's rank and wait for its end.

    Args:
        hear: waits so many seconds or until there is something new; the state of this start. Where it fails,
            driver and Ray are lost: the rank is told to save, as its peers are, and the error goes on.
    """
    log = spec.folder.console_log if info.rank == 0 else spec.folder.log(info.rank)
    with log.open("ab") as out:
        before = out.tell()
        child = subprocess.Popen(
            spec.command,
            cwd=spec.working_folder,
            env=rank_environment(spec, info),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,  # of this thread, which waits for the child below
        )
    try:
        _follow(child, spec.peer_seconds, hear)
    except BaseException:
        _let_save(child)
        raise
    code = child.wait()
    text = log.read_bytes()[before:].decode(errors="replace")
    said = "" if code in RETURNED else _failure(info, code, log, text)
    return RankExit(info.rank, code, said)


def _follow(
    child: subprocess.Popen[bytes], peer_seconds: float, hear: Callable[[float], MailboxState]
) -> None:
    """Pass signals on until the child ends; kill it where its peers ended long ago and it does not."""
    passed, deadline = 0, None
    while child.poll() is None:
        state = hear(_POLL_SECONDS)
        if state.killed:
            child.kill()
        for number in state.signals[passed:]:
            child.send_signal(for_rank(number))
        passed = len(state.signals)
        if state.exits and deadline is None:
            deadline = time.monotonic() + peer_seconds
        if deadline is not None and time.monotonic() > deadline:
            child.kill()
            child.wait()


def _let_save(child: subprocess.Popen[bytes]) -> None:
    """Ask a rank to save and wait for its end; kill it where it takes too long."""
    try:
        child.terminate()
        child.wait(_SAVE_SECONDS)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def for_rank(number: int) -> signal.Signals:
    """The signal that asks a rank to save where its driver got `number`."""
    return signal.SIGTERM if number == signal.SIGINT else signal.Signals(number)


def _failure(info: RankInfo, code: int, log: Path, text: str) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    said = "".join(f"\n  | {line}" for line in last_words(text))
    return f"rank {info.rank} on {own_mark().host} {how}." + (f" Last lines of {log}:{said}" if said else "")


def end_ranks(run_dir: Path, seconds: float, number: int | None = None) -> None:
    """Wait until no rank of an earlier start is left on this machine; kill those that hang for `seconds`.

    They were told to save by their workers' end; `number` is a signal to tell them now, where the workers may
    not have ended. A rank whose peer was killed may wait for it in a collective
    for minutes, and would hold folder and GPU.

    Raises:
        RuntimeError: one cannot be killed.
    """
    deadline, run = time.monotonic() + seconds, str(run_dir.resolve())
    if number is not None:
        for mark in find_marked(_MARK, run):
            send(mark, for_rank(number))
    while left := find_marked(_MARK, run):
        if time.monotonic() > deadline + _KILLED_SECONDS:
            raise RuntimeError(f"processes {[m.pid for m in left]} of an earlier start cannot be ended")
        if time.monotonic() > deadline:
            for mark in left:
                send(mark, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
