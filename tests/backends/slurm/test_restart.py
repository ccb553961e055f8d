from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from swamp_dist.backends.slurm.restart import (
    after_ranks,
    before_ranks,
    decide_restart,
    main,
    refusal,
)
from swamp_dist.backends.starts import committed_step
from swamp_dist.config import SlurmCluster
from swamp_dist.errors import ExitCode
from swamp_dist.monitor.status import SchedulerAnswer, look
from swamp_dist.runs.events import starts_from
from swamp_dist.runs.folder import RunDir
from swamp_dist.train.checkpoint_folder import write_manifest

LAUNCHED = {"event": "launched", "job": "7", "step": 0}
KILLED = "srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: task 1: Killed\n"


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path)
    folder.job_logs.mkdir(parents=True)
    return folder


def commit(run_dir: RunDir, step: int) -> None:
    folder = run_dir.checkpoints / f"step-{step}"
    folder.mkdir(parents=True)
    write_manifest(folder, step, 1, {}, [])


def accepts(_job: str, _waits: object) -> str:
    """A controller that requeues."""
    return ""


def play(run_dir: RunDir, code: int, restarts: int, accepted: bool = True) -> tuple[ExitCode, list[str]]:
    """One start: `begin`, ranks that end with `code`, `end`; its code and the requeued jobs."""
    requeued: list[str] = []

    def start_again(job: str, _waits: object) -> str:
        requeued.append(job)
        return "" if accepted else f"`scontrol requeue {job}` was refused: busy"

    refused = before_ranks(run_dir, "7", restarts)
    if refused:
        return refused, requeued
    return after_ranks(run_dir, "7", code, SlurmCluster(max_restarts=restarts), start_again), requeued


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
    assert decide_restart([LAUNCHED], "7", 0, code, done, 3, "").code == expected


def test_a_saved_stop_is_told_from_a_crash_whatever_srun_returned() -> None:
    saved = [LAUNCHED, {"event": "preempted", "step": 4}]
    assert decide_restart(saved, "7", 4, 137, False, 3, "rank 1 on node n2: killed").reason == "asked to stop"
    earlier = [*saved, LAUNCHED | {"step": 4}]
    assert (
        decide_restart(earlier, "7", 4, 1, False, 3, "rank 1 on node n2: killed").reason
        == "rank 1 on node n2: killed"
    )


def test_a_stop_by_an_alarm_is_not_started_again_by_itself() -> None:
    stop = [
        LAUNCHED,
        {"event": "started"},
        {"event": "failed", "by_alarm": True, "reason": "stopped.\nLower it"},
    ]
    found = decide_restart(stop, "7", 4, 1, False, 3, "rank 0 on node n1: exit code 1")
    assert (found.code, found.reason) == (ExitCode.FAILED, "stopped. Lower it")
    assert decide_restart([*stop, LAUNCHED], "7", 4, 1, False, 3, "").code == ExitCode.REQUEUE


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
        assert before_ranks(run_dir, "7", 0) == ExitCode.DONE
        commit(run_dir, step)
        assert after_ranks(run_dir, "7", 1, SlurmCluster(max_restarts=0), accepts) == ExitCode.REQUEUE


def test_no_restart_where_none_is_allowed(run_dir: RunDir) -> None:
    assert play(run_dir, 1, restarts=0) == (ExitCode.FAILED, [])


def test_starts_that_slurm_ended_are_counted_too(run_dir: RunDir) -> None:
    """A lost node leaves no time for `end`."""
    assert [before_ranks(run_dir, "7", 2) for _ in range(4)] == [ExitCode.DONE] * 3 + [ExitCode.FAILED]
    assert "started 3 times from step 0" in str(run_dir.read_events()[-1]["reason"])


def test_another_job_has_a_count_of_its_own(run_dir: RunDir) -> None:
    run_dir.append_event("launched", job="6", step=0)
    assert starts_from(run_dir.read_events(), "7", 0) == 0
    assert play(run_dir, 1, restarts=1)[0] == ExitCode.REQUEUE


def test_a_half_written_commit_is_no_progress(run_dir: RunDir) -> None:
    commit(run_dir, 3)
    (run_dir.checkpoints / "step-9").mkdir()
    assert committed_step(run_dir) == 3


def test_a_refused_requeue_is_said(run_dir: RunDir) -> None:
    assert play(run_dir, 75, restarts=3, accepted=False) == (ExitCode.FAILED, ["7"])
    assert "`scontrol requeue 7` was refused" in str(run_dir.read_events()[-1]["reason"])


