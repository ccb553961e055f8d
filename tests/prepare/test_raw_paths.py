"""Raw data are looked for before anything is built, and a build that goes on shows in `swamp status`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from swamp_dist import cli
from swamp_dist.config import ShardSettings
from swamp_dist.file_names import build_note_file
from swamp_dist.loading import load
from swamp_dist.monitor.builds import live_builds
from swamp_dist.prepare.build_note import noted_build
from swamp_dist.prepare.raw_paths import missing_raw_paths
from swamp_dist.runs.graph import GraphNode, write_graph
from tests.runs.written_runs import DEAD

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "shards").glob("*.yaml"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def swamp(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_miss_what_they_do_not_make_themselves(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    settings = load(recipe, ShardSettings)
    keys = {key for key, _ in missing_raw_paths(settings)}
    made = ("synthetic", "simulated", "openmoji", "emoji", "table13", "drawings", "outlines", "motion")
    fetched = recipe.stem.startswith(made)
    assert bool(keys) != fetched, keys


def test_what_a_layout_does_not_read_is_not_missed() -> None:
    recipe = ROOT / "shards/youcook2.yaml"
    lists = {key for key, _ in missing_raw_paths(load(recipe, ShardSettings, ["source.layout=lists"]))}
    assert {"source.train_pickle", "source.test_pickle"} <= lists
    assert "source.annotations" not in lists
    files = {key for key, _ in missing_raw_paths(load(recipe, ShardSettings, ["source.layout=annotations"]))}
    assert {"source.annotations", "source.features_2d"} <= files
    assert "source.train_pickle" not in files


def test_a_pipeline_lists_the_missing_raw_data_of_all_recipes_and_starts_nothing() -> None:
    Path("job.yaml").write_text("name: tiny\ndata: {shards: data/one, entries: 8}\ntrain: {}\n")
    for name in ("one", "two"):
        Path(f"{name}.yaml").write_text(
            f"name: {name}\nsource: {{kind: lsmdc, train_list: {name}.csv, test_list: here.csv}}\n"
        )
    Path("here.csv").touch()
    Path("both.yaml").write_text(
        "name: both\nshards: [{recipe: one.yaml, out: data/one}, {recipe: two.yaml, out: data/two}]\n"
        "stages: {one: {job: job.yaml}}\n"
    )
    refused = swamp("pipeline", "both.yaml")
    assert refused.exit_code == 2, refused.output
    assert "2 recipes name" in refused.stderr
    for name in ("one", "two"):
        assert f"{name}.yaml: source.train_list = {name}.csv" in refused.stderr
        assert f"{name}.yaml: source.test_features = data/raw/lsmdc/LSMDC_test.pth" in refused.stderr
    assert "here.csv" not in refused.stderr
    assert not Path("data").exists()


def test_a_build_shows_in_status_while_it_goes_on() -> None:
    reported = []
    Path("data").mkdir()
    with noted_build(Path("data/mine"), lambda *now: reported.append(now)) as report:
        assert "building data/mine: opening the raw data" in swamp("status").output
        report(3, 11)
        assert reported == [(3, 11)]
        assert "building data/mine: 3 of 11 shards" in swamp("status").output
        (described,) = json.loads(swamp("status", "--json").output)["builds"]
        assert (described["done"], described["total"]) == (3, 11)
    assert not live_builds([])
    assert not build_note_file(Path("data/mine")).exists()


def test_a_build_of_a_pipeline_shows_with_it_and_a_killed_one_does_not() -> None:
    Path("runs/one").mkdir(parents=True)
    write_graph(Path("runs/one"), [GraphNode("stage", ())], shards=[Path("elsewhere/set")])
    Path("elsewhere").mkdir()
    with noted_build(Path("elsewhere/set"), lambda *_: None):
        assert [str(build.out) for build in live_builds([Path("runs/one")])] == ["elsewhere/set"]
        note = build_note_file(Path("elsewhere/set"))
        told = json.loads(note.read_text())
        note.write_text(json.dumps({**told, **DEAD.as_dict()}))
        assert not live_builds([Path("runs/one")])


def test_building_leaves_no_note(tmp_path: Path) -> None:
    Path("tiny.yaml").write_text(
        "name: tiny\nsource: {kind: synthetic, splits: {train: {classes: [0, 2], total: 16}}}\n"
    )
    done = swamp("shards", "build", "tiny.yaml")
    assert done.exit_code == 0, done.output
    assert not list(Path("data").glob(".*.build.json"))
