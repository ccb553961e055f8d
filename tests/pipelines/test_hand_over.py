from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from swamp_dist.config import PipelineSettings, SlurmCluster
from swamp_dist.data.manifest import load_manifest
from swamp_dist.errors import UserError
from swamp_dist.monitor import cancel
from swamp_dist.monitor.status import look
from swamp_dist.monitor.survey import survey
from swamp_dist.pipelines.hand_over import SubmittedStage, hand_over
from swamp_dist.pipelines.plan import plan_pipeline
from swamp_dist.pipelines.run import run_pipeline
from swamp_dist.prepare import jobs as shard_jobs
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.graph import read_builds, write_graph
from tests.backends.slurm.played import Slurm, job
from tests.end_to_end.command import write_job
from tests.pipelines.small_pipelines import RESULT
from tests.runs.written_runs import calls

CLUSTER = SlurmCluster(nodes=2)
RECIPE = "name: built\nsource: {kind: synthetic, splits: {train: {classes: [0, 4], total: 16}}}\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    played = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", played.path)
    monkeypatch.chdir(tmp_path)
    return played


@pytest.fixture
def settings(tmp_path: Path, tiny_shards: Path) -> PipelineSettings:
    """pre -> fine -> judge; and one over shards that are not there yet."""
    file = write_job(tmp_path, tiny_shards)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return PipelineSettings.model_validate({
        "name": "tiny",
        "shards": [{"recipe": "recipe.yaml", "out": "data/built"}],
        "stages": {
            "pre": {"job": file},
            "fine": {"job": file, "after": ["pre"], "overrides": ["train.init_from={runs.pre}"]},
            "judge": {"job": file, "after": ["fine"], "overrides": ["weights={runs.fine}", "train=null"]},
            "new": {"job": file, "after": ["pre"], "overrides": ["data.shards=data/built"]},
        },
    })  # fmt: skip


def hand(settings: PipelineSettings) -> dict[str, SubmittedStage]:
    return {h.key: h for h in hand_over(settings, Path("runs"), CLUSTER, ["swamp"])}


def finish(stage: str) -> None:
    """Leave a result, and weights of which only the header is true."""
    header = json.dumps(
        {"a.layers.0.bias": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}
    ).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(256)
    RunDir(Path("runs") / stage).weights.write_bytes(content)
    RunDir(Path("runs") / stage).result_json.write_text(json.dumps(RESULT | {"name": "tiny"}))


def test_every_stage_is_a_job_after_those_it_needs(slurm: Slurm, settings: PipelineSettings) -> None:
    handed = hand(settings)
    built, pre, fine, judge, new = (
        handed[key].job for key in ("shards data/built", "pre", "fine", "judge", "new")
    )
    assert {h.what for h in handed.values()} == {"submitted"}
    assert slurm.dependency(pre) == slurm.dependency(built) == ""
    assert slurm.dependency(fine) == f"afterok:{pre}"
    assert slurm.dependency(judge) == f"afterok:{fine}"
    assert slurm.dependency(new) == f"afterok:{built}:{pre}"
    assert "#SBATCH --kill-on-invalid-dep=yes" in slurm.script(fine)
    assert "shards build data/built.jobs/recipe.yaml --out data/built" in slurm.script(built)
    graph = json.loads(Path("runs/graph.json").read_text())
    assert {n["key"]: n["job"] for n in graph["stages"]} == {
        "pre": pre, "fine": fine, "judge": judge, "new": new,
    }  # fmt: skip
    assert graph["builds"] == [built]
    groups, error = survey([Path("runs")])
    assert error == ""
    assert {(run.key, run.state, run.job_id) for run in groups[0].runs} == {
        (key, "queued", handed[key].job) for key in ("pre", "fine", "judge", "new")
    }


def test_a_blend_waits_for_the_sets_that_are_built_first(
    slurm: Slurm, settings: PipelineSettings, tiny_shards: Path, tmp_path: Path
) -> None:
    sets = f"x: {{shards: {tiny_shards}, share: 0.75}}, y: {{shards: data/built, share: 0.25}}"
    stage = {"job": tmp_path / "job.yaml", "overrides": [f"data.blend={{{sets}}}"]}
    whole = settings.model_dump() | {"stages": {"blended": stage}}
    handed = hand(PipelineSettings.model_validate(whole))
    assert {h.what for h in handed.values()} == {"submitted"}
    assert slurm.dependency(handed["blended"].job) == f"afterok:{handed['shards data/built'].job}"
    facts = json.loads(RunDir(Path("runs/blended")).provenance_json.read_text())
    assert facts["blend_sha256"] == {"x": load_manifest(tiny_shards).hash}, "y is yet to be built"