def test_a_folder_held_by_another_run_is_not_written_in(run_dir: RunDir) -> None:
    assert play(run_dir, 3, restarts=3) == (ExitCode.HELD, [])
    assert [e["event"] for e in run_dir.read_events()] == ["launched"]


def test_a_start_that_only_waited_is_queued_again_whatever_its_number(run_dir: RunDir) -> None:
    """The start before works on: events are its, and no number of waits gives the job up."""
    once = SlurmCluster(max_restarts=1)
    for restart in range(1, 6):
        assert before_ranks(run_dir, "7", 1, restart) == ExitCode.DONE
        run_dir.append_event("waited", job="7", restart=restart)
        assert after_ranks(run_dir, "7", 75, once, accepts, restart) == ExitCode.REQUEUE
    assert {e["event"] for e in run_dir.read_events()} == {"launched", "waited"}
    assert before_ranks(run_dir, "7", 1, 6) == ExitCode.DONE
    assert after_ranks(run_dir, "7", 1, SlurmCluster(max_restarts=0), accepts, 6) == ExitCode.FAILED


@pytest.mark.parametrize("code", [0, 1, 3, 75, 137])
def test_a_start_that_the_scheduler_lost_sight_of_ends_no_later_one(run_dir: RunDir, code: int) -> None:
    assert before_ranks(run_dir, "7", 3, 0) == ExitCode.DONE
    assert before_ranks(run_dir, "7", 3, 1) == ExitCode.DONE
    requeued: list[str] = []

    def start_again(job: str, _waits: object) -> str:
        requeued.append(job)
        return ""

    assert after_ranks(run_dir, "7", code, SlurmCluster(), start_again, 0) == ExitCode.HELD
    assert requeued == []
    assert [e["event"] for e in run_dir.read_events()] == ["launched", "launched"]
    run_dir.result_json.write_text("{}")
    ended = ExitCode.HELD if code == ExitCode.HELD else ExitCode.DONE
    assert after_ranks(run_dir, "7", code, SlurmCluster(), start_again, 0) == ended


def test_only_this_starts_console_names_the_culprit(run_dir: RunDir) -> None:
    run_dir.job_log("7").write_text("srun: error: n1: task 0: Killed\n")
    before_ranks(run_dir, "7", 3)
    with run_dir.job_log("7").open("a") as file:
        file.write(KILLED)
    after_ranks(run_dir, "7", 137, SlurmCluster(), accepts)
    assert run_dir.read_events()[-1]["reason"] == "rank 1 on node n2: killed"


MISTAKE_AND_KILLED = (
    "srun: error: n2: task 1: Exited with exit code 2\nsrun: First task exited 15s ago\n"
    "srun: Terminating StepId=7.0\nsrun: error: n1: task 0: Killed\n"
)
TOLD = "2026-01-02 03:04:05,6 rank 1 ERROR swamp_dist.stage.rank: shard-3.tar: damaged\nFix: copy it again\n"


@pytest.mark.parametrize("killed_first", [False, True])
@pytest.mark.parametrize(
    ("logged", "saved", "expected"),
    [
        (TOLD, False, ExitCode.USER_MISTAKE),
        ("", False, ExitCode.REQUEUE),  # a node whose file system is not mounted ends Python with 2 as well
        (TOLD, True, ExitCode.REQUEUE),
    ],
)
def test_a_mistake_of_one_rank_is_not_repeated_where_srun_killed_the_others(
    run_dir: RunDir, killed_first: bool, logged: str, saved: bool, expected: ExitCode
) -> None:
    assert before_ranks(run_dir, "7", 3) == ExitCode.DONE
    run_dir.began("7").touch()
    run_dir.log(1).write_text(logged)
    lines = MISTAKE_AND_KILLED.splitlines(keepends=True)
    run_dir.job_log("7").write_text("".join(lines[::-1] if killed_first else lines))
    if saved:
        run_dir.append_event("preempted", step=4)
    requeued: list[str] = []

    def start_again(job: str, _waits: object) -> str:
        requeued.append(job)
        return ""

    assert after_ranks(run_dir, "7", 137, SlurmCluster(), start_again) == expected
    assert requeued == (["7"] if expected == ExitCode.REQUEUE else [])
    if expected == ExitCode.USER_MISTAKE:
        said = "rank 1 on node n2: shard-3.tar: damaged. Fix: copy it again"
        assert look(run_dir).reason == said


NO_STEP = (
    "srun: error: Unable to create step for job 7: Memory required by task is not available\n"
    "srun: fatal: more words\n"
)


