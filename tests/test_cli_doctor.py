from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swamp_dist import cli
from swamp_dist.config import LocalCluster, SlurmCluster
from swamp_dist.doctor import examine as doctor
from swamp_dist.doctor import machine
from swamp_dist.doctor.finding import Subject
from swamp_dist.records import Finding

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


def test_this_machine_and_the_cluster_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    here, asked = replace(WELL, place="here"), Finding("qos", "ok", "qos normal", place="scheduler")
    say(monkeypatch, here, asked)
    lines = CliRunner().invoke(cli.app, ["doctor"]).output.splitlines()
    assert "this machine (" in lines[0]
    assert "ranks run on the compute nodes" in lines[0]
    assert "memory" in lines[1]
    assert "by what the scheduler says" in lines[2]
    assert "qos normal" in lines[3]
    assert lines[4].startswith("compute nodes: not looked at; --allocate")


def test_what_is_measured_is_placed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "HERE", {"memory": (machine.memory, 5.0)})
    monkeypatch.setattr(doctor, "_TWO", {})
    found = doctor.examine(Subject(cluster=SlurmCluster()))
    assert found is not None
    assert {f.check: f.place for f in found} == {
        "memory": "here", "grace": "scheduler", "requeue": "scheduler", "partition": "scheduler",
        "account": "scheduler",
    }  # fmt: skip
    assert {f.place for f in doctor.examine(Subject(cluster=LocalCluster())) or ()} == {""}


def test_allocate_adds_the_nodes_and_needs_a_scheduler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say(monkeypatch, replace(WELL, place="here"))
    monkeypatch.setattr("swamp_dist.doctor.nodes.look_on_nodes", lambda *_: [replace(ILL, place="nodes")])
    file = tmp_path / "cluster.yaml"
    file.write_text("backend: slurm\n")
    shown = CliRunner().invoke(cli.app, ["doctor", "--cluster", str(file), "--allocate"])
    assert shown.exit_code == 1
    assert (
        "compute nodes, in a short allocation:\nproblem  port           n2: port 1 is taken" in shown.output
    )
    assert "not looked at" not in shown.output
    refused = CliRunner().invoke(cli.app, ["doctor", "--allocate"])
    assert refused.exit_code == 2
    assert "--allocate needs --cluster" in str(refused.exception) + refused.output
