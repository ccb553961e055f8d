"""Kills a rank of a two-rank commit at its k-th file system call, and looks at what is left.

`run_trials` starts a few master processes that import everything once; a master forks two fresh ranks
for every commit and two more for every inspection, so a trial costs a fraction of a second.
"""

from __future__ import annotations

import builtins
import datetime
import io
import json
import multiprocessing
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import tests.ranks  # noqa: F401 (tells the fork server what to import)
from swamp_dist.distributed import World
from swamp_dist.train.checkpoint import commit
from swamp_dist.train.newest_checkpoint import newest_checkpoint

_COUNTED = ("fsync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir")
_MASTERS = 4


@dataclass(frozen=True)
class Trial:
    """Commit step 2 over a valid step 1, and kill `victim` before its `kill_at`-th call (0: never)."""

    victim: int = 0
    kill_at: int = 0
    slow: int | None = None
    """Rank that sleeps inside its write."""
    broken_there: bool = False
    """A broken step-2 stands where the commit goes."""
    kill_after: float | None = None
    """Kill `victim` this many seconds after its start instead."""


@dataclass(frozen=True)
class Outcome:
    """What two fresh ranks found after a trial."""

    trial: Trial
    killed: bool
    events: list[list[str]]
    """File system calls by rank, for ranks that lived to the end."""
    newest: list[int]
    """By rank: step of the newest checkpoint."""
    intact: list[bool]
    """By rank: its own payload holds what was written at that step."""
    after: list[str]
    """Names in the folder after the next commit, with keep = 1."""
    seconds: float
    """From the start of the two ranks to the end of both."""


