"""Against small executables that print what squeue, scontrol and scancel of SLURM 22 and 23 print."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.launch import scheduler
from swamp_dist.launch.scheduler import Job, SchedulerError
from tests.launch.runs import calls, fake_command

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
    assert found == {"7": Job("7", "PENDING", "Resources", 0.0), "8_2": Job("8_2", "RUNNING", "", 93784.0)}
    assert found["7"].waiting
    assert found["8_2"].running
    assert not found["8_2"].waiting
    assert calls(commands, "squeue") == ["--noheader --jobs=7,8_2 --format=%i|%T|%M|%r"]
    assert calls(commands, "scontrol") == []


def test_an_ended_job_comes_from_scontrol_and_an_unknown_one_is_left_out(commands: Path) -> None:
    unknown = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    fake_command(commands, "squeue", unknown)
    fake_command(commands, "scontrol", f'[ "$4" = 8 ] && echo "{ENDED}" && exit 0\n{unknown}')
    found = scheduler.jobs(["8", "9"])
    assert found == {"8": Job("8", "TIMEOUT", "TimeLimit", 86466.0, 0)}
    assert not found["8"].waiting
    assert not found["8"].running


def test_a_job_is_found_by_its_comment(commands: Path) -> None:
    fake_command(commands, "squeue", "echo '7|/runs/a'; echo '8_1|/runs/a b|c'; echo '9|(null)'")
    assert scheduler.find("/runs/a b|c") == ["8_1"]
    assert scheduler.find("/runs") == []
    fake_command(commands, "squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    with pytest.raises(SchedulerError, match="Unable to contact"):
        scheduler.find("/runs/a")


def test_no_scheduler_and_a_silent_one_say_so(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SchedulerError, match="neither squeue nor scontrol"):
        scheduler.jobs(["7"])
    down = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    fake_command(commands, "squeue", f"echo '{down}' >&2; exit 1")
    with pytest.raises(SchedulerError, match="Unable to contact slurm controller"):
        scheduler.jobs(["7"])
    monkeypatch.setattr(scheduler, "_SECONDS", 0.2)
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


def test_settings_are_read_by_name(commands: Path) -> None:
    shown = "Configuration data as of 2026-01-01T00:00:00\nKillWait                = 30 sec\nJobRequeue              = 1"
    fake_command(commands, "scontrol", f"echo '{shown}'")
    assert scheduler.settings() == {"KillWait": "30 sec", "JobRequeue": "1"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:00", 0.0), ("1:02", 62.0), ("01:00:01", 3601.0), ("2-00:00:00", 172800.0), ("INVALID", None), ("", None)],
)  # fmt: skip
def test_clock(text: str, seconds: float | None) -> None:
    assert scheduler.clock_seconds(text) == seconds
