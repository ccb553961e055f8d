"""How the task of a node ends, without a Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swamp_dist.backends.ray import slurm_node as ray_node
from swamp_dist.backends.ray import train_session
from swamp_dist.backends.ray.session import LOOPBACK_VARIABLES
from swamp_dist.config import SlurmCluster
from swamp_dist.environment import RankInfo
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.loading import dump
from swamp_dist.runs.folder import RunDir


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run folder whose first node is this process."""
    folder = RunDir(tmp_path)
    folder.create()
    folder.cluster_yaml.write_text(dump(SlurmCluster(nodes=2, launcher="ray")))
    info = RankInfo(0, 2, 0, "127.0.0.1", 1, "slurm")
    monkeypatch.setattr(ray_node, "read_environment", lambda: info)
    monkeypatch.setattr(ray_node.signal, "signal", lambda *_: None)
    return folder


def test_a_node_that_joins_too_slowly_is_not_the_users_mistake(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lead(_: object, cluster: SlurmCluster, *__: object) -> int:
        there = ray_node.inner_cluster(cluster, "127.0.0.1:1")
        train_session.await_resources(there, 0.0, [])
        raise AssertionError("a Ray without its second node has no room")

    monkeypatch.setattr(train_session.ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(ray_node, "_lead", lead)
    assert ray_node.main([str(run_dir.stage_yaml), str(run_dir.path)]) == ExitCode.FAILED
    assert "not all nodes of the job joined" in caplog.text
    assert "2 workers need 2 CPUs" in caplog.text


def test_a_mistake_in_the_settings_stays_one(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def lead(*_: object) -> int:
        raise UserError("no such split")

    monkeypatch.setattr(ray_node, "_lead", lead)
    assert ray_node.main([str(run_dir.stage_yaml), str(run_dir.path)]) == ExitCode.USER_MISTAKE


@pytest.mark.parametrize(("nodes", "switch"), [(1, "0"), (2, None)])
def test_a_ray_of_one_node_is_on_loopback_and_one_of_several_is_not(
    monkeypatch: pytest.MonkeyPatch, nodes: int, switch: str | None
) -> None:
    (name,) = LOOPBACK_VARIABLES
    monkeypatch.setenv(name, "0" if nodes == 2 else "")  # of a pipeline's own Ray, which the job inherits
    ray_node._choose_interface(RankInfo(0, nodes, 0, "n1", 1, "slurm"))
    assert os.environ.get(name) == switch
