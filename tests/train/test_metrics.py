"""What is logged reads back once a step, however often the run is killed."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import tests.ranks  # noqa: F401 (tells the fork server what to import)
from swamp_dist.distributed import World, alone
from swamp_dist.records import EvaluationResult, RetrievalMetrics, StepReport
from swamp_dist.train.loggers.logger import RunAbout
from swamp_dist.train.metrics import TAGS, evaluation_figures, open_metrics

RESULT = EvaluationResult(
    "val",
    {
        "pair/a_to_b": RetrievalMetrics("text->video", "pair", 10.0, 30.0, 50.0, 9.5, 100, 100),
        "class/b_to_a": RetrievalMetrics(
            "video->text", "class", 1.0, 2.0, 3.0, 4.0, 100, 100, 33.0, {100: 12.0}, {200: 13.0}
        ),
    },
)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events_of(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    keep_all = {"scalars": 0, "histograms": 0, "tensors": 0}
    return EventAccumulator(str(folder), size_guidance=keep_all).Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = events_of(folder)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_both_files_hold_the_same_figures(tmp_path: Path) -> None:
    writer = open_metrics(RunAbout(tmp_path), alone(), 0)
    for step in (1, 2, 3):
        writer.log(StepReport(step, {"loss/total": 1 / step, "queue/fill": 0.5}))
    writer.evaluation("val", RESULT, 3)
    writer.close()
    rows = rows_of(tmp_path)
    assert rows[0] == {"step": 1, "loss/total": 1.0, "queue/fill": 0.5}
    assert [row["step"] for row in rows] == [1, 2, 3, 3]
    read = scalars(tmp_path)
    assert sorted(read) == sorted({tag for row in rows for tag in row} - {"step"})
    for tag, values in read.items():
        twin = [(row["step"], row[tag]) for row in rows if tag in row]
        assert [step for step, _ in twin] == [step for step, _ in values]
        assert [v for _, v in twin] == pytest.approx([v for _, v in values], rel=1e-6)


def test_every_figure_of_an_evaluation_has_its_tag() -> None:
    figures = evaluation_figures("val", RESULT)
    assert figures["retrieval/val/pair/a_to_b/r_at_1"] == 10.0
    assert figures["retrieval/val/pair/a_to_b/median_rank"] == 9.5
    assert figures["retrieval/val/class/b_to_a/map"] == 33.0
    assert figures["retrieval/val/class/b_to_a/precision_at_100"] == 12.0
    assert figures["retrieval/val/class/b_to_a/map_at_200"] == 13.0
    assert len(figures) == 4 + 7


def test_histograms_are_in_tensorboard(tmp_path: Path) -> None:
    writer = open_metrics(RunAbout(tmp_path), alone(), 0)
    writer.histogram("swamp/prototype_use", torch.tensor([[0.0, 1.0], [1.0, 4.0]]), 5)
    writer.close()
    (event,) = events_of(tmp_path).Histograms("swamp/prototype_use")
    assert (event.step, event.histogram_value.num, event.histogram_value.max) == (5, 4.0, 4.0)


@pytest.mark.parametrize("world", [alone(), World(1, 2, 1, torch.device("cpu"))], ids=["main", "other"])
def test_an_unknown_tag_is_a_programming_error_on_every_rank(world: World, tmp_path: Path) -> None:
    writer = open_metrics(RunAbout(tmp_path), world, 0)
    for tag in ("loss/totall", "retrieval/val/pair/a_to_b", "xloss/total", "retrieval/<split>"):
        with pytest.raises(ValueError, match="unknown metric tags"):
            writer.log(StepReport(1, {tag: 1.0}))
    with pytest.raises(ValueError, match="unknown metric tags"):
        writer.histogram("swamp/used", torch.ones(2), 1)
    writer.log(StepReport(1, {tag: 1.0 for tag in TAGS if "<" not in tag}))
    writer.evaluation("val", RESULT, 1)
    writer.close()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    writer = open_metrics(RunAbout(tmp_path), World(1, 2, 1, torch.device("cpu")), 0)
    writer.log(StepReport(1, {"loss/total": 1.0}))
    writer.histogram("swamp/prototype_use", torch.ones(2), 1)
    writer.evaluation("val", RESULT, 1)
    writer.flush()
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    writer = open_metrics(RunAbout(tmp_path), alone(), 0)
    writer.log(StepReport(1, {"loss/total": math.nan, "optim/grad_norm": math.inf, "optim/lr": 0.1}))
    writer.close()
    assert rows_of(tmp_path) == [{"step": 1, "loss/total": None, "optim/grad_norm": None, "optim/lr": 0.1}]
    assert math.isnan(scalars(tmp_path)["loss/total"][0][1])


def session(folder: Path, resume_step: int, steps: range) -> None:
    writer = open_metrics(RunAbout(folder), alone(), resume_step)
    for step in steps:
        writer.log(StepReport(step, {"loss/total": resume_step + step / 100}))
    writer.close()


def test_a_resume_cuts_at_the_commit(tmp_path: Path) -> None:
    session(tmp_path, 0, range(1, 9))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "loss/to')  # a kill while a row was written
    session(tmp_path, 5, range(6, 11))
    expected = [(s, s / 100) for s in range(1, 6)] + [(s, 5 + s / 100) for s in range(6, 11)]
    assert [(row["step"], row["loss/total"]) for row in rows_of(tmp_path)] == expected
    assert scalars(tmp_path)["loss/total"] == [(s, pytest.approx(v)) for s, v in expected]
    assert {name.partition(".")[0] for name in os.listdir(tmp_path)} == {"metrics", "events"}


def test_a_fresh_start_drops_all_of_a_run_that_never_committed(tmp_path: Path) -> None:
    session(tmp_path, 0, range(0, 5))
    session(tmp_path, 0, range(0, 2))
    assert [row["step"] for row in rows_of(tmp_path)] == [0, 1]
    assert [step for step, _ in scalars(tmp_path)["loss/total"]] == [0, 1]


def test_a_clock_that_is_behind_does_not_spoil_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(tmp_path, 0, range(1, 9))
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now - 1000)
        session(tmp_path, 4, range(5, 7))
        session(tmp_path, 5, range(6, 8))
    assert [step for step, _ in scalars(tmp_path)["loss/total"]] == [1, 2, 3, 4, 5, 6, 7]


def killed_session(folder: Path, resume_step: int, committed: int, last: int) -> None:
    writer = open_metrics(RunAbout(folder), alone(), resume_step)
    for step in range(resume_step + 1, last + 1):
        writer.log(StepReport(step, {"loss/total": float(step), "optim/lr": 0.1}))
        if step == committed:
            writer.evaluation("val", RESULT, step)
            writer.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def test_three_kills_leave_every_tag_once_a_step_and_no_step_going_back(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    for resume_step, committed, last in ((0, 20, 33), (20, 40, 47), (40, 60, 60)):
        process = context.Process(target=killed_session, args=(tmp_path, resume_step, committed, last))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    session(tmp_path, 60, range(61, 71))
    read = scalars(tmp_path)
    assert [step for step, _ in read["loss/total"]] == list(range(1, 71))
    assert [step for step, _ in read["optim/lr"]] == list(range(1, 61))
    assert [step for step, _ in read["retrieval/val/pair/a_to_b/r_at_1"]] == [20, 40, 60]
    rows = [row for row in rows_of(tmp_path) if "loss/total" in row]
    assert [row["step"] for row in rows] == list(range(1, 71))


def resumed(folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Go on after step 2 and log step 3; what was said meanwhile."""
    logging.getLogger("swamp_dist").propagate = True
    writer = open_metrics(RunAbout(folder), alone(), 2)
    writer.log(StepReport(3, {"loss/total": 3.0}))
    writer.close()
    assert rows_of(folder)[-1] == {"step": 3, "loss/total": 3.0}
    return caplog.text


