"""A path is relative to the file that says it; the earlier meaning works with a warning."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest

from swamp_dist.config import PipelineSettings, ShardSettings, StageSettings, SweepSettings
from swamp_dist.errors import UserError
from swamp_dist.input_paths import with_absolute_paths
from swamp_dist.loading import dump, load, load_dumped
from swamp_dist.origins import FileText
from swamp_dist.pipelines.plan import plan_pipeline
from swamp_dist.pipelines.sweep import sweep_pipeline

JOB = """
name: job
data: {shards: data/set, recipe: ../recipes/set.yaml}
model: {embedding_dim: 4}
evaluate: [{split: test}]
"""
RECIPE = """
name: set
source: {kind: msrvtt, train_lists: [../raw/one.csv, two.csv], captions: /raw/captions.json}
words: {vectors: ../raw/vectors.bin}
"""
SIMULATED = """
name: set
source: {kind: simulated_video_text, part: lsmdc, raw_dir: data/raw}
words: {vectors: data/raw/words/vectors.bin}
"""
EVALUATE = "{split: test}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with jobs/ and recipes/."""
    for folder in ("jobs", "recipes"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(path: str, text: str) -> Path:
    Path(path).write_text(text)
    return Path(path)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "swamp_dist.input_paths"]


def test_paths_are_relative_to_their_file_and_named_from_the_working_folder(project: Path) -> None:
    settings = load(written("jobs/job.yaml", JOB), StageSettings)
    assert settings.data.recipe == Path("recipes/set.yaml")
    assert settings.data.shards == Path("data/set")
    assert load(project / "jobs/job.yaml", StageSettings) == settings
    source = load(written("recipes/set.yaml", RECIPE), ShardSettings).source
    assert source.kind == "msrvtt"
    assert source.train_lists == (Path("raw/one.csv"), Path("recipes/two.csv"))
    assert source.captions == Path("/raw/captions.json")
    assert source.test_list == Path(
        "data/raw/msrvtt/MSRVTT_JSFUSION_test.csv"
    )  # a default, which no file says