def play_console(run_dir: RunDir, said: str, began: bool, code: int = 1) -> tuple[ExitCode, list[str]]:
    """One start whose srun says this, with or without a rank that began."""
    requeued: list[str] = []
    assert before_ranks(run_dir, "7", 3) == ExitCode.DONE
    with run_dir.job_log("7").open("a") as file:
        file.write(said)
    if began:
        run_dir.note_began("7")
    ended = after_ranks(run_dir, "7", code, SlurmCluster(), lambda job, _: requeued.append(job) or "")  # type: ignore[func-returns-value]
    return ended, requeued


def test_where_srun_started_no_rank_the_job_fails_at_once_in_its_words(run_dir: RunDir) -> None:
    assert play_console(run_dir, NO_STEP, began=True) == (ExitCode.REQUEUE, ["7"])
    assert play_console(run_dir, NO_STEP, began=False) == (ExitCode.FAILED, [])
    assert run_dir.read_events()[-1]["reason"] == (
        "srun started no rank: srun: error: Unable to create step for job 7: "
        "Memory required by task is not available"
    )


@pytest.mark.parametrize(
    ("said", "code", "refused"),
    [
        (NO_STEP, 1, True), ("/x/script: line 9: srun: command not found\n", 127, True),
        ("srun: error: Invalid --distribution specification\n", 255, True), (NO_STEP, 137, False),
        (NO_STEP, 143, False), (NO_STEP, 0, False), ("no word of srun\n", 1, False),
        ("srun: error: Unable to create step for job 7: Socket timed out on send/recv operation\n", 1, False),
        ("srun: error: Task launch for StepId=7.0 failed on node n2: Communication connection failure\n", 1,
         False),
        ("srun: error: Unable to confirm allocation for job 7: Job/step already completing or completed\n", 1,
         False),
    ],
)  # fmt: skip
def test_a_trouble_that_passes_is_no_refusal(said: str, code: int, refused: bool) -> None:
    assert bool(refusal(said, code)) == refused


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (600, "asked to stop"),
        (60 * 60 - 200, "time limit near (60 minutes)"),
        (60 * 60 - 20, "time limit near (60 minutes)"),
    ],
)
def test_a_save_that_the_time_limit_asked_for_says_so(run_dir: RunDir, after: float, reason: str) -> None:
    assert before_ranks(run_dir, "7", 3) == ExitCode.DONE
    began = run_dir.read_events()[-1]["time"]
    assert isinstance(began, float)
    with run_dir.events_jsonl.open("a") as file:
        file.write(json.dumps({"time": began + after, "event": "preempted", "step": 4}) + "\n")
    assert after_ranks(run_dir, "7", 75, SlurmCluster(), accepts) == ExitCode.REQUEUE
    assert run_dir.read_events()[-1]["reason"] == reason


def test_a_requeue_that_has_to_wait_is_told_while_it_waits(run_dir: RunDir) -> None:
    def waits(_job: str, told: Callable[[str], None]) -> str:
        told("Unable to contact slurm controller; asked again for 40 minutes")
        assert "Unable to contact" in look(run_dir, asked=SchedulerAnswer(error="silent")).reason
        assert look(run_dir, asked=SchedulerAnswer(error="silent")).state == "requeued"
        return ""

    before_ranks(run_dir, "7", 3)
    assert after_ranks(run_dir, "7", 75, SlurmCluster(), waits) == ExitCode.REQUEUE


def test_a_mistake_of_the_ranks_keeps_reason_and_fix_up_to_the_status(run_dir: RunDir) -> None:
    assert before_ranks(run_dir, "7", 3) == ExitCode.DONE
    run_dir.began("7").touch()
    with run_dir.log(0).open("a") as log:
        log.write(
            "2026-01-02 03:04:05,6 rank 0 ERROR swamp_dist.stage.rank: data.lanes = 5 does not divide 24\n"
            "Fix: data.lanes=6\n"
        )
    run_dir.job_log("7").write_text("srun: error: n1: tasks 0-1: Exited with exit code 2\n")
    assert after_ranks(run_dir, "7", 2, SlurmCluster(), accepts) == ExitCode.USER_MISTAKE
    reason = look(run_dir).reason
    assert reason == "rank 0 on node n1: data.lanes = 5 does not divide 24. Fix: data.lanes=6"


def test_a_cluster_file_that_cannot_be_read_is_told_in_the_folder(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    run_dir.cluster_yaml.write_text("backend: slurm\nnode: 2\n")
    assert main(["begin", str(run_dir.path)]) == ExitCode.USER_MISTAKE
    assert "node" in look(run_dir).reason
