from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.config import PipelineSettings
from swamp_dist.errors import UserError
from swamp_dist.pipelines.matrix import cells, substitute
from swamp_dist.pipelines.plan import plan_pipeline
from tests.pipelines.small_pipelines import pipeline_files


def test_cells_are_the_product_in_order() -> None:
    assert cells({}) == [("", {})]
    named = cells({"seed": (0, 1), "set": ("a b", 0.5)})
    assert [name for name, _ in named] == [
        "seed-0_set-a-b", "seed-0_set-0.5", "seed-1_set-a-b", "seed-1_set-0.5"
    ]  # fmt: skip
    assert named[0][1] == {"seed": "0", "set": "a b"}


def test_only_names_are_replaced() -> None:
    text = "model.a={kind: mlp, seed: {seed}}"
    assert substitute(text, {"seed": "3"}) == "model.a={kind: mlp, seed: 3}"
    with pytest.raises(UserError, match=r"Did you mean \{seed\}"):
        substitute("seed={sed}", {"seed": "3"})


def test_plan_expands_replaces_and_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_pipeline(pipeline_files(tmp_path), Path("runs/demo"))
    keys = [s.key for s in plan.stages]
    assert sorted(keys) == sorted(
        f"seed-{seed}/{name}" for seed in (0, 1) for name in ("pre", "post", "other")
    )
    assert keys.index("seed-1/pre") < keys.index("seed-1/post")
    post = plan.stages[keys.index("seed-1/post")]
    assert post.run_dir == Path("runs/demo/seed-1/post")
    assert post.after == ("seed-1/pre",)
    assert post.settings.seed == 1
    assert post.settings.data.shards == Path("data/demo-1")
    assert post.settings.train is not None
    assert post.settings.train.init_from == Path("runs/demo/seed-1/pre")
    assert [s.out for s in plan.shards] == [Path("data/demo-0"), Path("data/demo-1")]
    assert plan.run_dirs("post") == [Path("runs/demo/seed-0/post"), Path("runs/demo/seed-1/post")]


def changed(settings: PipelineSettings, **stages: dict[str, object]) -> PipelineSettings:
    tree = settings.model_dump()
    for name, change in stages.items():
        tree["stages"][name] = tree["stages"].get(name, {"job": "job.yaml"}) | change
    return PipelineSettings.model_validate(tree)


def test_every_problem_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = changed(
        pipeline_files(tmp_path),
        pre={"overrides": ("sede={sed}",)},
        post={"job": "jobb.yaml"},
        other={"overrides": ("train.epochz=3",)},
    )
    with pytest.raises(UserError) as error:
        plan_pipeline(settings, Path("runs"))
    for said in (
        "stage pre",
        "{sed} has no value",
        "stage post",
        "Did you mean:\n  job.yaml",
        "train.epochs",
    ):
        assert said in str(error.value)


def test_missing_inputs_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = changed(
        pipeline_files(tmp_path),
        other={"after": (), "overrides": ("data.shards=nowhere", "train.init_from=runs/lost")},
    )
    with pytest.raises(UserError) as error:
        plan_pipeline(settings, Path("runs"))
    assert "no shards in nowhere" in str(error.value)
    assert "train.init_from = runs/lost does not exist" in str(error.value)


def test_runs_of_a_stage_that_is_not_awaited_have_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = changed(pipeline_files(tmp_path), post={"after": ()})
    with pytest.raises(UserError, match=r"\{runs.pre\} has no value"):
        plan_pipeline(settings, Path("runs"))


def test_circles_are_refused(tmp_path: Path) -> None:
    settings = changed(pipeline_files(tmp_path), pre={"after": ("post",)})
    with pytest.raises(UserError, match="wait for each other"):
        plan_pipeline(settings, Path("runs"))


def test_table_is_checked_against_what_stages_will_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = pipeline_files(tmp_path).model_dump()
    tree["tables"] = [{"metrics": ["pair/a_to_b/r_at_2"], "rows": [{"label": "ours", "stage": "post"}]}]
    with pytest.raises(UserError, match=r"did you mean|Did you mean"):
        plan_pipeline(PipelineSettings.model_validate(tree), Path("runs"))
    tree["tables"] = [
        {"metrics": ["pair/a_to_b/r_at_1"], "evaluation": 2, "rows": [{"label": "o", "stage": "post"}]}
    ]
    with pytest.raises(UserError, match="evaluation = 2, but stage post has 1"):
        plan_pipeline(PipelineSettings.model_validate(tree), Path("runs"))


def test_two_recipes_for_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = pipeline_files(tmp_path).model_dump()
    tree["shards"] = [{"recipe": "recipe.yaml", "out": "data/one", "overrides": ["source.seed={seed}"]}]
    with pytest.raises(UserError, match="two different recipes"):
        plan_pipeline(PipelineSettings.model_validate(tree), Path("runs"))