class _Counter:
    """Counts calls on files below `root` and dies at the chosen one. A write counts twice: before it
    begins, and torn, when half of it has reached the file."""

    def __init__(self, root: Path, kill_at: int) -> None:
        self.root, self.kill_at, self.events = str(root), kill_at, list[str]()

    def hit(self, what: str) -> None:
        self.events.append(what)
        if len(self.events) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def name(self, target: Any) -> str:
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
        return os.path.relpath(path, self.root) if path.startswith(self.root) else path

    def install(self) -> None:
        real_open = builtins.open

        def counted_open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if isinstance(file, int) or not os.fspath(file).startswith(self.root):
                return real_open(file, mode, *args, **kwargs)
            self.hit(f"open {self.name(file)}")
            opened = real_open(file, mode, *args, **kwargs)
            if "r" not in mode:
                self._count_writes(opened, self.name(file))
            return opened

        builtins.open = io.open = counted_open
        for call in _COUNTED:
            setattr(os, call, self._counted(call, getattr(os, call)))

    def _counted(self, call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(target: Any, *args: Any, **kwargs: Any) -> Any:
            self.hit(f"{call} {self.name(target)}")
            return real(target, *args, **kwargs)

        return counted

    def _count_writes(self, file: Any, name: str) -> None:
        real = file.write

        def write(data: Any) -> int:
            self.hit(f"write {name}")
            real(data[: len(data) // 2])
            file.flush()
            self.hit(f"torn {name}")
            real(data[len(data) // 2 :])
            return len(data)

        file.write = write


def payload(step: int, rank: int) -> bytes:
    return f"step {step} of rank {rank}\n".encode() * 500


def _writer(step: int, world: World, slow: int | None) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        (folder / "engine").mkdir(exist_ok=True)
        path = folder / "engine" / f"rank-{world.rank}.pt"
        with open(path, "wb") as file:
            file.write(payload(step, world.rank))
            if slow == world.rank:
                time.sleep(0.06)
        return [path]

    return write


def _commit(checkpoints: Path, step: int, world: World, slow: int | None = None) -> None:
    commit(checkpoints, step, _writer(step, world, slow), {"step": step}, world, keep=1)


def _crash(checkpoints: Path, trial: Trial, world: World) -> list[str]:
    counter = _Counter(checkpoints, trial.kill_at if world.rank == trial.victim else 0)
    counter.install()
    _commit(checkpoints, 2, world, trial.slow)
    counter.hit("returned")
    return counter.events


def _inspect(checkpoints: Path, world: World) -> tuple[int, bool]:
    found = newest_checkpoint(checkpoints, world)
    assert found is not None
    mine = (found.folder / "engine" / f"rank-{world.rank}.pt").read_bytes()
    _commit(checkpoints, found.step + 1, world)
    return found.step, mine == payload(found.step, world.rank) and found.meta == {"step": found.step}


def _rank(folder: Path, rank: int, action: Callable[[World], Any], answer: int) -> None:
    """Body of a forked rank; never returns."""
    try:
        store = dist.FileStore(str(folder / "store"), 2)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=10)
        )
        result = action(World(rank, 2, rank, torch.device("cpu")))
        os.write(answer, json.dumps(result).encode())
        os._exit(0)
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        os._exit(1)


def _two_ranks(
    folder: Path, action: Callable[[World], Any], victim: int = 0, kill_after: float | None = None
) -> tuple[list[Any], list[int]]:
    """Answers (None from the dead) and exit codes of two forked ranks; survivors get 5 s."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pids, pipes = [], []
    for rank in range(2):
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            _rank(folder, rank, action, theirs)
        os.close(theirs)
        pids.append(pid)
        pipes.append(ours)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pids[victim], signal.SIGKILL)  # not reaped yet, so the id is still its own
    codes = _reap(pids)
    answers = []
    for pipe in pipes:
        with os.fdopen(pipe, "rb") as file:
            text = file.read()
        answers.append(json.loads(text) if text else None)
    return answers, codes


def _reap(pids: list[int]) -> list[int]:
    codes: dict[int, int] = {}
    deadline = time.monotonic() + 30
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                    deadline = min(deadline, time.monotonic() + 5)
                elif time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    return [codes[pid] for pid in pids]


def _run(trial: Trial, folder: Path) -> Outcome:
    checkpoints = folder / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
    shutil.copytree(folder / "template", checkpoints)
    if trial.broken_there:
        shutil.copytree(folder / "second" / "step-2", checkpoints / "step-2")
        (checkpoints / "step-2" / "engine" / "rank-1.pt").write_bytes(b"cut")
    started = time.monotonic()
    events, codes = _two_ranks(
        folder / "ranks", lambda world: _crash(checkpoints, trial, world), trial.victim, trial.kill_after
    )
    seconds = time.monotonic() - started
    found, inspected = _two_ranks(folder / "ranks", lambda world: _inspect(checkpoints, world))
    if inspected != [0, 0]:
        errors = "\n".join(path.read_text() for path in sorted((folder / "ranks").glob("error-*")))
        raise AssertionError(f"{trial}: ranks could not go on, exit codes {inspected}\n{errors}")
    return Outcome(
        trial,
        codes[trial.victim] == -signal.SIGKILL,
        [e or [] for e in events],
        [step for step, _ in found],
        [intact for _, intact in found],
        sorted(os.listdir(checkpoints)),
        seconds,
    )


def _master(pipe: Connection, trials: list[Trial], folder: Path) -> None:
    torch.set_num_threads(1)
    try:
        for name, step in (("template", 1), ("second", 2)):
            (folder / name).mkdir(parents=True)
            _, codes = _two_ranks(
                folder / "ranks", lambda w, name=name, step=step: _commit(folder / name, step, w)
            )
            assert codes == [0, 0]
        pipe.send(([_run(trial, folder) for trial in trials], None))
    except BaseException:
        pipe.send((None, traceback.format_exc()))


def run_trials(trials: list[Trial], folder: Path, timeout: float = 150) -> list[Outcome]:
    """The outcome of every trial, in order; `folder` is theirs alone.

    A rank mostly waits for its peer, so several masters share the work.
    """
    masters = min(_MASTERS, len(trials))
    context = multiprocessing.get_context("forkserver")
    pipes, processes = [], []
    for n in range(masters):
        ours, theirs = context.Pipe(duplex=False)
        args = (theirs, trials[n::masters], folder / f"master-{n}")
        processes.append(context.Process(target=_master, args=args, daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    outcomes: dict[Trial, Outcome] = {}
    try:
        deadline = time.monotonic() + timeout
        for pipe in pipes:
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"{len(trials)} trials took over {timeout} s")
            found, error = pipe.recv()
            if error is not None:
                raise AssertionError(error)
            outcomes |= {outcome.trial: outcome for outcome in found}
    finally:
        for process in processes:
            process.join(0 if len(outcomes) < len(trials) else 5)
            if process.is_alive():
                process.kill()
    return [outcomes[trial] for trial in trials]
