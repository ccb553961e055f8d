"""Whatever one folder holds, the verbs that look at several runs show the others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from swamp_dist import cli
from swamp_dist.monitor import survey as survey_module
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.graph import read_graph
from tests.end_to_end.command import swamp
from tests.runs.test_folder import result
from tests.runs.written_runs import DEAD, METRIC, nobody_tells, rows, started, write

DEEP = "[" * 100_000
FILES = [
    "events.jsonl",
    "metrics.jsonl",
    "result.json",
    "graph.json",
    ".owner.json",
    "cluster.yaml",
    "stage.yaml",
]
INFINITE = float("inf")
STRANGE: list[Any] = [
    float("nan"), INFINITE, -INFINITE,
    10**400, -(10**400), 1e308, -1, None, True, "x", [], {}, [[]], {"a": {}},
]  # fmt: skip
NAMES = [
    "step",
    "total_steps",
    "log_every",
    "time",
    "metric",
    "validates",
    "best_value",
    "best_step",
    "job",
    "reason",
    "host",
    "pid",
    "born",
    "ranks",
    "logs",
    "world_size",
    "code",
    "restart",
    "after",
]
KINDS = [
    "submitted",
    "starting",
    "started",
    "training",
    "committed",
    "requeued",
    "cancelled",
    "preempted",
    "waits",
    "failed",
]


def _replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return spoil


def _strange_events(value: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        record = dict.fromkeys(NAMES, value)
        text = "".join(json.dumps(record | {"event": kind}) + "\n" for kind in KINDS)
        (folder / "events.jsonl").write_text(text)
        figures = {f"retrieval/validation/pair/{way}/r_at_1": value for way in ("a_to_b", "b_to_a")}
        (folder / "metrics.jsonl").write_text(
            json.dumps({"step": 3, "perf/step_seconds": value, **figures}) + "\n"
        )
        (folder / ".owner.json").write_text(json.dumps({"host": value, "pid": value, "born": value}))

    return spoil


def _strange_result(value: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        run_dir = RunDir(folder)
        run_dir.write_result(result(folder))
        values = json.loads(run_dir.result_json.read_text())
        del values["sha256"]
        for key in ("r_at_1", "median_rank"):
            values["evaluations"][0]["metrics"]["pair/a_to_b"][key] = value
        values["evaluations"][0]["split"] = value
        run_dir.result_json.write_text(json.dumps(values))

    return spoil


SPOILERS: dict[str, Callable[[Path], None]] = {
    **{f"pipe {n}": _replaced(n, os.mkfifo) for n in FILES},
    **{f"device {n}": _replaced(n, lambda p: p.symlink_to("/dev/zero")) for n in FILES},
    **{f"loop {n}": _replaced(n, lambda p: p.symlink_to(p.name)) for n in FILES},
    **{f"folder {n}": _replaced(n, lambda p: p.mkdir()) for n in FILES},
    **{f"deep {n}": _replaced(n, lambda p: p.write_text(DEEP + "\n")) for n in FILES},
    **{f"bytes {n}": _replaced(n, lambda p: p.write_bytes(b"\xff\xfe\0\n")) for n in FILES},
    **{f"list {n}": _replaced(n, lambda p: p.write_text("[1, [2]]\n")) for n in FILES},
    **{f"events {str(v)[:5]}": _strange_events(v) for v in STRANGE},
    **{f"result {str(v)[:5]}": _strange_result(v) for v in STRANGE},
}


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a run that failed at step 40 and one that is done."""
    monkeypatch.chdir(tmp_path)
    now = time.time()
    training = {"step": 0, "total_steps": 100, **METRIC}
    ended = ("failed", now, {"reason": "no space left"})
    run_dir = write(Path("runs/good"), started(DEAD), ("training", now, training), ended)
    rows(run_dir, now, {"step": 40})
    done = write(Path("runs/done"), started(DEAD))
    done.write_result(result(done.path))
    both = json.loads(done.result_json.read_text())
    del both["sha256"]
    metrics = both["evaluations"][0]["metrics"]
    metrics["pair/b_to_a"] = metrics["pair/a_to_b"]
    done.result_json.write_text(json.dumps(both))
    return tmp_path


