from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from swamp_dist import cli
from swamp_dist.config import LocalCluster, RayCluster, SlurmCluster, StageSettings
from swamp_dist.costs import memory
from swamp_dist.costs.loading import loading_bytes
from swamp_dist.costs.memory import (
    MOST_OF_A_GPU,
    MOST_OF_A_RANK,
    PROCESS_BYTES,
    Room,
    memory_problem,
    room_here,
    room_on,
)
from swamp_dist.costs.table import known_inputs, whole_cost
from swamp_dist.data.manifest import load_manifest
from tests.end_to_end.command import write_job

GIB = 2**30


def stage(shards: Path, train: bool = True, **model: Any) -> StageSettings:
    trained = {"train": {}} if train else {"evaluate": [{"split": "test"}]}
    data = {"shards": shards, "a": "a", "b": "b", "entries": 24}
    return StageSettings.model_validate({"name": "x", "data": data, "model": model, **trained})


def test_the_limit_is_the_sum_of_the_formulas_parts(tiny_shards: Path) -> None:
    settings = stage(tiny_shards, embedding_dim=512)
    needed = sum(whole_cost(settings, 512, known_inputs(settings), 1).memory.values())
    assert memory_problem(settings, 1, Room(needed, "enough")) is None
    problem = memory_problem(settings, 1, Room(needed - 1, "it has less"))
    assert problem is not None
    for said in ("stage x needs", "MiB of memory per rank (weights", "but it has less", "Fix: lower"):
        assert said in problem


def test_weights_alone_are_counted_where_nothing_is_trained(tiny_shards: Path) -> None:
    settings = stage(tiny_shards, train=False, embedding_dim=2**20)
    problem = memory_problem(settings, 1, Room(64 * GIB, "x"))
    assert problem is not None
    assert "(weights 8.0 TiB)" in problem


def test_weights_that_are_yet_to_come_are_no_problem(tiny_shards: Path) -> None:
    data = {"shards": tiny_shards, "entries": 24}
    settings = StageSettings.model_validate(
        {"name": "x", "data": data, "model": {"embedding_dim": None}, "train": {"init_from": "absent"}}
    )
    assert memory_problem(settings, 1, Room(1, "x")) is None


def test_what_a_rank_can_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "has_gpu", lambda: False)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "memory.max")
    one = room_here(1)
    assert room_on(LocalCluster(ranks=4)).bytes == one.bytes // 4
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    assert room_here(2) == Room(GIB // 2, "2 ranks share the 1.0 GiB of this machine", PROCESS_BYTES)
    (tmp_path / "memory.max").write_text("max\n")
    assert room_here(1) == one
    assert room_on(SlurmCluster(memory_gb=8, tasks_per_node=4)).bytes == 2 * GIB
    assert room_on(SlurmCluster(memory_gb=8, memory_per="cpu", cpus_per_task=4)).bytes == 32 * GIB
    assert room_on(SlurmCluster(gpus_per_node=2, tasks_per_node=2)).bytes == MOST_OF_A_GPU
    assert room_on(RayCluster()).bytes == MOST_OF_A_RANK
    monkeypatch.setattr(memory, "has_gpu", lambda: True)
    assert room_here(1).bytes == MOST_OF_A_GPU


@pytest.mark.parametrize("verb", [["run"], ["submit", "--cluster", "cluster.yaml"]])
def test_no_rank_starts_for_what_does_not_fit(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text("backend: local\n")
    job = write_job(tmp_path, tiny_shards)
    done = CliRunner().invoke(cli.app, [verb[0], str(job), "model.a.hidden=[1000000, 1000000]", *verb[1:]])
    assert done.exit_code == 2
    assert "TiB of memory per rank" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_pipeline_refuses_what_does_not_fit(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path, tiny_shards)
    (tmp_path / "p.yaml").write_text(
        "name: p\nstages: {one: {job: job.yaml, overrides: ['model.a.hidden=[1000000, 1000000]']}}\n"
    )
    done = CliRunner().invoke(cli.app, ["pipeline", "p.yaml"])
    assert done.exit_code == 2
    assert "one: stage tiny needs" in done.stderr


def test_the_process_of_a_rank_counts_beside_its_tensors(
    tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = stage(tiny_shards, embedding_dim=512)
    tensors = sum(whole_cost(settings, 512, known_inputs(settings), 1).memory.values())
    assert memory_problem(settings, 1, Room(tensors + PROCESS_BYTES, "enough", PROCESS_BYTES)) is None
    problem = memory_problem(settings, 1, Room(tensors + PROCESS_BYTES - 1, "it has less", PROCESS_BYTES))
    assert problem is not None
    assert "process 450 MiB" in problem
    monkeypatch.setattr(memory, "has_gpu", lambda: False)
    assert room_here(1).process == PROCESS_BYTES
    assert room_on(SlurmCluster(memory_gb=8, tasks_per_node=4)).process == PROCESS_BYTES


def test_what_streaming_keeps_counts_in_the_machine_and_is_refused_where_it_cannot_fit(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_manifest(tiny_shards)
    largest = max(shard.bytes for shard in manifest.split("train").record.shards)
    settings = stage(tiny_shards, embedding_dim=8)
    assert loading_bytes(settings, 1) == 0
    streamed = changed(settings, reading="stream", workers=3)
    shards = len(manifest.split("train").record.shards)
    assert loading_bytes(streamed, 1) == 3 * shards * largest
    assert loading_bytes(changed(settings, cache="memory"), 2) == manifest.split("train").bytes
    # A rank on a CPU has one memory for both, one on a GPU has two.
    tensors = sum(whole_cost(streamed, 8, known_inputs(streamed), 1).memory.values())
    needed = tensors + 3 * shards * largest
    assert memory_problem(streamed, 1, Room(needed, "enough")) is None
    assert memory_problem(streamed, 1, Room(needed - 1, "it has less")) is not None
    apart = Room(tensors, "GPU", machine=Room(3 * shards * largest, "machine"))
    assert memory_problem(streamed, 1, apart) is None
    for bytes_, machine, said in ((tensors - 1, needed, "but GPU"), (needed, tensors // 99, "but machine")):
        assert said in str(memory_problem(streamed, 1, Room(bytes_, "GPU", machine=Room(machine, "machine"))))
    # Through the command: a machine that holds nothing refuses it, with what to change.
    monkeypatch.setattr(memory, "has_gpu", lambda: False)
    (tmp_path / "memory.max").write_text(f"{PROCESS_BYTES + 1000}\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "memory.max")
    monkeypatch.chdir(tmp_path)
    many = ["data.reading=stream", "data.workers=1000", "model.embedding_dim=2", "model.a.hidden=[2]"]
    done = CliRunner().invoke(cli.app, ["run", str(write_job(tmp_path, tiny_shards)), *many])
    assert done.exit_code == 2
    assert "data that are read" in done.stderr
    assert "data.reading=seek" in done.stderr
    shown = CliRunner().invoke(cli.app, ["show", "--cost", str(tmp_path / "job.yaml"), *many])
    assert "data that are read" in shown.stdout


def changed(settings: StageSettings, **data: Any) -> StageSettings:
    return settings.model_copy(update={"data": settings.data.model_copy(update=data)})
