from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.launch import attempt
from swamp_dist.launch.attempt import begin, culprit, end, scontrol_requeue, starts_from, verdict
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.rundir import RunDir
from swamp_dist.train.commit_folder import write_manifest

LAUNCHED = {"event": "launched", "job": "7", "step": 0}
KILLED = "srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: task 1: Killed\n"


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path)
    folder.slurm_logs.mkdir(parents=True)
    return folder


def commit(run_dir: RunDir, step: int) -> None:
    folder = run_dir.checkpoints / f"step-{step}"
    folder.mkdir(parents=True)
    write_manifest(folder, step, 1, {}, [])


def play(run_dir: RunDir, code: int, restarts: int, accepted: bool = True) -> tuple[ExitCode, list[str]]:
    """One start: `begin`, ranks that end with `code`, `end`; its code and the requeued jobs."""
    requeued: list[str] = []
    refused = begin(run_dir, "7", restarts)
    if refused:
        return refused, requeued
    return end(run_dir, "7", code, restarts, lambda job: requeued.append(job) or accepted), requeued  # type: ignore[func-returns-value]


def test_starts_of_an_older_job_with_this_number_do_not_count() -> None:
    submitted = {"event": "submitted", "job": "7"}
    assert starts_from([submitted, LAUNCHED, LAUNCHED], "7", 0) == 2
    assert starts_from([submitted, LAUNCHED, LAUNCHED, submitted, LAUNCHED], "7", 0) == 1
    assert starts_from([LAUNCHED, submitted | {"found": True}, LAUNCHED], "7", 0) == 2


@pytest.mark.parametrize(
    ("code", "done", "expected"),
    [
        (0, True, ExitCode.DONE), (1, True, ExitCode.DONE), (139, True, ExitCode.DONE),
        (2, False, ExitCode.USER_MISTAKE), (3, False, ExitCode.HELD), (3, True, ExitCode.HELD),
        (75, False, ExitCode.REQUEUE), (1, False, ExitCode.REQUEUE), (137, False, ExitCode.REQUEUE),
        (140, False, ExitCode.REQUEUE), (0, False, ExitCode.REQUEUE),
    ],
)  # fmt: skip
def test_what_follows_from_an_exit_code(code: int, done: bool, expected: ExitCode) -> None:
    assert verdict([LAUNCHED], "7", 0, code, done, 3, "").code == expected


def test_a_saved_stop_is_told_from_a_crash_whatever_srun_returned() -> None:
    saved = [LAUNCHED, {"event": "preempted", "step": 4}]
    assert verdict(saved, "7", 4, 137, False, 3, "rank 1 on node n2: killed").reason == "asked to stop"
    earlier = [*saved, LAUNCHED | {"step": 4}]
    assert (
        verdict(earlier, "7", 4, 1, False, 3, "rank 1 on node n2: killed").reason
        == "rank 1 on node n2: killed"
    )


def test_restarts_without_progress_are_capped(run_dir: RunDir) -> None:
    for _ in range(3):
        assert play(run_dir, 1, restarts=3) == (ExitCode.REQUEUE, ["7"])
    assert play(run_dir, 1, restarts=3) == (ExitCode.FAILED, [])
    last = run_dir.read_events()[-1]
    assert last["event"] == "failed"
    assert "started 4 times from step 0" in str(last["reason"])


def test_progress_starts_the_count_anew(run_dir: RunDir) -> None:
    for step in range(1, 8):
        assert play(run_dir, 75, restarts=1) == (ExitCode.REQUEUE, ["7"])
        assert play(run_dir, 75, restarts=1)[0] == (ExitCode.FAILED)
        commit(run_dir, step)


def test_a_commit_during_the_start_counts_as_progress(run_dir: RunDir) -> None:
    for step in range(1, 5):
        assert begin(run_dir, "7", 0) == ExitCode.DONE
        commit(run_dir, step)
        assert end(run_dir, "7", 1, 0, lambda _: True) == ExitCode.REQUEUE


def test_no_restart_where_none_is_allowed(run_dir: RunDir) -> None:
    assert play(run_dir, 1, restarts=0) == (ExitCode.FAILED, [])


def test_starts_that_slurm_ended_are_counted_too(run_dir: RunDir) -> None:
    """A lost node leaves no time for `end`."""
    assert [begin(run_dir, "7", 2) for _ in range(4)] == [ExitCode.DONE] * 3 + [ExitCode.FAILED]
    assert "started 3 times from step 0" in str(run_dir.read_events()[-1]["reason"])


def test_another_job_has_a_count_of_its_own(run_dir: RunDir) -> None:
    run_dir.append_event("launched", job="6", step=0)
    assert starts_from(run_dir.read_events(), "7", 0) == 0
    assert play(run_dir, 1, restarts=1)[0] == ExitCode.REQUEUE


def test_a_half_written_commit_is_no_progress(run_dir: RunDir) -> None:
    commit(run_dir, 3)
    (run_dir.checkpoints / "step-9").mkdir()
    assert attempt.committed_step(run_dir) == 3


def test_a_refused_requeue_is_said(run_dir: RunDir) -> None:
    assert play(run_dir, 75, restarts=3, accepted=False) == (ExitCode.FAILED, ["7"])
    assert "`scontrol requeue 7` was refused" in str(run_dir.read_events()[-1]["reason"])


def test_a_folder_held_by_another_run_is_not_written_in(run_dir: RunDir) -> None:
    assert play(run_dir, 3, restarts=3) == (ExitCode.HELD, [])
    assert [e["event"] for e in run_dir.read_events()] == ["launched"]


def test_only_this_starts_console_names_the_culprit(run_dir: RunDir) -> None:
    run_dir.slurm_log("7").write_text("srun: error: n1: task 0: Killed\n")
    begin(run_dir, "7", 3)
    with run_dir.slurm_log("7").open("a") as file:
        file.write(KILLED)
    end(run_dir, "7", 137, 3, lambda _: True)
    assert run_dir.read_events()[-1]["reason"] == "rank 1 on node n2: killed"


@pytest.mark.parametrize(
    ("console", "named"),
    [
        (KILLED, "rank 1 on node n2: killed"),
        ("srun: error: n1: task 0: Exited with exit code 1\n", "rank 0 on node n1: exited with exit code 1"),
        (
            "srun: error: gpu7: tasks 8-15: Segmentation fault\n",
            "ranks 8-15 on node gpu7: segmentation fault",
        ),
        ("loss 1.0\n", ""),
    ],
)
def test_culprit(console: str, named: str) -> None:
    assert culprit(console) == named


def test_requeue_is_tried_until_the_controller_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ $(wc -l < {tmp_path}/asked) -ge 3 ]\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(attempt, "_PAUSES", (0.0,) * 5)
    monkeypatch.setattr(attempt, "_KILLED_WITHIN", 0.0)
    assert scontrol_requeue("7")
    assert (tmp_path / "asked").read_text() == "requeue 7\n" * 3
    monkeypatch.setattr(attempt, "_PAUSES", (0.0,))
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    assert not scontrol_requeue("7")
