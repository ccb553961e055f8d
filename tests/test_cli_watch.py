from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from swamp_dist import cli
from swamp_dist.runs.processes import own_mark
from tests.runs.written_runs import DEAD, METRIC, owned_by, rows, sleeper, started, write

NOW = time.time()  # when the tests were collected: no test may compare it with the time it runs at
ROOT = Path(__file__).resolve().parents[1]
TRAINING = {"step": 0, "total_steps": 100, "log_every": 10, **METRIC}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def swamp(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def a_running_one(folder: Path) -> None:
    now = time.time()  # not when the tests were collected: a long suite would find it stalled
    run_dir = write(folder, started(at=now - 110), ("training", now - 100, TRAINING))
    owned_by(run_dir, own_mark())
    figures = {f"retrieval/validation/pair/{way}/r_at_1": 12.5 for way in ("a_to_b", "b_to_a")}
    rows(run_dir, now - 20, {"step": 40, **figures})


def test_status_reads_runs_by_default_and_shows_what_there_is_to_know() -> None:
    a_running_one(Path("runs/one"))
    said = "no space left\nFree some.\n  | a line of its log"
    write(Path("runs/two"), started(DEAD), ("failed", NOW, {"reason": said}))
    shown = swamp("status").output
    (line,) = [each for each in shown.splitlines() if each.startswith("one")]
    assert line.split() == [
        "one", "running", "40/100", "2.0", "s/step", "2", "min", "validation", "pair/mean/r_at_1", "12.50",
        "12.50", "@40",
    ]  # fmt: skip
    assert "  two: failed: no space left. Free some.\n" in shown


def test_status_keeps_the_end_of_a_long_reason_where_its_fix_stands() -> None:
    reason = f"12 settings are wrong: {'x' * 2000}\nFix: correct them."
    write(Path("runs/one"), started(DEAD), ("failed", NOW, {"reason": reason}))
    shown = swamp("status").output
    assert "one: failed: 12 settings are wrong" in shown
    assert shown.rstrip().endswith("xxx. Fix: correct them.")
    assert shown.count("x") < 1000


def test_status_for_programs() -> None:
    a_running_one(Path("runs/one"))
    described = json.loads(swamp("status", "runs", "--json").output)
    (run,) = described["groups"][0]["runs"]
    assert (run["state"], run["step"], run["outcome"]["best"]) == ("running", 40, 12.5)
    assert described["scheduler_error"] == ""
    assert swamp("status", "runs", "--json", "--watch").exit_code == 2


def test_watch_ends_when_nothing_is_live() -> None:
    write(Path("runs/two"), started(DEAD), ("failed", NOW, {"reason": "no space left"}))
    shown = swamp("status", "--watch")
    assert shown.exit_code == 0
    assert "no space left" in shown.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status"], "runs does not exist"),
        (["logs", "runs/x"], "is no run folder"),
        (["cancel", "runs/x"], "neither a run folder nor a pipeline's"),
    ],
)
def test_mistakes_are_one_message_and_code_2(arguments: list[str], said: str) -> None:
    refused = swamp(*arguments)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.output


@pytest.mark.parametrize("verb", ["status", "logs", "cancel"])
def test_every_verb_helps_with_an_example(verb: str) -> None:
    assert f"swamp {verb}" in " ".join(swamp(verb, "--help").output.split())


def test_watching_loads_nothing_heavy() -> None:
    a_running_one(Path("runs/one"))
    code = (
        "import sys, swamp_dist.cli as c\n"
        "from typer.testing import CliRunner\n"
        "for verb in (['status'], ['status', '--json'], ['cancel', 'runs/two']):\n"
        "    done = CliRunner().invoke(c.app, verb)\n"
        "    assert done.exit_code == 0, done.output\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'webdataset', 'tensorboard', 'numpy', 'PIL'} & "
        "set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    write(Path("runs/two"), started(DEAD))
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_logs_show_the_end_and_name_the_file_that_is_not_rank_0s() -> None:
    run_dir = write(Path("runs/one"), started(DEAD))
    run_dir.log(0).write_text("".join(f"line {n}\n" for n in range(100)))
    assert swamp("logs", "runs/one", "--lines", "3").output.splitlines() == ["line 97", "line 98", "line 99"]
    assert len(swamp("logs", "runs/one", "--lines", "0", "--follow").output.splitlines()) == 101
    run_dir.log(1).write_text("other\n")
    shown = swamp("logs", "runs/one", "--rank", "1").output
    assert "==== rank 1: runs/one/logs/rank-001.log ====" in shown
    assert "other" in shown


def test_cancel_says_what_it_did_and_what_it_could_not() -> None:
    with sleeper() as (process, mark):
        write(Path("runs/one"), started(mark))
        done = swamp("cancel", "runs/one", "--now")
        assert process.wait(10) == -9
    assert done.exit_code == 0
    assert "killed" in done.output
    assert "to continue: the command that started it" in done.output
    unreachable = {**mark.as_dict(), "host": "another-host"}
    write(Path("runs/two"), ("started", NOW, unreachable))
    refused = swamp("cancel", "runs/two")
    assert refused.exit_code == 1
    assert "on host another-host" in refused.stderr
