"""`swamp compare` and `swamp table`: what they show, at which width, and to programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from swamp_dist import cli
from swamp_dist.cli.compare_view import comparison_view, sparkline
from swamp_dist.cli.results_table import fitted
from swamp_dist.evaluate.choose import chosen_metrics
from swamp_dist.pipelines.compare import compare_runs
from swamp_dist.pipelines.tables import runs_table
from swamp_dist.records import EvaluationResult, RetrievalMetrics, StageResult
from swamp_dist.runs.folder import RunDir
from tests.end_to_end.command import plain
from tests.train.tiny import tiny_stage

_VALIDATED = "retrieval/validation/pair/a_to_b/r_at_1"
RECALLS = {"with": [30.0, 32.0, 31.0], "without": [28.0, 29.0, 29.5]}


def finished(folder: Path, recall: float, **changes: Any) -> None:
    """A run of the tiny stage with these figures."""
    metrics = {
        f"{relevance}/{way}": RetrievalMetrics(way, relevance, recall + shift, 40.0, 50.0, 4.0, 9, 9, mean)
        for relevance, mean in (("pair", None), ("class", 60.0))
        for way, shift in (("a_to_b", 0.0), ("b_to_a", 1.0))
    }  # fmt: skip
    run = RunDir(folder)
    run.write_stage(tiny_stage(Path("shards"), **changes))
    run.write_result(StageResult("tiny", folder, None, None, 0, (EvaluationResult("test", metrics),), {}))
    rows = [
        {"step": s, "loss/total": 1.0 / s, "retrieval/validation/pair/a_to_b/r_at_1": 2.0 * s} for s in (1, 5)
    ]
    run.metrics_jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two settings under three seeds, as a pipeline leaves them."""
    monkeypatch.chdir(tmp_path)
    for name, recalls in RECALLS.items():
        for seed, recall in enumerate(recalls):
            weight = 0.5 if name == "with" else 0
            folder = Path(f"runs/both/seed-{seed}/finetuned-{name}")
            finished(folder, recall, seed=seed, objective__swamp__weight=weight)
    return Path("runs/both")


def swamp(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def test_runs_of_one_setting_are_paired_by_seed() -> None:
    found = compare_runs([Path("runs/both")])
    assert [side.label for side in found.sides] == ["finetuned-with", "finetuned-without"] or [
        side.label for side in found.sides
    ] == ["*/finetuned-with", "*/finetuned-without"]
    assert [len(side.runs) for side in found.sides] == [3, 3]
    assert [dict(side.differing) for side in found.sides] == [
        {"objective.swamp.weight": "0.5"},
        {"objective.swamp.weight": "0.0"},
    ]
    assert found.table is not None
    (difference,) = [c for c in found.table.comparisons if c.metric == "pair/a_to_b/r_at_1"]
    assert difference.difference is not None
    assert difference.difference.mean == pytest.approx((-2.0 - 3.0 - 1.5) / 3)
    assert (difference.difference.high or 9.0) < 2
    assert difference.wins == 0


def test_compare_prints_settings_figures_and_curves() -> None:
    shown = swamp("compare", "runs/both/seed-0/finetuned-with", "runs/both/seed-0/finetuned-without")
    assert shown.exit_code == 0, shown.output
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    at = lines.index("objective.swamp.weight")
    assert lines[at + 1 : at + 3] == ["finetuned-with 0.5", "finetuned-without 0.0"]
    assert "-2.00" in shown.output
    assert "one run each: a difference of two runs has no interval" in shown.output
    assert "validation pair/a_to_b/r_at_1, from 2 to 10" in lines
    assert "finetuned-with ▁█ 2 @1 -> 10 @5" in lines
    described = json.loads(swamp("compare", "runs/both", "--json").stdout)
    assert described["sides"][1]["settings"] == {"objective.swamp.weight": "0.0"}
    assert len(described["table"]["comparisons"]) == 6


def test_equal_runs_of_one_seed_are_two_sides() -> None:
    finished(Path("runs/again"), 33.0, seed=0, objective__swamp__weight=0.5)
    found = compare_runs([Path("runs/again"), Path("runs/both/seed-0/finetuned-with")])
    assert len(found.sides) == 2
    assert found.sides[0].differing == {}


def test_one_run_is_no_comparison() -> None:
    refused = swamp("compare", "runs/both/seed-0/finetuned-with")
    assert refused.exit_code == 2
    assert "at least two runs" in refused.stderr


@pytest.mark.parametrize("columns", [80, 100, 120])
@pytest.mark.parametrize("view", ["table", "compare"])
def test_every_line_fits_and_names_stay_whole(columns: int, view: str) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=columns, no_color=True)
    if view == "table":
        folders = sorted(Path("runs/both").glob("*/*"))
        console.print(fitted(runs_table(folders), console))
        names = [f"seed-{seed}/finetuned-{name}" for seed in range(3) for name in RECALLS]
    else:
        console.print(comparison_view(compare_runs([Path("runs/both")]), console))
        names = ["finetuned-with", "finetuned-without"]
    lines = plain(out.getvalue()).splitlines()
    assert max(map(len, lines)) <= columns
    assert all(any(name in line.split() or f"*/{name}" in line.split() for line in lines) for name in names)
    assert any("R@1" in line for line in lines)
    if view == "table":  # all cells of a row are there, the number of runs in the last one
        assert {line.split()[-1] for line in lines if line.startswith("seed-")} == {"1"}
    assert "…" not in out.getvalue()
    if view == "table" and columns == 80:
        assert "left out for want of room" in out.getvalue()


