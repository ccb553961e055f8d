"""Problems of stages: each is told once, with the stages that have it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from swamp_dist.config import ShardSettings, SyntheticSource, SyntheticSplit
from swamp_dist.costs.memory import room_here
from swamp_dist.errors import UserError
from swamp_dist.pipelines.plan import plan_pipeline
from swamp_dist.pipelines.stage_checks import check_stages
from swamp_dist.prepare.build import build_shards
from tests.pipelines.small_pipelines import JOB, pipeline_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    build([0, 1])
    return tmp_path


def build(seeds: Iterable[int]) -> None:
    for seed in seeds:
        source = SyntheticSource(splits={"train": SyntheticSplit(classes=(0, 4), total=16)}, seed=seed)
        build_shards(ShardSettings(name="demo", source=source), Path(f"data/demo-{seed}"))


def refused(folder: Path, seeds: list[int], **changes: object) -> str:
    settings = pipeline_files(folder, matrix={"seed": seeds}, **changes)
    (folder / "job.yaml").write_text(JOB.replace("split: test", "split: trian"))
    with pytest.raises(UserError) as error:
        check_stages(plan_pipeline(settings, Path("runs")), 1, room_here(1))
    return str(error.value)


def test_a_problem_of_many_stages_is_told_once_for_each_shard_set(folder: Path) -> None:
    said = refused(folder, [0, 1])
    assert said.count("no split 'trian' in shard set data/demo-0") == 1
    assert said.count("no split 'trian' in shard set data/demo-1") == 1
    assert "- seed-0/pre and 2 other stages: " in said
    assert "\n  - no split" in said, "what is wrong stands below the stages that have it"


def test_a_stage_alone_has_no_others(folder: Path) -> None:
    stage = {"job": "job.yaml", "overrides": ["data.shards=data/demo-{seed}"]}
    assert "- seed-0/pre: stage demo cannot start" in refused(folder, [0], stages={"pre": stage})


def test_beyond_ten_their_number_is_told(folder: Path) -> None:
    build(range(2, 12))
    said = refused(folder, list(range(12)))
    assert said.count("and 2 other stages") == 10
    assert said.endswith("- and 2 more")
