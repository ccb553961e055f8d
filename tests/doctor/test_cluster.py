from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.config import LocalCluster, SlurmCluster
from swamp_dist.doctor import cluster
from swamp_dist.doctor.finding import Subject
from swamp_dist.runs.folder import RunDir
from tests.runs.written_runs import DEAD, fake_command, rows, started, write


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run whose step takes 2 s and whose slowest save took 10 s."""
    run_dir = write(
        tmp_path / "run",
        started(DEAD, 1.0),
        ("committed", 2.0, {"step": 1, "seconds": 10.0}),
        ("committed", 3.0, {"step": 2, "seconds": 4.0}),
    )
    rows(run_dir, 5.0, {"step": 1, "perf/step_seconds": 1.5, "perf/data_seconds": 0.5})
    return run_dir


def scheduler_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_wait: int, requeue: int) -> None:
    said = f"KillWait = {kill_wait} sec\nJobRequeue = {requeue}"
    fake_command(tmp_path / "bin", "scontrol", f"echo '{said}'")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.mark.parametrize(
    ("signal_seconds", "kill_wait", "levels"),
    [(120, 30, ["ok", "ok"]), (23, 30, ["problem", "ok"]), (24, 11, ["ok", "warning"])],
)
def test_time_to_save(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_dir: RunDir,
    signal_seconds: int,
    kill_wait: int,
    levels: list[str],
) -> None:
    scheduler_says(tmp_path, monkeypatch, kill_wait, 1)
    subject = Subject(run_dir=run_dir, cluster=SlurmCluster(signal_seconds=signal_seconds))
    found = list(cluster.grace(subject))
    assert [f.level for f in found] == levels
    assert all(bool(f.fix) == (f.level != "ok") for f in found)
    assert "a step 2 s, a commit 10 s" in found[0].message


def test_without_a_measured_run_it_says_so(run_dir: RunDir) -> None:
    (found,) = cluster.grace(Subject(cluster=SlurmCluster()))
    assert found.level == "warning"
    run_dir.metrics_jsonl.unlink()
    (found,) = cluster.grace(Subject(run_dir=run_dir, cluster=SlurmCluster()))
    assert "no step or no commit yet" in found.message
    assert list(cluster.grace(Subject(cluster=LocalCluster()))) == []


def test_requeueing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(cluster=SlurmCluster())
    for allowed, level in ((1, "ok"), (0, "warning")):
        scheduler_says(tmp_path, monkeypatch, 30, allowed)
        (found,) = cluster.requeue(subject)
        assert found.level == level
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    (found,) = cluster.requeue(subject)
    assert "not on this machine's PATH" in found.message
