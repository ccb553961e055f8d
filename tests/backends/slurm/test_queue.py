"""Against small executables that print what squeue, scontrol and scancel of SLURM 22 and 23 print."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.slurm import commands as commands_module
from swamp_dist.backends.slurm import queue as scheduler
from swamp_dist.errors import ExitCode
from swamp_dist.records import JobState
from tests.runs.written_runs import calls, fake_command

ENDED = (
    "JobId=8 JobName=pre UserId=me(1000) GroupId=me(1000) MCS_label=N/A Priority=4294901758 Nice=0 "
    "Account=(null) QOS=(null) JobState=TIMEOUT Reason=TimeLimit Dependency=(null) Requeue=1 Restarts=2 "
    "BatchFlag=1 Reboot=0 ExitCode=0:15 RunTime=1-00:01:06 TimeLimit=1-00:00:00"
)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands; PATH holds it and what a shell script needs."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    return tmp_path / "bin"


def test_waiting_and_running_jobs_come_from_one_question(commands: Path) -> None:
    fake_command(commands, "squeue", "echo '7|PENDING|0:00|Resources'; echo '8_2|RUNNING|1-02:03:04|None'")
    fake_command(commands, "scontrol", "echo unasked >&2; exit 1")
    found = scheduler.jobs(["7", "8_2", "7"])
    assert found == {
        "7": JobState("7", "waiting", "Resources", 0.0, word="PENDING"),
        "8_2": JobState("8_2", "running", "", 93784.0, word="RUNNING"),
    }
    assert calls(commands, "squeue") == ["--noheader --jobs=7,8_2 --format=%i|%T|%M|%r|%k"]
    assert calls(commands, "scontrol") == []


def test_an_ended_job_comes_from_scontrol_and_an_unknown_one_is_left_out(commands: Path) -> None:
    unknown = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    fake_command(commands, "squeue", unknown)
    fake_command(commands, "scontrol", f'[ "$4" = 8 ] && echo "{ENDED}" && exit 0\n{unknown}')
    found = scheduler.jobs(["8", "9"])
    assert found == {"8": JobState("8", "ended", "TimeLimit", 86466.0, 0, "TIMEOUT", owner="")}


def test_a_job_is_found_by_its_comment(commands: Path) -> None:
    fake_command(commands, "squeue", "echo '7|/runs/a'; echo '8_1|/runs/a b|c'; echo '9|(null)'")
    assert scheduler.find("/runs/a b|c") == ["8_1"]
    assert scheduler.find("/runs") == []
    fake_command(commands, "squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    with pytest.raises(SchedulerError, match="Unable to contact"):
        scheduler.find("/runs/a")


def test_whose_a_job_is_comes_with_its_state(commands: Path) -> None:
    fake_command(
        commands, "squeue", "echo '7|PENDING|0:00|Resources|/runs/a b|c'; echo '9|RUNNING|1:00|None|(null)'"
    )
    owned = f"{ENDED} Comment=/runs/x y Z=1 StdErr=/dev/null"
    fake_command(commands, "scontrol", f'echo "{owned}"')
    found = scheduler.jobs(["7", "8", "9"])
    assert [found[job].owner for job in ("7", "8", "9")] == ["/runs/a b|c", "/runs/x y", ""]


def test_a_cluster_of_several_is_named_in_every_question(commands: Path) -> None:
    fake_command(commands, "squeue", "echo 'CLUSTER: big'; echo '7|PENDING|0:00|Resources|/runs/a'")
    for name in ("scontrol", "scancel"):
        fake_command(commands, name, "")
    assert scheduler.jobs(["7"], "big")["7"].phase == "waiting"
    assert scheduler.find("/runs/a", "big") == []
    scheduler.cancel("7", False, "big")
    for name in ("squeue", "scontrol", "scancel"):
        assert calls(commands, name)
        assert all(call.startswith("-M big ") for call in calls(commands, name))


def test_no_scheduler_and_a_silent_one_say_so(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SchedulerError, match="neither squeue nor scontrol"):
        scheduler.jobs(["7"])
    down = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    fake_command(commands, "squeue", f"echo '{down}' >&2; exit 1")
    with pytest.raises(SchedulerError, match="Unable to contact slurm controller"):
        scheduler.jobs(["7"])
    monkeypatch.setattr(commands_module, "SECONDS", 0.2)
    fake_command(commands, "squeue", "while :; do :; done")
    with pytest.raises(SchedulerError, match="no answer within"):
        scheduler.jobs(["7"])


def test_what_is_no_job_id_never_reaches_a_command(commands: Path) -> None:
    fake_command(commands, "squeue", "")
    fake_command(commands, "scontrol", "")
    assert scheduler.jobs(["--all", "7; x", ""]) == {}
    assert calls(commands, "squeue") == []
    with pytest.raises(SchedulerError, match="no job id"):
        scheduler.cancel("--user=me", now=False)


def test_cancelling_switches_requeueing_off_first(commands: Path) -> None:
    fake_command(commands, "scontrol", f"echo scontrol >> {commands}/order")
    fake_command(commands, "scancel", f"echo scancel >> {commands}/order")
    scheduler.cancel("7", now=False)
    scheduler.cancel("8", now=True)
    assert calls(commands, "scontrol") == ["update JobId=7 Requeue=0", "update JobId=8 Requeue=0"]
    assert calls(commands, "scancel") == ["7", "--signal=KILL --full 8"]
    assert (commands / "order").read_text().split()[:2] == ["scontrol", "scancel"]
    fake_command(commands, "scancel", "echo 'scancel: error: Access/permission denied' >&2; exit 1")
    with pytest.raises(SchedulerError, match="permission denied"):
        scheduler.cancel("7", now=False)


def test_a_waiting_job_whose_update_is_refused_is_cancelled_all_the_same(commands: Path) -> None:
    refused = "echo 'Requested partition configuration not available now' >&2; exit 1"
    fake_command(commands, "scontrol", refused)
    fake_command(commands, "scancel", "")
    fake_command(
        commands, "squeue", "echo '7|PENDING|0:00|PartitionConfig|/x'; echo '8|RUNNING|0:00|None|/x'"
    )
    scheduler.cancel("7", now=False)
    assert calls(commands, "scancel") == ["7"]
    with pytest.raises(SchedulerError, match="scontrol update JobId=8 Requeue=0: Requested partition"):
        scheduler.cancel("8", now=False)
    assert calls(commands, "scancel") == ["7"]


def test_settings_are_read_by_name(commands: Path) -> None:
    shown = (
        "Configuration data as of 2026-01-01T00:00:00\n"
        "KillWait                = 30 sec\nJobRequeue              = 1"
    )
    fake_command(commands, "scontrol", f"echo '{shown}'")
    assert scheduler.settings() == {"KillWait": "30 sec", "JobRequeue": "1"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:00", 0.0), ("1:02", 62.0), ("01:00:01", 3601.0), ("2-00:00:00", 172800.0), ("INVALID", None),
     ("", None)],
)  # fmt: skip
def test_clock(text: str, seconds: float | None) -> None:
    assert scheduler.clock_seconds(text) == seconds


@pytest.mark.parametrize(
    "word", ["RUNNING", "CONFIGURING", "COMPLETING", "SIGNALING", "SUSPENDED", "RESIZING"]
)
def test_a_job_that_holds_machines_is_running(commands: Path, word: str) -> None:
    fake_command(commands, "squeue", f"echo '7|{word}|0:10|None'")
    assert scheduler.jobs(["7"])["7"].phase == "running"


def test_a_cancelled_job_and_one_that_never_starts_are_told_apart(commands: Path) -> None:
    fake_command(commands, "squeue", "echo '7|PENDING|0:00|DependencyNeverSatisfied'")
    fake_command(commands, "scontrol", "echo 'JobId=8 JobState=CANCELLED Reason=None ExitCode=0:15'")
    found = scheduler.jobs(["7", "8"])
    assert (found["7"].phase, found["7"].stuck) == ("waiting", True)
    assert "a job before it has failed" in found["7"].fix
    assert (found["8"].phase, found["8"].code) == ("ended", ExitCode.INTERRUPTED)


def test_requeue_is_tried_until_the_controller_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = "echo 'slurm_update error: Unable to contact slurm controller (connect failure)' >&2"
    fake_command(
        tmp_path, "scontrol", f"[ $(wc -l < {tmp_path}/scontrol.calls) -ge 3 ] || {{ {away}; exit 1; }}"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert sum(scheduler._PAUSES) >= 30 * 60
    slept: list[float] = []
    monkeypatch.setattr(scheduler, "time", SimpleNamespace(sleep=slept.append))
    told: list[str] = []
    assert scheduler.requeue("7", told.append) == ""
    assert calls(tmp_path, "scontrol") == ["requeue 7"] * 3
    assert slept == [*scheduler._PAUSES[:2], scheduler._KILLED_WITHIN]
    (said,) = told
    assert "Unable to contact slurm controller" in said
    assert "for 41 minutes" in said


def test_a_requeue_that_is_never_accepted_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_command(tmp_path, "scontrol", "echo 'Requested operation is presently disabled' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}")
    refused = scheduler.requeue("7")
    assert refused == "`scontrol requeue 7` was refused: Requested operation is presently disabled"
    assert len(calls(tmp_path, "scontrol")) == 1
    (tmp_path / "scontrol").unlink()
    assert "scontrol is neither on PATH nor beside srun" in scheduler.requeue("7")
