"""What a user can do wrong, through the command: one screen, the right code, and no commit touched."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from swamp_dist.config import ShardSettings, SyntheticSource, SyntheticSplit
from swamp_dist.data.manifest import MANIFEST_FILE, ManifestRecord
from swamp_dist.prepare.build import build_shards
from tests.end_to_end.command import (
    committed,
    flip,
    ran,
    refused,
    sha256,
    swamp,
    write_job,
)

BOTH = pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])


@BOTH
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_shard_missing_or_truncated(job: Path, shards: Path, tmp_path: Path, damage: str, ranks: int) -> None:
    shard = next(iter(sorted(shards.glob("train-*.tar"))))
    if damage == "missing":
        shard.unlink()
    else:
        os.truncate(shard, shard.stat().st_size - 512)
    refused(
        swamp("run", job, "--ranks", ranks, "--run-dir", tmp_path / "new"),
        f"{shard.name}: {damage}",
        "swamp shards build",
    )


@BOTH
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.entries=201"], ["data.entries = 201", "200 entries"]),
        (["data.entries=32", "data.lanes=5"], ["lanes = 5 does not divide entries = 32", "job.yaml"]),
        (["data.train_split=trian"], ["no split 'trian'", "train"]),
        (["data.a=text"], ["no field 'text'", "a, b"]),
        (["data.shards=nowhere"], ["nowhere", "swamp shards build"]),
        (['evaluate=[{split: test, relevance: [class], ties: miech}]'], ["ties = miech", "Fix:"]),
        (["train.init_from=nowhere"], ["nowhere", "train.init_from", "run folder"]),
        (["data.train_split=trian", "evaluate.0.split=tset", "data.a=text"], ["trian", "tset", "'text'"]),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_data(
    job: Path, tmp_path: Path, overrides: list[str], said: list[str], ranks: int
) -> None:
    refused(swamp("run", job, *overrides, "--ranks", ranks, "--run-dir", tmp_path / "new"), *said)
    assert not (tmp_path / "new").exists()


def test_ranks_that_do_not_divide_the_lanes(job: Path, tmp_path: Path) -> None:
    refused(
        swamp("run", job, "data.entries=32", "--ranks", 3, "--run-dir", tmp_path / "new"),
        "3 ranks",
        "data.lanes = 32",
        "1, 2, 4, 8, 16, 32",
    )


def test_empty_split(job: Path, shards: Path, tmp_path: Path) -> None:
    path = shards / MANIFEST_FILE
    record = json.loads(path.read_text())
    record["splits"]["train"] |= {"entries": 0, "shards": [], "bytes": 0}
    record["hash"] = ManifestRecord.model_validate(record).content_hash()
    path.write_text(json.dumps(record))
    refused(swamp("run", job, "--run-dir", tmp_path / "new"), "train", "no entries", "data.train_split")


def test_class_relevance_without_labels(job: Path, shards: Path, tmp_path: Path) -> None:
    path = shards / "test.index.npy"
    rows = np.load(path)
    rows["label"] = -1
    np.save(path, rows)
    record = json.loads((shards / MANIFEST_FILE).read_text())
    record["splits"]["test"]["index"]["sha256"] = sha256(path)
    record["hash"] = ManifestRecord.model_validate(record).content_hash()
    (shards / MANIFEST_FILE).write_text(json.dumps(record))
    refused(
        swamp("run", job, "evaluate.0.relevance=[class]", "--ranks", 2, "--run-dir", tmp_path / "new"),
        "60 of 60 entries of split 'test'",
        "have no class",
        "Fix: relevance = [pair]",
    )


def test_best_is_never_chosen_on_the_test_split(job: Path, tmp_path: Path) -> None:
    refused(
        swamp("run", job, "train.select=best", "train.validate_on.split=test", "--run-dir", tmp_path / "new"),
        "'test'",
        "validate on another split",
    )


def test_every_mistake_of_a_file_and_of_the_overrides_at_once(job: Path, tmp_path: Path) -> None:
    job.write_text(job.read_text().replace("epochs: 2", "epoch: 2").replace("entries: 24", "entries: many"))
    refused(
        swamp("run", job, "train.optimizer.lr=fast", "objective.swamp.etta=3", "--run-dir", tmp_path / "new"),
        "4 problems",
        "did you mean train.epochs?",
        f"{job}:2",
        'expected a whole number, found "many"',
        'expected a number, found "fast"',
        "did you mean objective.swamp.eta?",
    )


@BOTH
def test_checkpoints_of_another_training(job: Path, run_dir: Path, tiny_shards: Path, ranks: int) -> None:
    write_job(job.parent, tiny_shards)
    before, stage = committed(run_dir), (run_dir / "stage.yaml").read_bytes()
    refused(
        swamp("run", job, "objective.swamp.eta=7", "--ranks", ranks, "--run-dir", run_dir),
        "objective.swamp.eta",
        "5.0",
        "7.0",
        "another run folder",
    )
    assert committed(run_dir) == before
    assert (run_dir / "stage.yaml").read_bytes() == stage


def test_checkpoints_of_another_data_set(job: Path, run_dir: Path, tmp_path: Path) -> None:
    splits = {name: SyntheticSplit(classes=(0, 6), total=50) for name in ("train", "validation", "test")}
    source = SyntheticSource(classes=6, per_class=50, dim=12, hidden=(16,), splits=splits)
    build_shards(ShardSettings(name="other", source=source, entries_per_shard=64), tmp_path / "other")
    before = committed(run_dir)
    refused(
        swamp("run", job, f"data.shards={tmp_path / 'other'}", "--run-dir", run_dir),
        "data.manifest",
        "<the shard set it began with>",
    )
    assert committed(run_dir) == before


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE present, RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT missing"),
        pytest.param({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE='two'", marks=pytest.mark.slow),
        pytest.param({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 of 2 ranks", marks=pytest.mark.slow),
    ],
)
def test_half_set_distributed_environment(
    job: Path, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    if "RANK" in variables:
        variables = variables | {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    task = [sys.executable, "-m", "swamp_dist.backends.rank", str(job), str(tmp_path / "new")]
    refused(ran(task, **variables), said, "swamp run JOB --ranks N")


def test_read_only_run_folder(job: Path, run_dir: Path, tiny_shards: Path, tmp_path: Path) -> None:
    write_job(job.parent, tiny_shards)
    refused(swamp("run", job, "--run-dir", job / "run"), "cannot be made", "Choose another --run-dir")
    before = committed(run_dir)
    for folder in (run_dir / "logs", run_dir):
        folder.chmod(0o500)
    refused(
        swamp("run", job, "--run-dir", run_dir, unprivileged=True), str(run_dir), "Choose another --run-dir"
    )
    run_dir.chmod(0o700)
    assert committed(run_dir) == before


def test_table_of_unfinished_runs(run_dir: Path) -> None:
    refused(swamp("table", run_dir), "holds no finished run", "result.json")


def test_show_of_a_missing_file_names_the_near_one() -> None:
    refused(swamp("show", "jobs/finetune/synthetc.yaml"), "does not exist", "jobs/finetune/synthetic.yaml")


def test_verify_names_every_damage(shards: Path) -> None:
    one, two, three = sorted(shards.glob("train-*.tar"))[:3]
    one.unlink()
    os.truncate(two, 5000)
    flip(three, 1000)
    ended = swamp("shards", "verify", shards)
    refused(
        ended,
        f"{one.name} (split train): missing",
        f"{two.name} (split train): truncated",
        three.name,
        code=1,
    )
    assert "3 bad files" in ended.said
