"""On a real SLURM: what a cluster file can ask for, and what is refused with the fix."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.config import SlurmCluster
from swamp_dist.errors import UserError
from tests.cluster.played import CLUSTER, Played, played
from tests.cluster.slurm import Job, slurm
from tests.end_to_end.command import refused, swamp

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@contextmanager
def held(stage: Played) -> Iterator[Job]:
    """The job of a stage, which waits; it is taken out of the queue afterwards."""
    job = stage.submit()
    try:
        yield job
    finally:
        slurm("scancel", job.number)


@pytest.mark.parametrize(
    ("memory", "shown"),
    [
        ({"memory_per": "none", "memory_gb": None}, "MinMemoryNode=0"),
        ({"memory_per": "node", "memory_gb": 1.5}, "MinMemoryNode=1.50G"),
        ({"memory_per": "node", "memory_gb": None}, "MinMemoryNode=0"),
        ({"memory_per": "cpu", "memory_gb": 0.25}, "MinMemoryCPU=256M"),
    ],
)
def test_memory_as_sites_want_it_said(tmp_path: Path, memory: dict[str, Any], shown: str) -> None:
    with held(played(tmp_path / "run", settings=memory | {"sbatch": ["hold"]})) as job:
        assert shown in slurm("scontrol", "--oneliner", "show", "job", job.number).split(), job.story()


@pytest.mark.parametrize(
    ("pair", "options", "fix"),
    [
        ("memory_gb: 1\nsbatch: [mem-per-cpu=1G]\n", ("--mem=1G", "--mem-per-cpu=1G"), "have a setting here"),
        ("memory_per: none\nmemory_gb: 1\n", (), "give memory_gb: null"),
        ("sbatch: [core-spec=1, thread-spec=1]\n", ("--core-spec=1", "--thread-spec=1"), "leave one of them"),
        ("sbatch: [nodelist=n2]\nexclude: n2\n", ("--nodelist=n2", "--exclude=n2"), "leave it in one"),
    ],
)
def test_a_pair_that_sbatch_refuses_is_refused_before_with_the_fix(
    job_file: Path, tmp_path: Path, pair: str, options: tuple[str, ...], fix: str
) -> None:
    (tmp_path / "cluster.yaml").write_text(f"backend: slurm\nnodes: 2\n{pair}")
    if options:
        words = ["sbatch", *options, "--wrap=true"]
        assert subprocess.run(words, capture_output=True, timeout=60).returncode != 0
    run = ("--cluster", tmp_path / "cluster.yaml", "--run-dir", tmp_path / "run")
    done = swamp("submit", job_file, *run)
    assert done.code == 2, done.said
    refused(done, "cluster.yaml")
    assert fix in " ".join(done.said.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "fix"),
    [
        ({"partition": "nowhere"}, "change partition in the cluster file. This cluster has: main"),
        ({"constraint": "h100"}, "change constraint in the cluster file."),
        ({"tasks_per_node": 1, "gpus_per_node": 1}, "change gpus_per_node, gpu_type and gpus_by"),
        (
            {"memory_gb": 90},
            "change memory_gb and memory_per in the cluster file. This cluster has: main: 8192",
        ),
        (
            {"exclude": "n9"},
            "change exclude, and nodelist in sbatch in the cluster file. This cluster has: n[1-2]",
        ),
        ({"reservation": "spring"}, "change reservation in the cluster file."),
        ({"licenses": "fs1:2"}, "change licenses in the cluster file."),
    ],
)
def test_what_this_cluster_has_not_is_refused_with_what_it_has(
    tmp_path: Path, asked: dict[str, Any], fix: str
) -> None:
    stage = played(tmp_path / "run", settings=asked)
    with pytest.raises(UserError, match="sbatch refused the job:\nsbatch: error: ") as error:
        stage.submit()
    assert f"Fix: {fix}" in str(error.value)
    assert [e["event"] for e in stage.folder.read_events()] == ["failed"]


def test_a_job_that_can_never_start_says_what_to_change(tmp_path: Path) -> None:
    stage = played(tmp_path / "run", settings={"nodes": 5})
    with held(stage) as job:
        job.until(lambda: "PartitionConfig" in slurm("squeue", "--noheader", "--format=%r"), "reason")
        known = SlurmBackend(stage.cluster).jobs([job.number])[job.number]
        assert known.stuck
        assert known.fix.startswith("change nodes, tasks_per_node,")


def test_an_array_has_as_many_parts_as_this_cluster_takes(tmp_path: Path) -> None:
    most = int(slurm("scontrol", "show", "config").split("MaxArraySize")[1].split("=")[1].split()[0])
    recipe, cluster = tmp_path / "recipe.yaml", tmp_path / "cluster.yaml"
    recipe.write_text("name: x\nsource: {kind: synthetic, splits: {train: {classes: [0, 4], total: 16}}}\n")
    cluster.write_text("backend: slurm\nmemory_gb: 1\n")
    asked = ("shards", "build", recipe, "--out", tmp_path / "set", "--cluster", cluster, "--parts", most + 1)
    said = f"at most {most} tasks (MaxArraySize"
    done = swamp(*asked)
    refused(done, f"--parts {most + 1}: this cluster takes arrays of", f"Fix: --parts {most} or fewer")
    assert said in " ".join(done.said.split())
    stage = played(tmp_path / "parts")
    backend = SlurmBackend(SlurmCluster(**CLUSTER | {"sbatch": ["hold"]}))  # type: ignore[arg-type]
    number = backend.submit_parts("parts", ["true"], stage.folder, most)
    slurm("scancel", number)
