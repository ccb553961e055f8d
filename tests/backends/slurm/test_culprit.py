from __future__ import annotations

import os
from pathlib import Path

import pytest

from swamp_dist.backends.slurm.culprit import culprit, log_since
from swamp_dist.runs.folder import RunDir

WAITED = "srun: First task exited 15s ago\nsrun: StepId=7.0 task 0: running\nsrun: Terminating StepId=7.0\n"
LINE = "2026-01-02 03:04:05,678 rank {} ERROR swamp_dist.stage.rank: {}\n"
LOGS = {
    0: LINE.format(0, "rank 0 lost its connection to another rank and stopped"),
    1: LINE.format(1, "shard-3.tar: damaged"),
}


@pytest.mark.parametrize(
    ("console", "named"),
    [
        ("srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: task 1: Killed\n",
         "rank 1 on node n2: killed"),
        # srun itself kills those that hang in a collective: they did not begin it
        (f"srun: error: n2: task 1: Exited with exit code 1\n{WAITED}srun: error: n1: task 0: Killed\n",
         "rank 1 on node n2: exited with exit code 1"),
        (f"{WAITED}srun: error: n1: task 0: Killed\n", "rank 0 on node n1: killed"),
        ("srun: error: gpu7: tasks 8-15: Segmentation fault\n",
         "ranks 8-15 on node gpu7: segmentation fault"),
        ("loss 1.0\n", ""),
    ],
)  # fmt: skip
def test_srun_alone_names_who_ended_first(console: str, named: str) -> None:
    assert culprit(console) == named


def test_logs_tell_the_one_that_failed_from_those_that_lost_it() -> None:
    console = "srun: error: n1: tasks 0-1: Exited with exit code 1\n"
    said = "rank 1 on node n1: exited with exit code 1 (shard-3.tar: damaged)"
    assert culprit(console, lambda rank: LOGS[rank]) == said
    swapped = {0: LOGS[1], 1: LOGS[0]}
    assert culprit(console, lambda rank: swapped[rank]).startswith("rank 0 on node n1")


def test_a_log_is_read_from_this_start_on(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.create()
    run_dir.log(1).write_text("of the start before\n")
    sizes = run_dir.log_sizes()
    with run_dir.log(1).open("a") as file:
        file.write("of this one\n")
    assert log_since(run_dir, "7", sizes, 1) == "of this one\n"
    assert log_since(run_dir, "7", {}, 7) == ""
    os.truncate(run_dir.log(1), 0)
    assert log_since(run_dir, "7", sizes, 1) == ""


def test_a_mistake_is_told_in_the_ranks_own_words_with_its_fix() -> None:
    error = LINE.format(1, "shard-3.tar: damaged") + "Fix: copy it again.\n"
    later = "2026-01-02 03:04:06,678 rank 1 INFO swamp_dist.stage.rank: left\n"
    logs = {0: LOGS[0], 1: error + later}
    console = (
        "srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: task 1: Exited with exit code 2\n"
    )
    said = "rank 1 on node n2: shard-3.tar: damaged. Fix: copy it again."
    assert culprit(console, lambda rank: logs[rank]) == said


def test_what_a_rank_says_before_it_has_a_log_stands_on_its_console(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.job_logs.mkdir(parents=True)
    run_dir.task_log("7", 1).write_text("of the start before\n")
    sizes = run_dir.log_sizes()
    with run_dir.task_log("7", 1).open("a") as file:
        file.write("error: RANK=x is no number\nFix: unset RANK.\nsrun: error: n1: task 1: Exited\n")
    assert log_since(run_dir, "7", sizes, 1).startswith("error: RANK=x")
    console = "srun: error: n1: tasks 0-1: Exited with exit code 2\n"
    said = culprit(console, lambda rank: log_since(run_dir, "7", sizes, rank))
    assert said.endswith("on node n1: RANK=x is no number. Fix: unset RANK.")