def two_steps(folder: Path) -> bytes:
    writer = open_metrics(RunAbout(folder), alone(), 0)
    for step in (1, 2):
        writer.log(StepReport(step, {"loss/total": float(step)}))
    writer.close()
    return (folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    "name", ["events.out.tfevents.backup", "events.out.tfevents.17", "events.out.tfevents.x.y", "notes.txt"]
)
def test_a_stray_file_beside_the_event_files_stops_nothing(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    two_steps(tmp_path)
    (tmp_path / name).write_text("stray")
    said = resumed(tmp_path, caplog)
    assert (tmp_path / name).read_text() == "stray"
    assert (f"{name} has no name that TensorBoard gives" in said) == name.startswith("events")


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe\x00rows", b"[" * 100_000, b'{"step": 1e999}', b'{"step": "1"}', b"7", b"\x00" * 50],
    ids=lambda line: str(line[:12]),
)
def test_metrics_that_are_no_rows_are_set_aside_and_rows_are_kept(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    rows = two_steps(tmp_path)
    damaged = line + b"\n" + rows + b'{"step": 3, "lo'
    (tmp_path / "metrics.jsonl").write_bytes(damaged)
    said = resumed(tmp_path, caplog)
    assert "metrics.jsonl: 1 lines are no rows: it is metrics.jsonl.aside-1 now" in said
    assert (tmp_path / "metrics.jsonl.aside-1").read_bytes() == damaged
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(rows)
    assert len(rows_of(tmp_path)) == 3


def test_a_torn_last_row_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = two_steps(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(rows + b'{"step": 3, "lo')
    assert "aside" not in resumed(tmp_path, caplog)
    assert not list(tmp_path.glob("*.aside-*"))


def test_what_stands_under_the_names_of_metrics_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl.aside-1").write_text("of before")
    said = resumed(tmp_path, caplog)
    assert "metrics.jsonl was not written by a run: it is metrics.jsonl.aside-2 now" in said
    assert (tmp_path / "metrics.jsonl.aside-2").is_fifo()


def test_a_full_disk_is_told_with_its_path_and_once(tmp_path: Path) -> None:
    writer: Any = open_metrics(RunAbout(tmp_path), alone(), 0)
    writer._rows.close()
    writer._rows = open("/dev/full", "w")  # noqa: SIM115 (as the writer's own)
    with pytest.raises(OSError, match="No space left") as caught:
        writer.log(StepReport(1, {"loss/total": 1.0}))
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")
    writer.close()


def test_an_event_file_that_is_gone_is_told_without_a_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorboard").mkdir()  # where earlier versions put the event files
    writer: Any = open_metrics(RunAbout(tmp_path), alone(), 0)
    writer.log(StepReport(1, {"loss/total": 1.0}))
    writer.flush()
    shutil.rmtree(tmp_path / "tensorboard")
    writer.log(StepReport(2, {"loss/total": 1.0}))
    with pytest.raises(FileNotFoundError) as caught:
        writer.flush()
    assert "tensorboard" in os.fsdecode(caught.value.filename)
    writer.close()
    assert "Traceback" not in capfd.readouterr().err
