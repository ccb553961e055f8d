from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from swamp_dist.config import StageSettings
from swamp_dist.doctor import stage
from swamp_dist.doctor.finding import Subject
from swamp_dist.loading import load
from swamp_dist.records import Finding
from swamp_dist.runs.folder import RunDir
from tests.end_to_end.command import flip, write_job


@pytest.fixture
def subject(tiny_shards: Path, tmp_path: Path) -> Subject:
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    job = load(write_job(tmp_path, shards), StageSettings, ())
    return Subject(job, RunDir(tmp_path / "run"), ranks=2)


def only(found: object) -> Finding:
    (finding,) = found  # type: ignore[misc]
    assert isinstance(finding, Finding)
    assert bool(finding.fix) == (finding.level != "ok")
    return finding


def test_a_job_that_run_would_refuse(subject: Subject) -> None:
    assert only(stage.job(subject)).level == "ok"
    refused = only(stage.job(replace(subject, ranks=7)))
    assert refused.level == "problem"
    assert "cannot start" in refused.message
    assert list(stage.job(Subject())) == []


def test_shards_missing_short_and_changed(subject: Subject, tmp_path: Path) -> None:
    whole = only(stage.shards(subject))
    assert whole.level == "ok"
    count = len(list((tmp_path / "shards").rglob("*.tar")))
    assert f"{count} shards have their sizes, {count} of them their sha256" in whole.message
    shard = sorted((tmp_path / "shards").rglob("*.tar"))[0]
    flip(shard, 700)
    assert "its sha256 is not the manifest's" in only(stage.shards(subject)).message
    shard.write_bytes(shard.read_bytes()[:-512])
    assert f"{shard.name}" in only(stage.shards(subject)).message
    shard.unlink()
    assert f"{shard.name}" in only(stage.shards(subject)).message
    shutil.rmtree(tmp_path / "shards")
    assert "no shard set" in only(stage.shards(subject)).message


def test_what_no_time_is_left_for_is_only_measured(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "HASH_SECONDS", 0.0)
    flip(sorted((tmp_path / "shards").rglob("*.tar"))[0], 700)
    found = only(stage.shards(subject))
    assert found.level == "ok"
    assert ", 0 of them" in found.message
    assert "swamp shards verify" in found.message


def test_disk_against_checkpoints(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "estimated" in only(stage.disk(subject)).message
    assert subject.job is not None
    size = stage.checkpoint_bytes(subject.job)
    monkeypatch.setattr(stage, "free_bytes", lambda _folder: 3 * size)  # two are kept, one is written
    assert only(stage.disk(subject)).level == "ok"
    monkeypatch.setattr(stage, "free_bytes", lambda _folder: 3 * size - 1)
    assert only(stage.disk(subject)).level == "problem"
    monkeypatch.setattr(stage, "newest_size", lambda _folder: size - 1)  # what was really written counts
    found = only(stage.disk(subject))
    assert found.level == "ok"
    assert "as last written" in found.message