def ran(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception)
    return done.output


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kinds", [tuple(SPOILERS)], ids=["all"])
def test_the_other_runs_are_shown(good: Path, kinds: tuple[str, ...]) -> None:
    for number, kind in enumerate(kinds):
        folder = Path(f"runs/bad-{number}")
        write(folder, started(DEAD))
        SPOILERS[kind](folder)
    shown = ran("status")
    assert "good: failed: no space left" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("good ")]
    assert "40/100" in line
    for number, kind in enumerate(kinds):
        assert f"bad-{number}" in shown, kind
        if kind in ("pipe events.jsonl", "device metrics.jsonl", "folder events.jsonl", "loop metrics.jsonl"):
            assert f"bad-{number}: unreadable: {kind.split()[1]}: " in shown, kind
    groups = json.loads(ran("status", "--json"), parse_constant=pytest.fail)["groups"]
    assert {"good", "done"} <= {run["key"] for group in groups for run in group["runs"]}
    assert "LEFT OUT: runs/bad-" in (table := ran("table", "runs").replace("\n", " "))
    assert "20.00" in table
    for number in range(len(kinds)):
        if number % 3 == 0:
            ran("cancel", f"runs/bad-{number}")
        if number % 7 == 0:
            ran("logs", f"runs/bad-{number}")


def test_what_cannot_be_foreseen_becomes_the_status_of_its_run(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = survey_module.look

    def look(run_dir: RunDir, **options: Any) -> Any:
        if run_dir.path.name == "done":
            raise RuntimeError("[bold]of a kind\nnobody knows")
        return really(run_dir, **options)

    monkeypatch.setattr(survey_module, "look", look)
    shown = ran("status")
    assert "done: unreadable: RuntimeError: [bold]of a kind\n" in shown
    assert "good: failed: no space left" in shown


def test_a_folder_that_may_not_be_read_is_shown_as_such(good: Path) -> None:
    closed = write(Path("runs/closed"), started(DEAD)).path
    closed.chmod(0)
    try:
        ended = swamp("status", good / "runs", unprivileged=True)
    finally:
        closed.chmod(0o700)
    assert ended.code == 0, ended.said
    assert "closed: unreadable: PermissionError" in ended.said
    assert "good: failed: no space left" in ended.said


def test_a_long_name_of_a_split_hides_no_run(good: Path) -> None:
    now, split = time.time(), "[red]" + "x" * 5000
    training = (
        "training",
        now,
        {"step": 0, "total_steps": 9, "validates": split, "metric": "pair/a_to_b/r_at_1"},
    )
    run_dir = write(Path("runs/long"), started(DEAD), training, ("failed", now, {"reason": "y" * 5000}))
    rows(run_dir, now, {"step": 4, f"retrieval/{split}/pair/a_to_b/r_at_1": 50.0})
    lines = ran("status").splitlines()
    assert [line for line in lines if line.startswith("long ")]
    assert [line for line in lines if line.startswith("good ")]
    assert max(map(len, lines)) < 1000


def test_a_graph_leads_nowhere_but_below_its_folder(good: Path) -> None:
    Path("runs/p").mkdir()
    keys = ["../good", "/etc", "a/../../good", "", ".", "a\0b", "cell/stage"]
    Path("runs/p/graph.json").write_text(json.dumps({"stages": [{"key": k, "after": []} for k in keys]}))
    assert [node.key for node in read_graph(Path("runs/p")) or ()] == ["cell/stage"]


def test_a_pipe_as_owner_file_holds_no_run_up(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    os.mkfifo(run_dir.owner_json)
    assert run_dir.read_holder() == {}
    run_dir.refuse_if_held(nobody_tells)
