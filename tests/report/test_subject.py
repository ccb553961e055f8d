"""What the argument of `swamp report` may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.errors import UserError
from swamp_dist.report.subject import open_subject
from swamp_dist.runs.graph import GraphNode, write_graph
from tests.report.made import begun, finished

JOB = "name: one\ndata: {shards: data/one, entries: 8}\ntrain: {epochs: 3}\nevaluate: [{split: test}]\n"
SWEEP = (
    "name: s\njob: job.yaml\nvary: {objective.swamp.eta: [5, 20]}\nseeds: [0, 1]\n"
    "evaluate: {split: validation}\nmetrics: [pair/a_to_b/r_at_1]\n"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    Path("sweep.yaml").write_text(SWEEP)
    Path("pipeline.yaml").write_text("name: p\nstages:\n  one: {job: job.yaml}\n  two: {job: job.yaml}\n")


def test_folders_are_a_run_runs_or_a_pipeline() -> None:
    finished(Path("all/one"))
    begun(Path("all/two"))
    one, runs = open_subject(Path("all/one"), None), open_subject(Path("all"), None)
    assert (one.kind, one.name, [key for key, _ in one.runs]) == ("run", "one", ["one"])
    assert (runs.kind, [key for key, _ in runs.runs]) == ("runs", ["one", "two"])
    write_graph(Path("all"), [GraphNode("one", ()), GraphNode("two", ()), GraphNode("later", ("two",))])
    graph = open_subject(Path("all"), None)
    assert (graph.kind, len(graph.runs), graph.planned) == ("pipeline", 2, 3)


def test_files_name_the_runs_of_their_graph() -> None:
    finished(Path("runs/p/one"))
    pipeline = open_subject(Path("pipeline.yaml"), None)
    assert (pipeline.kind, [key for key, _ in pipeline.runs], pipeline.planned) == ("pipeline", ["one"], 2)
    finished(Path("elsewhere/seed-1/eta-20"))
    sweep = open_subject(Path("sweep.yaml"), Path("elsewhere"))
    assert (sweep.kind, [key for key, _ in sweep.runs]) == ("sweep", ["seed-1/eta-20"])
    assert sweep.sweep is not None


@pytest.mark.parametrize(
    ("source", "run_dir", "said"),
    [
        ("sweep.yaml", None, "no run of it has begun in runs/s"),
        ("job.yaml", None, "is no pipeline or sweep"),
        ("nowhere", None, "expected a run folder"),
        ("all", "other", "--run-dir belongs to a pipeline or sweep file"),
    ],
)
def test_anything_else_is_refused_with_the_fix(source: str, run_dir: str | None, said: str) -> None:
    finished(Path("all/one"))
    with pytest.raises(UserError, match=said):
        open_subject(Path(source), None if run_dir is None else Path(run_dir))