def test_tables_choose_sort_and_speak_to_programs() -> None:
    folders = [str(folder) for folder in sorted(Path("runs/both").glob("*/*"))]
    shown = swamp("table", *folders, "--metrics", "pair/*/r_at_1", "--sort", "pair/a_to_b/r_at_1", "--csv")
    assert shown.exit_code == 0, shown.output
    header, *rows = csv.reader(io.StringIO(shown.output))
    assert header[:4] == ["row", "runs", "pair/a_to_b/r_at_1", "pair/a_to_b/r_at_1 sd"]
    assert [float(row[2]) for row in rows] == sorted(sum(RECALLS.values(), []), reverse=True)
    (described,) = json.loads(swamp("table", *folders, "--json").output)
    assert described["rows"][0]["figures"]["class/a_to_b/map"]["mean"] == 60.0
    refused = swamp("table", *folders, "--metrics", "r_at_2")
    assert refused.exit_code == 2
    assert "metric 'r_at_2' is not a figure of these runs" in refused.stderr
    assert swamp("table", *folders, "--json", "--csv").exit_code == 2
    assert swamp("table", *folders, "--sort", "r_at_1").exit_code == 2  # which of four?


def test_metrics_are_names_patterns_or_figures() -> None:
    known = ["pair/a_to_b/r_at_1", "pair/b_to_a/r_at_1", "pair/mean/map"]
    assert chosen_metrics(["map,pair/a_to_b/r_at_1"], known, "x") == ("pair/mean/map", "pair/a_to_b/r_at_1")
    assert chosen_metrics(["pair/*/r_at_1"], known, "x") == tuple(known[:2])


def test_a_sparkline_ends_with_the_last_value() -> None:
    assert sparkline([0.0, 1.0], 0.0, 1.0) == "▁█"
    assert sparkline([3.0] * 5, 3.0, 3.0) == "▁" * 5
    many = sparkline([*([0.0] * 99), 1.0], 0.0, 1.0)
    assert (len(many), many[-1]) == (24, "█")


def test_single_runs_that_differ_in_their_seed_alone_are_set_side_by_side() -> None:
    named = [Path(f"runs/both/seed-{seed}/finetuned-with") for seed in (0, 1)]
    found = compare_runs(named)
    assert [side.runs for side in found.sides] == [(named[0],), (named[1],)]
    assert [side.label for side in found.sides] == ["seed-0/finetuned-with", "seed-1/finetuned-with"]
    assert all(dict(side.differing) == {} for side in found.sides)
    assert found.table is not None
    (difference,) = [c for c in found.table.comparisons if c.metric == "pair/a_to_b/r_at_1"]
    assert difference.difference is not None
    assert difference.difference.mean == pytest.approx(2.0)
    seeds = "seed-0/finetuned-with: 0, seed-1/finetuned-with: 1"
    assert found.notes[-1] == f"settings are equal, seeds are not: {seeds}"
