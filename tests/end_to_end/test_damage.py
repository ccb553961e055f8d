"""Damage that only the ranks can meet, on one of them or on all: said on the console, no commit touched."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from swamp_dist.data.lanes import batch_entries, epoch_order, plan_batches
from swamp_dist.data.manifest import load_manifest
from tests.end_to_end.command import (
    committed,
    ended,
    flip,
    refused,
    start,
    swamp,
    until,
    write_job,
)

BOTH = pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])


def first_entry_of_rank(shards: Path, rank: int) -> tuple[Path, int, int]:
    """File, offset and size of an entry that only this one of two ranks reads, in the first step."""
    split = load_manifest(shards).split("train")
    order = epoch_order(split.shard_entries, split.bytes, 0, 0, 8 * 2**30, 2048)
    row = split.rows[batch_entries(order, 0, plan_batches(24, 1, 24, 2, len(split)), rank)[0]]
    return split.shard_path(int(row["shard"])), int(row["offset"]), int(row["size"])


def test_flipped_bit_that_one_rank_reads(job: Path, shards: Path, tmp_path: Path) -> None:
    file, offset, size = first_entry_of_rank(shards, 1)
    flip(file, offset + size - 380)  # in the last field's numbers
    refused(
        swamp("run", job, "--ranks", 2, "--run-dir", tmp_path / "new"),
        "rank 1",
        file.name,
        "xxh3",
        "Copy it again",
    )
    assert "xxh3" in (tmp_path / "new" / "events.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("ranks", "reader"), [(1, 0), (2, 0), (2, 1)])
def test_flipped_bit(job: Path, shards: Path, tmp_path: Path, workers: int, ranks: int, reader: int) -> None:
    file, offset, size = first_entry_of_rank(shards, reader)
    flip(file, offset + size - 380)  # in the last field's numbers
    options = [f"data.workers={workers}", "--ranks", ranks, "--run-dir", tmp_path / "new"]
    refused(swamp("run", job, *options), file.name, "xxh3", "Copy it again")


@pytest.mark.slow
@BOTH
def test_flipped_bit_found_by_verification_and_by_the_cache(
    job: Path, shards: Path, tmp_path: Path, ranks: int
) -> None:
    file, offset, size = first_entry_of_rank(shards, 0)
    flip(file, offset + size - 380)  # in the last field's numbers
    for option in ("data.verify=true", "data.cache=memory"):
        ended = swamp("run", job, option, "--ranks", ranks, "--run-dir", tmp_path / "new")
        refused(ended, file.name, "xxh3", "again")


@pytest.mark.slow
@BOTH
def test_weights_of_another_shape(job: Path, trained_once: Path, tmp_path: Path, ranks: int) -> None:
    ended = swamp(
        "run", job, f"train.init_from={trained_once}", "model.embedding_dim=32", "--ranks", ranks,
        "--run-dir", tmp_path / "new",
    )  # fmt: skip
    refused(ended, str(trained_once), "model.embedding_dim = 32", "model.embedding_dim=64", "init_from")
    job.write_text(job.read_text().split("train:")[0] + "evaluate: [{split: test}]\n")
    ended = swamp(
        "run", job, f"weights={trained_once}", "model.embedding_dim=32", "--ranks", ranks,
        "--run-dir", tmp_path / "evaluated",
    )  # fmt: skip
    refused(ended, str(trained_once), "model.embedding_dim = 32", "model.embedding_dim=64")
    ended = swamp(
        "run", job, f"weights={trained_once}", "model.embedding_dim=null", "--ranks", ranks,
        "--run-dir", tmp_path / "null",
    )  # fmt: skip
    assert ended.code == 0, ended.said


def test_every_file_of_a_run_has_the_permissions_that_the_umask_gives(trained_once: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    modes = {path: path.stat().st_mode & 0o777 for path in trained_once.rglob("*") if path.is_file()}
    assert {path for path, mode in modes.items() if mode != 0o666 & ~umask} == set()


def broken(run_dir: Path, step: int) -> Path:
    """The commit of `step`, with one bit of its model changed."""
    folder = run_dir / "checkpoints" / f"step-{step}"
    flip(folder / "engine" / "mp_rank_00_model_states.pt", 5000)
    return folder


def test_broken_newest_commit_falls_back_loudly(job: Path, run_dir: Path, tiny_shards: Path) -> None:
    write_job(job.parent, tiny_shards)
    broken(run_dir, 16)
    kept = {name: value for name, value in committed(run_dir).items() if name.startswith("step-12/")}
    done = swamp("run", job, "--ranks", 2, "--run-dir", run_dir)
    assert done.code == 0, done.said
    assert "step-16 is broken and skipped" in done.said
    assert "continuing from" in done.said
    assert "step-12" in done.said.split("continuing from")[1]
    assert kept.items() <= committed(run_dir).items()


@pytest.mark.slow
@BOTH
def test_no_commit_is_whole(job: Path, run_dir: Path, tiny_shards: Path, ranks: int) -> None:
    write_job(job.parent, tiny_shards)
    for step in (12, 16):
        broken(run_dir, step)
    before = committed(run_dir)
    refused(
        swamp("run", job, "--ranks", ranks, "--run-dir", run_dir),
        "none is valid",
        "step-12",
        "step-16",
        "Fix:",
    )
    assert committed(run_dir) == before


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_file_size_limit_during_a_commit(job: Path, run_dir: Path, tiny_shards: Path, ranks: int) -> None:
    write_job(job.parent, tiny_shards)
    shutil.rmtree(run_dir / "checkpoints" / "step-16")
    before = committed(run_dir)
    assert before
    refused(
        swamp("run", job, "--ranks", ranks, "--run-dir", run_dir, limit="-f 64"),
        "the checkpoint of step 16 could not be written",
        "step-12",
        "ulimit -f",
    )
    assert committed(run_dir) == before
    assert not list((run_dir / "checkpoints").glob(".tmp-*"))


@pytest.mark.slow
@BOTH
def test_two_runs_in_one_folder(job: Path, tmp_path: Path, ranks: int) -> None:
    run_dir, console = tmp_path / "run", tmp_path / "console"
    options = ("train.epochs=4000", "--ranks", ranks, "--run-dir", run_dir)
    first = start("run", job, *options, console=console)
    try:
        until(lambda: (run_dir / "checkpoints" / "step-4").is_dir(), first, console)
        stage = (run_dir / "stage.yaml").read_bytes()
        second = swamp("run", job, "seed=5", *options)
        refused(second, "is held by process", "--run-dir", code=3)
        assert json.loads((run_dir / ".owner.json").read_text())["pid"] != os.getpid()
        assert (run_dir / "stage.yaml").read_bytes() == stage
        assert first.poll() is None
    finally:
        first.terminate()
    assert ended(first, console).code == 75
