"""What every backend keeps: start, wait, a killed rank, a signal; of a scheduler follow, find, cancel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from swamp_dist.backends.protocols import Backend, JobBackend, StageRef
from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.errors import ExitCode
from swamp_dist.runs.events import job_id
from swamp_dist.runs.folder import RunDir
from tests.backends.command import NAMES, RANKS, backend_of
from tests.backends.queue_server import Queue
from tests.backends.slurm.on_queue import put_on_path

pytestmark = pytest.mark.timeout(400)
PATIENCE = 180.0
"""Seconds for anything to happen: a Ray takes long to start on a busy machine."""
KEEP_JOBS = ("queue", "slurm")


@dataclass
class Case:
    """A backend, a stage that is ready to run, and the commands that were started for it."""

    name: str
    folder: Path
    commands: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def backend(self) -> Backend:
        return backend_of(self.name, self.folder)

    @property
    def scheduler(self) -> JobBackend:
        backend = self.backend
        assert isinstance(backend, JobBackend)
        return backend

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.folder / "run")

    @property
    def stage(self) -> StageRef:
        return StageRef("played", self.run_dir)

    def start(self) -> subprocess.Popen[bytes]:
        """Run the stage in a command of its own."""
        with (self.folder / "console").open("ab") as console:
            words = [sys.executable, "-m", "tests.backends.command", self.name, str(self.folder)]
            self.commands.append(subprocess.Popen(words, stdout=console, stderr=console))
        return self.commands[-1]

    def starts(self) -> list[list[dict[str, object]]]:
        """What each rank noted at each of its starts."""
        files = [self.run_dir.path / f"starts-{rank}" for rank in range(RANKS)]
        return [[json.loads(x) for x in f.read_text().splitlines()] if f.is_file() else [] for f in files]

    def until(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, f"no {what}:\n{self.story()}"
            time.sleep(0.05)

    def until_started(self, count: int = 1) -> list[int]:
        """Wait for the ranks' start of this number; their processes."""
        self.until(lambda: all(len(each) >= count for each in self.starts()), f"start {count}")
        return [int(str(each[count - 1]["pid"])) for each in self.starts()]

    def finish(self) -> None:
        """Let the ranks end well."""
        (self.run_dir.path / "finish").touch()

    def ask_to_save(self, job: str) -> None:
        """The scheduler's signal that asks the ranks to save."""
        if isinstance(self.backend, SlurmBackend):
            subprocess.run(["scancel", "--signal=USR2", job], check=True)
        else:
            Queue(self.folder / "queue").ask(job, "save")

    def ends(self, command: subprocess.Popen[bytes]) -> int:
        try:
            return command.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.story()}") from None

    def story(self) -> str:
        logs = [self.folder / "console", *self.folder.rglob("*.log"), *self.folder.rglob("*.out")]
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in logs if log.is_file())


