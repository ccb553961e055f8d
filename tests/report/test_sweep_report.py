"""A sweep and a pipeline that are named by their files: their own tables, and figures of the sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.loading import dump
from swamp_dist.report.build import Asked, build_report
from swamp_dist.report.subject import open_subject
from tests.pages.parsed import Parsed
from tests.report.made import finished
from tests.train.tiny import tiny_stage

SWEEP = """
name: s
job: job.yaml
vary: {objective.swamp.prototypes: [10, 300], objective.swamp.weight: [0, 0.5]}
seeds: [0, 1]
evaluate: {split: validation, relevance: [pair, class]}
metrics: [pair/a_to_b/r_at_1, class/a_to_b/map]
"""
PIPELINE = """
name: p
matrix: {seed: [0, 1]}
stages:
  one: {job: job.yaml, overrides: ["seed={seed}"]}
  two: {job: job.yaml, overrides: ["seed={seed}"]}
tables:
  - title: Its own table
    metrics: [pair/a_to_b/r_at_1]
    rows: [{label: first, stage: one}, {label: second, stage: two, against: one}]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(dump(tiny_stage(Path("data/one"))))
    Path("sweep.yaml").write_text(SWEEP)
    Path("pipeline.yaml").write_text(PIPELINE)


def page(file: str) -> str:
    return build_report(open_subject(Path(file), None), Asked("swamp report FILE")).html


def test_a_sweep_has_a_figure_for_every_setting_and_metric() -> None:
    for seed in (0, 1):
        for name, recall in (("as-the-job", 30), ("prototypes-300", 35), ("weight-0", 25)):
            finished(Path(f"runs/s/seed-{seed}/{name}"), recall + seed, seed=seed)
    parsed = Parsed(page("sweep.yaml"))
    results = page("sweep.yaml").split('id="curves"')[0]
    assert results.count('<figure class="chart">') == 4
    assert results.count('class="level"') == 2  # of the prototypes, whose runs have another lambda
    assert results.count('class="best"') == 4
    assert results.count("objective.swamp.prototypes</h3>") == 1
    assert "prototypes, logarithmic; the job has 10" in parsed.said
    assert "Paired differences" in parsed.said


def test_figures_of_a_grid_say_what_is_averaged_and_have_no_bars() -> None:
    Path("sweep.yaml").write_text(SWEEP + "design: grid\n")
    for seed in (0, 1):
        for name, recall in (("as-the-job", 30), ("prototypes-300", 35), ("weight-0", 25)):
            finished(Path(f"runs/s/seed-{seed}/{name}"), recall + seed, seed=seed)
    said = Parsed(page("sweep.yaml")).said
    assert "Means over all values of objective.swamp.weight, and over seeds: no bars." in said
    assert "A line joins the means of the runs, a pale dot is a run" in said


def test_a_pipeline_has_its_own_tables() -> None:
    for seed in (0, 1):
        finished(Path(f"runs/p/seed-{seed}/one"), 30, seed=seed)
        finished(Path(f"runs/p/seed-{seed}/two"), 33, seed=seed, objective__swamp__weight=0)
    said = Parsed(page("pipeline.yaml")).said
    assert "Its own table" in said
    assert "Runs of equal settings" not in said
    assert "+3.00" in said