def test_from_another_folder_the_same_files_are_meant(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written("jobs/job.yaml", JOB)
    monkeypatch.chdir(project / "recipes")
    recipe = load(Path("../jobs/job.yaml"), StageSettings).data.recipe
    assert recipe is not None
    assert recipe.resolve() == project / "recipes/set.yaml"


def test_a_base_file_says_its_own_paths(project: Path) -> None:
    (project / "jobs" / "below").mkdir()
    written("jobs/job.yaml", JOB)
    above = written("jobs/below/above.yaml", "base: ../job.yaml\nname: above\n")
    assert load(above, StageSettings).data.recipe == Path("recipes/set.yaml")


def test_overrides_of_the_command_line_are_relative_to_the_working_folder(project: Path) -> None:
    job, recipe = written("jobs/job.yaml", JOB), written("recipes/set.yaml", RECIPE)
    assert load(job, StageSettings, ["data.recipe=mine.yaml"]).data.recipe == Path("mine.yaml")
    whole = load(recipe, ShardSettings, ["words={vectors: mine.bin}"])
    assert whole.words is not None
    assert whole.words.vectors == Path("mine.bin")


def test_the_earlier_meaning_warns_once_with_the_new_path(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written("recipes/set.yaml", RECIPE)
    job = written("jobs/job.yaml", JOB.replace("../recipes", "recipes"))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert load(job, StageSettings).data.recipe == Path("recipes/set.yaml")
    (said,) = warnings(caplog)
    assert "jobs/job.yaml:3: data.recipe: recipes/set.yaml is taken relative to the working folder" in said
    assert said.endswith("write ../recipes/set.yaml")


def test_two_different_files_are_refused_and_named(project: Path) -> None:
    (project / "jobs/recipes").mkdir()
    for file in ("recipes/set.yaml", "jobs/recipes/set.yaml"):
        written(file, RECIPE)
    job = written("jobs/job.yaml", JOB.replace("../recipes", "recipes"))
    with pytest.raises(UserError) as caught:
        load(job, StageSettings)
    assert "data.recipe  (jobs/job.yaml:3)" in str(caught.value)
    assert "two different files: jobs/recipes/set.yaml, relative to the file" in str(caught.value)
    assert "and recipes/set.yaml, relative to the working folder" in str(caught.value)
    Path("recipes/set.yaml").unlink()
    Path("recipes/set.yaml").symlink_to("../jobs/recipes/set.yaml")  # one file by two names
    assert load(job, StageSettings).data.recipe == Path("jobs/recipes/set.yaml")


def test_a_link_on_the_way_is_followed_as_base_follows_it(project: Path) -> None:
    (project / "store/deep").mkdir(parents=True)
    written("store/deep/job.yaml", JOB)
    (project / "linked").symlink_to("store/deep")
    found = load(Path("linked/job.yaml"), StageSettings).data.recipe
    assert found is not None
    assert found.resolve() == project / "store/recipes/set.yaml"


def test_files_that_a_recipe_of_before_will_write_itself_are_found(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load(written("recipes/set.yaml", SIMULATED), ShardSettings)
    assert recipe.words is not None
    assert recipe.words.vectors == Path("data/raw/words/vectors.bin")
    assert warnings(caplog)[0].endswith("write ../data/raw/words/vectors.bin")


def test_overrides_in_a_pipeline_are_relative_to_the_pipeline(project: Path) -> None:
    (project / "pipelines").mkdir()
    written("jobs/job.yaml", JOB)
    pipeline = written(
        "pipelines/one.yaml",
        "name: one\nmatrix: {seed: [3]}\n"
        "shards:\n"
        "  - {recipe: ../recipes/set.yaml, out: data/set, overrides: ['words.vectors=../raw/{seed}.bin']}\n"
        "stages:\n  one: {job: ../jobs/job.yaml, overrides: ['data.recipe=../recipes/{seed}.yaml']}\n",
    )
    written("recipes/set.yaml", RECIPE)
    settings = load(pipeline, PipelineSettings)
    plan = plan_pipeline(settings, project / "run")
    assert plan.stages[0].settings.data.recipe == Path("recipes/3.yaml")
    assert plan.shards[0].recipe == Path("recipes/set.yaml")
    assert plan.shards[0].settings.words is not None
    assert plan.shards[0].settings.words.vectors == Path("raw/3.bin")
    command = load(pipeline, PipelineSettings, ["stages.one.overrides=[data.recipe=mine.yaml]"])
    assert plan_pipeline(command, project / "run").stages[0].settings.data.recipe == Path("mine.yaml")
    assert load_dumped(written("copy.yaml", dump(settings)), PipelineSettings) == settings


def test_overrides_and_values_of_a_sweep_are_relative_to_the_sweep(project: Path) -> None:
    (project / "sweeps").mkdir()
    written("jobs/job.yaml", JOB)
    written("recipes/set.yaml", RECIPE)
    sweep = written(
        "sweeps/one.yaml",
        f"name: one\njob: ../jobs/job.yaml\nevaluate: {EVALUATE}\nchooses: false\nseeds: [0]\n"
        "metrics: [pair/a_to_b/r_at_1]\nvary: {data.recipe: [../recipes/other.yaml]}\n"
        "shards: [{recipe: ../recipes/set.yaml, out: data/set}]\n",
    )
    plan = plan_pipeline(sweep_pipeline(load(sweep, SweepSettings)), project / "run")
    assert [stage.settings.data.recipe for stage in plan.stages] == [
        Path("recipes/set.yaml"),
        Path("recipes/other.yaml"),
    ]


def test_a_dumped_recipe_with_whole_paths_means_the_same_anywhere(project: Path) -> None:
    recipe = with_absolute_paths(load(written("recipes/set.yaml", RECIPE), ShardSettings))
    (project / "elsewhere").mkdir()
    assert load(written("elsewhere/copy.yaml", dump(recipe)), ShardSettings) == recipe
    assert recipe.words is not None
    assert recipe.words.vectors == project / "raw/vectors.bin"


def test_a_text_keeps_its_place_when_it_is_sent_to_another_process() -> None:
    text = pickle.loads(pickle.dumps(FileText("a=1", "file.yaml:3")))
    assert (text, text.origin) == ("a=1", "file.yaml:3")