def prepared(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """A case, with the server of its queue where it has one; nothing of it is left afterwards."""
    case, queue = Case(name, folder), folder / "queue"
    case.run_dir.create()
    case.run_dir.stage_yaml.write_text("name: played\n")
    queue.mkdir()
    for variable in ("SLURM_JOB_ID", "RANK", "WORLD_SIZE", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    backend = case.backend
    if isinstance(backend, SlurmBackend):
        case.run_dir.write_cluster(backend.cluster)  # as whoever submits does: the batch script reads it
    if name == "slurm":
        monkeypatch.setenv("PATH", put_on_path(folder / "bin", queue))
    server = subprocess.Popen([sys.executable, "-m", "tests.backends.queue_server", str(queue)])
    try:
        yield case
    finally:
        case.finish()
        (queue / "stop").touch()
        for process in (*case.commands, server):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _params(names: Sequence[str]) -> list[Any]:
    """Ray and the played SLURM, whose batch scripts start several Pythons, take a while."""
    slow = ("ray", "slurm")
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


@pytest.fixture(params=_params(NAMES))
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    yield from prepared(request.param, tmp_path, monkeypatch)


@pytest.fixture(params=_params(KEEP_JOBS))
def jobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    yield from prepared(request.param, tmp_path, monkeypatch)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_ranks_start_with_their_place_and_the_command_waits(case: Case) -> None:
    assert case.backend.world_size == RANKS
    case.backend.check()
    command = case.start()
    case.until_started()
    assert command.poll() is None
    case.finish()
    assert case.ends(command) == ExitCode.DONE, case.story()
    firsts = [each[0] for each in case.starts()]
    assert [(f["rank"], f["world_size"]) for f in firsts] == [(0, RANKS), (1, RANKS)]
    assert {f["weights_only"] for f in firsts} == {"1"}
    assert case.run_dir.done
    assert case.ends(case.start()) == ExitCode.DONE  # done already: nothing starts
    assert [len(each) for each in case.starts()] == [1, 1]


def test_a_killed_rank_ends_its_peers_and_is_never_taken_for_done(case: Case) -> None:
    command = case.start()
    pids = case.until_started()
    os.kill(pids[1], signal.SIGKILL)
    case.until(lambda: all(map(gone, pids)), "end of the peers")
    starts_again = case.name in ("slurm", "real slurm", "ray")
    if starts_again:
        case.until_started(2)
        case.finish()
    assert case.ends(command) == (ExitCode.DONE if starts_again else ExitCode.FAILED), case.story()
    assert case.run_dir.done == starts_again
    said = [str(e.get("reason")) for e in case.run_dir.read_events() if e["event"] in ("failed", "requeued")]
    if case.name != "ray":  # which starts its ranks again without a word in the events
        assert any("rank 1" in each for each in said), said


def test_a_signal_to_a_waiting_command_saves(case: Case) -> None:
    if case.name in KEEP_JOBS:
        pytest.skip("the job goes on without the command: see the tests of jobs below")
    command = case.start()
    pids = case.until_started()
    command.send_signal(signal.SIGTERM)
    assert case.ends(command) == ExitCode.REQUEUE, case.story()
    case.until(lambda: all(map(gone, pids)), "end of the ranks")
    assert any(e["event"] == "preempted" for e in case.run_dir.read_events())
    again = case.start()
    case.until_started(2)
    case.finish()
    assert case.ends(again) == ExitCode.DONE


def test_describe_starts_and_writes_nothing(case: Case) -> None:
    before = sorted(case.folder.rglob("*"))
    assert case.backend.describe(case.stage)
    assert [p for p in sorted(case.folder.rglob("*")) if p not in before] == []


def test_a_job_outlives_its_command_and_is_followed_by_the_next(jobs: Case) -> None:
    first = jobs.start()
    jobs.until_started()
    job = job_id(jobs.run_dir.read_events())
    first.kill()
    assert jobs.scheduler.jobs([job])[job].phase == "running"
    assert jobs.scheduler.find(jobs.run_dir) == [job]
    jobs.run_dir.events_jsonl.unlink()  # as of a command that was killed before it noted its job
    second = jobs.start()
    jobs.until(lambda: job_id(jobs.run_dir.read_events()) == job, "found job")
    jobs.finish()
    assert jobs.ends(second) == ExitCode.DONE, jobs.story()
    jobs.until(lambda: jobs.scheduler.find(jobs.run_dir) == [], "end of the job")
    assert [len(each) for each in jobs.starts()] == [1, 1]
    assert jobs.scheduler.jobs(["4711"]) == {}


def test_a_job_that_saved_starts_again_under_its_id(jobs: Case) -> None:
    command = jobs.start()
    jobs.until_started()
    job = job_id(jobs.run_dir.read_events())
    jobs.ask_to_save(job)
    jobs.until_started(2)
    assert command.poll() is None
    assert job_id(jobs.run_dir.read_events()) == job
    jobs.finish()
    assert jobs.ends(command) == ExitCode.DONE, jobs.story()


@pytest.mark.parametrize("now", [False, True])
def test_a_cancelled_job_ends_for_good(jobs: Case, now: bool) -> None:
    command = jobs.start()
    pids = jobs.until_started()
    job = job_id(jobs.run_dir.read_events())
    jobs.scheduler.cancel(job, now)
    assert jobs.ends(command) == ExitCode.INTERRUPTED, jobs.story()
    jobs.until(lambda: all(map(gone, pids)), "end of the ranks")
    assert jobs.scheduler.jobs([job])[job].code == ExitCode.INTERRUPTED
    assert [len(each) for each in jobs.starts()] == [1, 1]


def test_a_job_waits_for_those_before_it(jobs: Case) -> None:
    first = jobs.start()
    jobs.until_started()
    before = job_id(jobs.run_dir.read_events())
    later = RunDir(jobs.folder / "later")
    later.create()
    later.stage_yaml.write_text("name: later\n")
    after = jobs.scheduler.submit(StageRef("later", later), [before])
    time.sleep(0.5)
    assert jobs.scheduler.jobs([before, after])[after].phase == "waiting"
    jobs.scheduler.cancel(after, now=False)
    jobs.until(lambda: jobs.scheduler.jobs([after])[after].phase == "ended", "end of the later job")
    jobs.finish()
    assert jobs.ends(first) == ExitCode.DONE
