"""Many runs at a glance, and that every line fits while names stay whole."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from swamp_dist.monitor.overview import common_folder, headline, overview, time_left
from swamp_dist.monitor.status import BestMetric, RunStatus
from swamp_dist.monitor.table import runs_table

RUN = RunStatus(
    key="seed-0/finetune-contrastive-pretrained", run_dir=Path("r"), state="running", reason="", restarts=1,
    step=100, total=400, seconds_per_step=0.1, seconds_left=30.0, committed=None, world_size=1, host="",
    job_id="", outcome=BestMetric("finetune_validation pair/a_to_b/r_at_1", 12.5, 13.25, 80), seen=None,
    after=("seed-0/pretrain",),
)  # fmt: skip
DONE, WAITING = replace(RUN, state="done"), replace(RUN, state="waiting", step=None, seconds_left=None)
MANY = [
    replace(DONE if n < 40 else RUN if n < 42 else WAITING, key=f"runs/seed-{n}/train") for n in range(63)
]


def drawn(runs: list[RunStatus], room: int | None, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(runs_table(runs, room))
    return out.getvalue().splitlines()


def test_the_headline_counts() -> None:
    assert headline(MANY, 540.0) == "40 of 63 done, 2 running, about 9 min left"
    assert headline([replace(RUN, state="failed"), replace(RUN, state="blocked")]) == (
        "0 of 2 done, 1 blocked, 1 failed"
    )


def test_running_ones_come_first_and_done_ones_are_folded() -> None:
    view = overview(MANY, 10)
    assert len(view.shown) == 9
    assert [run.state for run in view.shown] == ["running"] * 2 + ["waiting"] * 7
    assert view.folded == "not shown: 14 waiting, 40 done"
    assert overview(MANY).shown[:2] == tuple(MANY[40:42])
    assert not overview(MANY[:3], 3).folded


def test_time_left_is_that_of_runs_of_the_same_name() -> None:
    runs = [replace(DONE, key="a/long"), replace(DONE, key="a/short")]
    runs += [replace(WAITING, key=f"{cell}/{name}") for cell in "bc" for name in ("long", "short")]
    assert time_left(runs, {"a/long": 100.0, "a/short": 10.0}, 1) == 220.0
    assert time_left(runs, {"a/long": 100.0, "a/short": 10.0}, 4) == 100.0  # no less than the longest
    assert time_left(runs, {}, 1) is None
    assert time_left([*runs[:2], replace(RUN, key="b/long")], {"a/long": 100.0}, 1) == 30.0  # its own pace


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_lines_fit_and_names_stay_whole(columns: int) -> None:
    runs = [replace(RUN, key=f"seed-{n}/finetune-contrastive-pretrained-at-length") for n in range(3)]
    lines = drawn(runs, columns, columns)
    assert max(map(len, lines)) <= columns
    for run, line in zip(runs, lines[1:], strict=False):
        assert line.startswith(run.key)
        assert "13.25 @80" in line
    said = "\n".join(lines)
    assert "finetune_validation pair/a_to_b/r_at_1" in said  # in its column, or told once


def test_a_pipe_shows_everything() -> None:
    (_, line) = drawn([RUN], None, 2000)
    assert line.split()[:2] == [RUN.key, "running"]
    assert "finetune_validation pair/a_to_b/r_at_1" in line


def test_common_folders_are_told_once() -> None:
    assert common_folder(["x/a/one", "x/b/two", "x/b/three"]) == "x/"
    assert common_folder(["one", "x/b/two"]) == common_folder(["x/b/two"]) == ""
    lines = drawn([replace(RUN, key=f"video/seed-{n}/train") for n in range(2)], 80, 80)
    assert lines[1].startswith("seed-0/train ")
    assert "all in video/" in lines
