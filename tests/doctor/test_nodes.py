"""Compute nodes, played by an srun that runs the command here or prints what nodes would."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest

from swamp_dist.backends.slurm import allocation
from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.config import SlurmCluster
from swamp_dist.doctor import node
from swamp_dist.doctor.finding import Subject
from swamp_dist.doctor.nodes import look_on_nodes, refused
from swamp_dist.errors import UserError
from swamp_dist.records import Finding
from swamp_dist.runs.folder import RunDir
from tests.runs.written_runs import calls, fake_command

WELL = Finding("memory", "ok", "8 GiB free")
ILL = Finding("open files", "problem", "a process may open 256 files", "ulimit -n 65536")


def printed(host: str, *found: Finding) -> str:
    return "".join(f"{node.MARK}{host} {json.dumps(asdict(f))}\n" for f in found)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    fake_command(tmp_path / "bin", "sinfo", "exit 1")
    return tmp_path / "bin"


def srun_prints(folder: Path, text: str, code: int = 0, error: str = "") -> None:
    (folder / "said").write_text(text)
    fake_command(folder, "srun", f"cat {folder / 'said'}\necho '{error}' >&2\nexit {code}")


def look(tmp_path: Path, **settings: object) -> list[Finding]:
    backend = SlurmBackend(SlurmCluster.model_validate({"backend": "slurm", **settings}))
    found = look_on_nodes(backend, Subject(run_dir=RunDir(tmp_path / "runs" / "x")), None)
    assert {f.place for f in found} == {"nodes"}
    assert not list(tmp_path.glob(".swamp-doctor-*"))
    return found


def test_findings_of_nodes_stand_per_node_and_shared_ones_once(play: Path, tmp_path: Path) -> None:
    srun_prints(play, "Welcome to n1\n" + printed("n1", WELL, ILL) + printed("n2", WELL))
    said = [(f.check, f.host) for f in look(tmp_path, nodes=2)]
    assert said == [("allocation", ""), ("memory", ""), ("open files", "n1")]


def test_a_node_without_an_answer_is_a_problem(play: Path, tmp_path: Path) -> None:
    srun_prints(play, printed("n1", WELL) + f"{node.MARK}n1 {{cut o\n", code=1)
    found = look(tmp_path, nodes=2)
    assert (found[0].level, found[0].message) == ("problem", "1 of 2 nodes gave no answer, only n1")
    assert [f.check for f in found] == ["allocation", "memory"]


def test_what_srun_refuses_is_passed_on_with_its_fix(
    play: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun_prints(play, "", 1, "srun: error: Unable to allocate resources: Invalid qos specification")
    (found,) = look(tmp_path)
    assert found.level == "warning"
    assert "Invalid qos specification" in found.message
    assert "change qos" in found.message
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = look(tmp_path)
    assert "srun is not on this machine's PATH" in found.message


def test_it_asks_for_a_jobs_nodes_for_two_minutes(
    play: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab")
    srun_prints(play, printed("n1", WELL))
    look(
        tmp_path, nodes=1, tasks_per_node=4, gpus_per_node=4, cpus_per_task=3, partition="gpu",
        gpu_type="h100", setup=["module load x"],
    )  # fmt: skip
    asked = "\n".join(calls(play, "srun"))
    for option in (
        "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--time=2", "--cpus-per-task=12", "--immediate=",
        "--gpus-per-node=h100:4", "--partition=gpu", "--account=lab", "--mem=0", "module load x",
        "--ranks 4 --gpus 4",
    ):  # fmt: skip
        assert option in asked
    assert "--requeue" not in asked
    assert "--signal" not in asked


def test_nothing_is_asked_for_that_is_never_given() -> None:
    backend = SlurmBackend(SlurmCluster())
    trouble = Finding("limits", "problem", "too long", "shorten", place="scheduler")
    (found,) = refused(backend, [WELL, trouble])
    assert (found.level, found.place) == ("warning", "nodes")
    for other in (replace(trouble, level="warning"), replace(trouble, check="grace"), ILL):
        assert refused(backend, [WELL, other]) == []


def test_a_hanging_srun_is_left(play: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATIENCE", "MINUTES", "_STARTS"):
        monkeypatch.setattr(allocation, name, 0.1 if name == "_STARTS" else 0)
    fake_command(play, "srun", "exec sleep 60")
    (found,) = look(tmp_path)
    assert "no answer within" in found.message


def test_runs_that_cannot_be_written_are_a_mistake(
    play: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("swamp_dist.doctor.nodes.tempfile.NamedTemporaryFile", refused)
    with pytest.raises(UserError, match="runs cannot be written there"):
        look(tmp_path)


def test_a_node_says_what_it_found_in_lines_that_srun_keeps_whole(
    play: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = Finding("memory", "warning", "m" * 2000, "f" * 2000)
    monkeypatch.setattr(node, "HERE", {"memory": (lambda _: [long], 5.0), "job": (lambda _: [ILL], 5.0)})
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    shared = tmp_path / "token"
    shared.write_text("t")
    bad = tmp_path / "job.yaml"
    bad.write_text("name: [")
    options = ["--ranks", "2", "--gpus", "0", "--shared", str(shared), "--token", "t", "--job", str(bad)]
    assert node.main(options) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) < 1024
    ((host, found),) = node.read_answers(out).items()
    assert host == "n7"
    assert [(f.check, f.level) for f in found if f.check != "temporary"] == [
        ("memory", "warning"), ("run folder", "ok"), ("job", "problem"),
    ]  # fmt: skip


def test_another_run_folder_is_told(tmp_path: Path) -> None:
    file = tmp_path / "token"
    (found,) = node.shared_folder(file, "t", Subject())
    assert found.level == "problem"
    assert "not the one of the login node" in found.message
    file.write_text("of another file system")
    assert next(node.shared_folder(file, "t", Subject())).level == "problem"


def test_gpus_and_room_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(node.gpus(0, Subject())) == []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    check = partial(node.gpus, 4)
    assert [f.level for f in check(Subject())] == ["problem"]
    assert [f.level for f in node.gpus(3, Subject())] == ["ok"]
    for free, level in ((2**31, "ok"), (2**20, "warning")):
        monkeypatch.setattr(node.shutil, "disk_usage", lambda _, free=free: type("U", (), {"free": free}))
        (found,) = node.temporary(Subject())
        assert found.level == level


@pytest.mark.slow
def test_a_node_is_really_looked_at(play: Path, tmp_path: Path) -> None:
    """srun runs the task here, as on one node."""
    fake_command(play, "srun", 'while [ "$1" != bash ]; do shift; done\nexec "$@"')
    found = {f.check: f for f in look(tmp_path)}
    assert found["allocation"].level == "ok", found
    assert found["run folder"].level == "ok"
    assert {"versions", "open files", "shared memory", "network", "temporary"} <= set(found)
    assert sys.executable in "\n".join(calls(play, "srun"))
