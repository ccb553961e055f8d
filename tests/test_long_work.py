from __future__ import annotations

import importlib
import logging
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swamp_dist import cli, long_work
from swamp_dist.cli import printing
from swamp_dist.errors import UserError
from swamp_dist.long_work import told_while

log = logging.getLogger("swamp_dist.test")


def test_long_work_is_told_and_told_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert long_work.FIRST_SECONDS < 5
    monkeypatch.setattr(long_work, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(long_work, "NEXT_SECONDS", 0.05)
    with caplog.at_level(logging.INFO, "swamp_dist"), told_while(log, "fetching"):
        time.sleep(0.5)
    told = [record.message for record in caplog.records]
    assert len(told) >= 2
    assert all(line.startswith("fetching: ") for line in told)


def test_short_work_is_not(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_work, "FIRST_SECONDS", 0.1)
    with caplog.at_level(logging.INFO, "swamp_dist"):
        with told_while(log, "fetching"):
            pass
        with told_while(log, "the first step") as is_done:
            is_done()
            time.sleep(0.3)
        with pytest.raises(ValueError, match="x"), told_while(log, "failing"):
            raise ValueError("x")
        time.sleep(0.2)
    assert not caplog.records


def test_a_verb_tells_of_long_work_on_stderr_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_work, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(printing, "FIRST_SECONDS", 0.05)
    with printing.working("reading the runs"):
        time.sleep(0.5)
    said = capsys.readouterr()
    assert said.out == ""
    assert len([line for line in said.err.splitlines() if line.startswith("reading the runs: ")]) >= 2


@pytest.mark.parametrize(
    ("verb", "module", "name"),
    [
        (["compare", "a", "b"], "swamp_dist.pipelines.compare", "compare_runs"),
        (["report", "a"], "swamp_dist.report.subject", "open_subject"),
        (["prototypes", "a", "--split", "test"], "swamp_dist.inference", "load_model"),
    ],
)
def test_verbs_that_take_long_say_so(
    verb: list[str], module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> None:
        time.sleep(0.3)
        raise UserError("the end")

    monkeypatch.setattr(long_work, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(importlib.import_module(module), name, slow)
    named = importlib.import_module("swamp_dist.train.named_weights")
    monkeypatch.setattr(named, "stage_file_of", lambda _: Path("stage.yaml"))
    done = CliRunner().invoke(cli.app, verb)
    assert "s so far" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: the end"
