from __future__ import annotations

import stat
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.slurm import shared_answer as module
from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.backends.slurm.shared_answer import shared_answer
from swamp_dist.config import SlurmCluster
from swamp_dist.records import JobState
from tests.runs.written_runs import calls, fake_command

JOBS = [str(number) for number in range(16)]


class Scheduler:
    """Answers, and notes every question."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.silent = False

    def __call__(self, ids: Sequence[str]) -> dict[str, JobState]:
        self.questions.append(sorted(ids, key=int))
        if self.silent:
            raise SchedulerError("no answer")
        return {job: JobState(job, "running", seconds=float(len(self.questions)), owner="/x") for job in ids}


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that a test moves; the shared folder is the test's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    now = SimpleNamespace(at=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now.at))
    return now


def test_one_question_answers_all_that_follow(clock: SimpleNamespace) -> None:
    ask = Scheduler()
    for job in JOBS:  # each is heard of for the first time
        shared_answer([job], "s", ask)
    assert len(ask.questions) == len(JOBS)
    for minute in range(1, 4):
        clock.at += 5.0
        for _ in range(3):
            for job in JOBS:
                found = shared_answer([job], "s", ask)[job]
                assert (found.id, found.owner, found.seconds) == (job, "/x", float(len(ask.questions)))
        assert len(ask.questions) == len(JOBS) + minute
        assert ask.questions[-1] == JOBS


def test_followers_at_once_ask_once(clock: SimpleNamespace) -> None:
    ask = Scheduler()
    shared_answer(JOBS, "s", ask)
    clock.at += 5.0
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda job: shared_answer([job], "s", ask), JOBS))
    assert len(ask.questions) == 2


def test_who_is_not_followed_any_more_is_not_asked_about(clock: SimpleNamespace) -> None:
    ask = Scheduler()
    shared_answer(["1"], "s", ask)
    clock.at += 61.0
    shared_answer(["2"], "s", ask)
    assert ask.questions[-1] == ["2"]
    shared_answer(["3"], "other", ask)
    assert ask.questions[-1] == ["3"]


def test_a_silent_scheduler_is_asked_once_too(clock: SimpleNamespace) -> None:
    ask = Scheduler()
    shared_answer(JOBS, "s", ask)
    ask.silent = True
    clock.at += 5.0
    for job in JOBS:
        with pytest.raises(SchedulerError, match="no answer"):
            shared_answer([job], "s", ask)
    assert len(ask.questions) == 2
    ask.silent = False
    clock.at += 5.0
    assert shared_answer(["1"], "s", ask)["1"].phase == "running"


def test_nothing_is_shared_through_a_folder_of_somebody_else(clock: SimpleNamespace, tmp_path: Path) -> None:
    ask = Scheduler()
    shared_answer(["1"], "s", ask)
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    next(folder.glob("*.json")).write_text("half a")
    shared_answer(["1"], "s", ask)
    folder.chmod(0o777)
    for _ in range(3):
        shared_answer(["1"], "s", ask)
    assert len(ask.questions) == 5


def test_jobs_that_are_followed_share_a_squeue(
    clock: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    fake_command(commands, "squeue", 'for j in 1 2 3; do echo "$j|RUNNING|0:10|None|/x"; done')
    fake_command(commands, "scontrol", "")
    monkeypatch.setenv("PATH", str(commands))
    SlurmBackend(SlurmCluster()).follow(["1", "2", "3"])
    for job in ("1", "2", "3"):
        assert SlurmBackend(SlurmCluster()).follow([job])[job].phase == "running"
    assert len(calls(commands, "squeue")) == 1
    SlurmBackend(SlurmCluster()).jobs(["1"])  # a question of its own is never answered from before
    assert len(calls(commands, "squeue")) == 2