def test_only_what_is_neither_done_nor_queued_is_submitted(slurm: Slurm, settings: PipelineSettings) -> None:
    first = hand(settings)
    assert {h.what for h in hand(settings).values()} == {"queued"}
    assert slurm.submissions == 5
    finish("pre")
    slurm.set(first["pre"].job, "COMPLETED")
    slurm.set(first["fine"].job, "FAILED", code=1)
    RunDir(Path("runs/fine")).append_event("failed", job=first["fine"].job, reason="x", code=1)
    slurm.set(first["judge"].job, "PENDING", "DependencyNeverSatisfied")
    again = hand(settings)
    assert {k: h.what for k, h in again.items()} == {
        "shards data/built": "queued", "pre": "done", "fine": "submitted", "judge": "submitted",
        "new": "queued",
    }  # fmt: skip
    assert slurm.dependency(again["fine"].job) == ""
    assert slurm.dependency(again["judge"].job) == f"afterok:{again['fine'].job}"
    assert calls(slurm.commands, "scancel") == [first["judge"].job]
    assert job(Path("runs/judge")) == again["judge"].job


def test_a_mistake_of_any_stage_submits_nothing(
    slurm: Slurm, settings: PipelineSettings, tmp_path: Path, tiny_shards: Path
) -> None:
    tree = settings.model_dump()
    tree["stages"]["fine"]["overrides"] = ["train.init_from={runs.pre}", "data.entries=23"]
    with pytest.raises(UserError, match=r"fine: .*\n.*23"):
        hand(PipelineSettings.model_validate(tree))
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_shards, damaged)
    min(damaged.glob("*.tar")).unlink()
    tree["stages"]["fine"]["overrides"] = ["train.init_from={runs.pre}", f"data.shards={damaged}"]
    with pytest.raises(UserError, match="damaged file"):
        hand(PipelineSettings.model_validate(tree))
    assert slurm.submissions == 0


def test_an_interrupted_handing_over_is_taken_up(slurm: Slurm, settings: PipelineSettings) -> None:
    """sbatch refuses the third job; the same command submits the rest."""
    script = (slurm.commands / "sbatch").read_text()
    refusing = script.replace("\nn=", f'\n[ $(ls "{slurm.jobs}" | wc -l) -ge 2 ] && exit 1\nn=', 1)
    (slurm.commands / "sbatch").write_text(refusing)
    with pytest.raises(UserError, match="sbatch refused"):
        hand(settings)
    (slurm.commands / "sbatch").write_text(script)
    what = {key: handed.what for key, handed in hand(settings).items()}
    assert sorted(what.values()) == ["queued", "queued", "submitted", "submitted", "submitted"]
    assert what["pre"] == "queued"


def test_cancelling_the_pipeline_takes_all_jobs_out(slurm: Slurm, settings: PipelineSettings) -> None:
    handed = hand(settings)
    assert all(each.stopped for each in cancel.cancel(Path("runs"), now=False, wait=1.0))
    assert set(calls(slurm.commands, "scancel")) == {h.job for h in handed.values()}
    assert look(RunDir(Path("runs/pre"))).state == "cancelled"


def test_builds_are_noted_before_the_first_stage_and_kept(slurm: Slurm, settings: PipelineSettings) -> None:
    """sbatch refuses all but the build; whoever follows the graph afterwards leaves its notes alone."""
    script = (slurm.commands / "sbatch").read_text()
    refusing = script.replace("\nn=", f'\n[ $(ls "{slurm.jobs}" | wc -l) -ge 1 ] && exit 1\nn=', 1)
    (slurm.commands / "sbatch").write_text(refusing)
    with pytest.raises(UserError, match="sbatch refused"):
        hand(settings)
    assert read_builds(Path("runs")) == ["41"]
    (slurm.commands / "sbatch").write_text(script)
    handed = hand(settings)
    noted = json.loads(Path("runs/graph.json").read_text())
    plan = plan_pipeline(settings, Path("runs"))
    write_graph(plan.run_dir, plan.nodes)
    assert json.loads(Path("runs/graph.json").read_text()) == noted
    assert noted["builds"] == [handed["shards data/built"].job]
    assert all("job" in stage for stage in noted["stages"])


def test_a_followed_pipeline_notes_only_the_builds_it_submitted(
    slurm: Slurm, settings: PipelineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shard_jobs, "follow", interrupted)
    for folder, builds in (("runs", ["41"]), ("others", []), ("runs", ["41"])):
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(settings, Path(folder), lambda _: None, cluster=CLUSTER)
        assert read_builds(Path(folder)) == builds
    cancel.cancel(Path("others"), now=False, wait=1.0)
    assert calls(slurm.commands, "scancel") == []
    cancel.cancel(Path("runs"), now=False, wait=1.0)
    assert calls(slurm.commands, "scancel") == ["41"]
