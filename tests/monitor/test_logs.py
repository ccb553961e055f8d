from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.errors import UserError
from swamp_dist.monitor.logs import find_logs, follow, lines_of
from swamp_dist.runs.folder import RunDir
from tests.runs.written_runs import DEAD, started, write


def begin(run_dir: RunDir) -> None:
    run_dir.append_event("starting", **DEAD.as_dict(), world_size=2, logs=run_dir.log_sizes())


def say(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def shown(run_dir: RunDir, most: int | None = None) -> list[str]:
    return list(lines_of(run_dir, find_logs(run_dir, 0)[0], most))


def test_a_line_stands_where_the_run_was_started_again(tmp_path: Path) -> None:
    run_dir = write(tmp_path)
    begin(run_dir)
    say(run_dir.log(0), "one\ntwo\n")
    run_dir.append_event("preempted", step=2)
    begin(run_dir)  # killed before it wrote a line
    begin(run_dir)
    say(run_dir.log(0), "three\nhalf")
    lines = shown(run_dir)
    assert [line for line in lines if not line.startswith("----")] == ["one", "two", "three", "half"]
    assert [line[:12] for line in lines] == [
        "---- start 1", "one", "two", "---- start 2", "---- start 3", "three", "half",
    ]  # fmt: skip
    assert lines[3].endswith(f"on {DEAD.host}, 2 ranks (start 1: preempted at step 2) ----")
    assert lines[4].endswith("(start 2 ended without a word) ----")
    assert shown(run_dir, 2) == ["three", "half"]


def test_the_console_goes_before_rank_0_and_scheduler_output_stands_beside(tmp_path: Path) -> None:
    run_dir = write(tmp_path)
    say(run_dir.log(0), "rank\n")
    assert [log.what for log in find_logs(run_dir, None)] == ["rank 0"]
    say(run_dir.console_log, "console\n")
    say(run_dir.logs / "slurm-7.out", "node failed\n")
    assert [log.what for log in find_logs(run_dir, None)] == ["scheduler output", "console"]
    assert [log.path for log in find_logs(run_dir, 0)] == [run_dir.log(0)]
    with pytest.raises(UserError, match=r"no log of rank 3(.|\n)*console.log, rank-000.log"):
        find_logs(run_dir, 3)
    with pytest.raises(UserError, match="There are: none"):
        find_logs(write(tmp_path / "new"), None)


def test_following_gives_every_line_once_and_starts_too(tmp_path: Path) -> None:
    run_dir = write(tmp_path, started(DEAD))
    say(run_dir.log(0), "one\n")
    happens = iter(
        [
            lambda: say(run_dir.log(0), "tw"),
            lambda: say(run_dir.log(0), "o\nthr"),
            lambda: (begin(run_dir), say(run_dir.log(0), "ee\n")),
            lambda: say(run_dir.log(0), "last, without a line end"),
        ]
    )

    def live() -> bool:
        action = next(happens, None)
        if action is not None:
            action()
        return action is not None

    lines = list(follow(run_dir, find_logs(run_dir, 0)[0], None, live, look=0.0))
    assert [line[:12] for line in lines] == [
        "---- start 1", "one", "two", "---- start 2", "three", "last, withou",
    ]  # fmt: skip
