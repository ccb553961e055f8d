from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swamp_dist import cli
from swamp_dist.launch.doctor import examine as doctor
from swamp_dist.launch.doctor.finding import Finding, Subject

WELL = Finding("memory", "ok", "8 GiB free")
ILL = Finding("port", "problem", "port 1 is taken", "unset MASTER_PORT", "n2")


def say(monkeypatch: pytest.MonkeyPatch, *found: Finding) -> list[Subject]:
    """Let the examination find this; collects what it was asked about."""
    asked: list[Subject] = []

    def examined(subject: Subject) -> list[Finding]:
        asked.append(subject)
        return list(found)

    monkeypatch.setattr(doctor, "examine", examined)
    return asked


def test_problems_are_shown_with_their_fix_and_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, WELL, ILL)
    shown = CliRunner().invoke(cli.app, ["doctor"])
    assert shown.exit_code == 1
    lines = shown.output.splitlines()
    assert lines[0].split(maxsplit=2) == ["ok", "memory", "8 GiB free"]
    assert lines[1].split(maxsplit=2) == ["problem", "port", "n2: port 1 is taken"]
    assert lines[2].strip() == "fix: unset MASTER_PORT"
    assert lines[3] == "1 problems, 0 warnings, 1 ok"
    shown = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert shown.exit_code == 1
    assert [f["level"] for f in json.loads(shown.output)] == ["ok", "problem"]


def test_warnings_pass_and_files_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = say(monkeypatch, Finding("clocks", "warning", "apart", "chrony"))
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text("name: x\ndata: {shards: d, entries: 8}\nevaluate: [{split: test}]\n")
    Path("here.yaml").write_text("backend: local\n")
    options = ["--job", "job.yaml", "--cluster", "here.yaml", "--run-dir", "r", "--ranks", "3"]
    assert CliRunner().invoke(cli.app, ["doctor", *options]).exit_code == 0
    (subject,) = asked
    assert subject.job is not None
    assert subject.run_dir is not None
    assert (subject.job.name, subject.run_dir.path, subject.ranks) == ("x", Path("r"), 3)
    refused = CliRunner().invoke(cli.app, ["doctor", "--job", "none.yaml"])
    assert refused.exit_code == 2
