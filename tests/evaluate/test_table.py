"""The closing table: figures, gaps, paired differences and how they print."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from swamp_dist.config import TableRow, TableSettings
from swamp_dist.errors import UserError
from swamp_dist.evaluate.render import grids, to_markdown, to_rich
from swamp_dist.evaluate.table import build_table
from swamp_dist.records import StageResult
from tests.evaluate.test_results import evaluation, stage

R1, MEDIAN = "pair/a_to_b/r_at_1", "pair/b_to_a/median_rank"
SETTINGS = TableSettings(
    title="Synthetic",
    metrics=(R1, MEDIAN),
    rows=(
        TableRow(label="chance", chance=True),
        TableRow(label="paper", published={R1: 84.1}),
        TableRow(label="contrastive", stage="base"),
        TableRow(label="SwAMP", stage="swamp"),
    ),
    baseline="base",
)
BASE, SWAMP = [84.0, 86.5, 85.0, 83.0], [90.0, 89.5, 84.0, 88.0]


def runs(values: Sequence[float | None]) -> list[StageResult | None]:
    return [None if v is None else stage(Path("run"), v) for v in values]


def test_rows_hold_mean_and_deviation_over_seeds_and_gaps_stay_gaps() -> None:
    unevaluated = replace(stage(Path("run")), evaluations=())  # a pretraining stage, in no row
    table = build_table(SETTINGS, {"pretrain": [unevaluated], "base": runs(BASE), "swamp": runs(SWAMP)})
    chance, paper, base, swamp = table.rows
    assert table.headings == ("pair text->video R@1", "pair video->text MedR")
    assert chance.figures[0] is not None
    assert chance.figures[0].mean == 1.25
    assert paper.figures[0] is not None
    assert paper.figures == (paper.figures[0], None)
    assert base.runs == 4
    assert swamp.figures[0] is not None
    assert (swamp.figures[0].mean, swamp.figures[0].sd) == pytest.approx(
        (np.mean(SWAMP), np.std(SWAMP, ddof=1))
    )


def test_published_figures_have_gaps_where_the_paper_has_none() -> None:
    row = {"label": "VSE++ (paper)", "figures": [52.9, None]}
    settings = TableSettings.model_validate({"metrics": [R1, MEDIAN], "rows": [row]})
    assert settings.rows[0].published == {R1: 52.9}
    with pytest.raises(ValueError, match=r"every one of its `figures` is null"):
        TableSettings.model_validate({"metrics": [R1, MEDIAN], "rows": [{**row, "figures": [None, None]}]})
    with pytest.raises(ValueError, match=r"each of the 2 metrics; found 0 and 1"):
        TableSettings.model_validate({"metrics": [R1, MEDIAN], "rows": [{**row, "figures": [52.9]}]})


def test_differences_are_paired_seed_by_seed() -> None:
    table = build_table(SETTINGS, {"base": runs(BASE), "swamp": runs(SWAMP)})
    first, second = table.comparisons
    differences = np.array(SWAMP) - np.array(BASE)
    low, high = stats.t.interval(0.95, 3, loc=differences.mean(), scale=stats.sem(differences))
    assert first.difference is not None
    assert (first.difference.mean, first.difference.low, first.difference.high) == pytest.approx(
        (differences.mean(), low, high)
    )
    assert (first.label, first.wins, first.difference.n) == ("SwAMP", 3, 4)
    assert second.wins == 0  # equal medians are no win


def test_only_cells_that_both_have_finished_are_compared() -> None:
    results = {"base": runs([84.0, None, 85.0, 83.0]), "swamp": runs([90.0, 89.5, None, 88.0])}
    table = build_table(SETTINGS, results)
    found = table.comparisons[0].difference
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(5.5), 2)
    assert "contrastive: 1 of 4 runs not done." in table.notes


def test_one_seed_prints_no_interval_and_missing_figures_print_a_dash() -> None:
    table = build_table(SETTINGS, {"base": runs([84.0]), "swamp": runs([90.0])})
    figures, differences = grids(table)
    assert figures.rows[0] == ("chance", "1.25", "5.5", "-")
    assert figures.rows[1] == ("paper", "84.1", "-", "-")
    assert figures.rows[3] == ("SwAMP", "90.00", "5.5", "1")
    assert differences.rows[0] == ("SwAMP", "contrastive", "pair text->video R@1", "+6.00", "-", "-", "1/1")


def test_nothing_finished_prints_dashes_and_never_zero() -> None:
    table = build_table(SETTINGS, {"base": runs([None]), "swamp": runs([None])})
    figures, differences = grids(table)
    assert figures.rows[0] == ("chance", "-", "-", "-")
    assert figures.rows[2] == ("contrastive", "-", "-", "0")
    assert differences.rows[0] == ("SwAMP", "contrastive", "pair a->b R@1", "-", "-", "-", "-")


def test_markdown_and_console_show_the_same_figures() -> None:
    from rich.console import Console

    table = build_table(SETTINGS, {"base": runs(BASE), "swamp": runs(SWAMP)})
    markdown = to_markdown(table)
    assert "| SwAMP | 87.88 +- 2.72 | 5.5 +- 0.0 | 4 |" in markdown
    assert "| --- | ---: | ---: | ---: |" in markdown
    console = Console(file=io.StringIO(), width=160)
    for drawn in to_rich(table):
        console.print(drawn)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    for grid in grids(table):
        for cell in (cell for row in grid.rows for cell in row):
            assert cell in printed
            assert cell in markdown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ("pair/a_to_b/r_at1",), "rows": SETTINGS.rows[2:]}, "Did you mean 'pair/a_to_b/r_at_1'"),
        ({"baseline": "bose"}, "'bose' is not a stage"),
        ({"evaluation": 1}, "has 1 evaluations"),
        ({"rows": (TableRow(label="x"),)}, "exactly one of stage, published, chance"),
        ({"rows": (TableRow(label="x", chance=True, stage="base"),)}, "exactly one of"),
        (
            {"rows": (TableRow(label="x", published={"pair/a_to_b/r_at_5": 1.0}),)},
            "not among the table's metrics",
        ),
    ],
)
def test_mistakes_in_the_table_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_table(SETTINGS.model_copy(update=change), {"base": runs(BASE), "swamp": runs(SWAMP)})


def test_cells_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(UserError, match="different numbers of runs"):
        build_table(SETTINGS, {"base": runs(BASE), "swamp": runs(SWAMP[:2])})


def test_tables_need_neither_torch_nor_scipy() -> None:
    code = "import sys, swamp_dist.evaluate.render; print('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_row_may_name_the_stage_that_it_is_compared_with() -> None:
    rows = (
        TableRow(label="contrastive", stage="base"),
        TableRow(label="SwAMP", stage="swamp", against="base"),
        TableRow(label="pretrained", stage="pretrained", against="swamp"),
    )
    settings = TableSettings(metrics=(R1,), rows=rows)
    table = build_table(settings, {"base": runs(BASE), "swamp": runs(SWAMP), "pretrained": runs([91.0] * 4)})
    assert [(c.label, c.against) for c in table.comparisons] == [
        ("SwAMP", "contrastive"),
        ("pretrained", "SwAMP"),
    ]
    found = table.comparisons[1].difference
    assert found is not None
    assert found.mean == pytest.approx(91 - np.mean(SWAMP))


def test_a_row_may_show_another_evaluation_of_its_stage() -> None:
    both = [
        replace(run, evaluations=(evaluation(one), replace(evaluation(two), normalised="qb_norm by train")))
        for run, one, two in zip(runs([80.0, 84.0]), [80.0, 84.0], [83.0, 88.0], strict=True)
        if run is not None
    ]
    rows = (
        TableRow(label="plain", stage="base"),
        TableRow(label="normalised", stage="base", evaluation=1, against="base"),
        TableRow(label="other", stage="other", evaluation=1),
    )
    settings = TableSettings(metrics=(R1,), rows=rows, baseline="base")
    table = build_table(settings, {"base": both, "other": both[::-1]})
    assert [row.figures[0].mean for row in table.rows if row.figures[0] is not None] == [82, 85.5, 85.5]
    assert [(c.label, c.against) for c in table.comparisons] == [
        ("normalised", "plain"),
        ("other", "normalised"),
    ]
    found = [c.difference.mean for c in table.comparisons if c.difference is not None]
    assert found == [3.5, 0]
    assert "test (qb_norm by train)" in table.notes[0]
    hidden = settings.model_copy(update={"rows": (rows[0], rows[2])})
    (compared,) = build_table(hidden, {"base": both, "other": both[::-1]}).comparisons
    assert (compared.label, compared.against) == ("other", "plain, evaluation 1")
    with pytest.raises(UserError, match="evaluation = 2, but stage 'base'"):
        build_table(
            settings.model_copy(update={"rows": (TableRow(label="x", stage="base", evaluation=2),)}),
            {"base": both},
        )


def test_notes_of_rows_are_marked_once_and_printed_below() -> None:
    rows = (
        TableRow(label="paper", published={R1: 84.1}, note="selection unstated"),
        TableRow(label="paper, PT", published={R1: 86.1}, note="selection unstated"),
        TableRow(label="ours", stage="base", note="last epoch"),
    )
    settings = TableSettings(metrics=(R1,), rows=rows, note="1,000 items")
    (grid,) = grids(build_table(settings, {"base": runs(BASE)}))
    assert [row[0] for row in grid.rows] == ["paper [1]", "paper, PT [1]", "ours [2]"]
    assert grid.notes[-3:] == ("1,000 items", "[1] selection unstated", "[2] last epoch")


def over(shards: str | None, a: str = "text", b: str = "video") -> StageResult:
    """A run over a shard set, whose fields are called so."""
    made = stage(Path("run"))
    (found,) = made.evaluations
    named = {
        key: replace(each, direction=f"{a}->{b}" if key.endswith("a_to_b") else f"{b}->{a}")
        for key, each in found.metrics.items()
    }
    provenance = {} if shards is None else {"shards_sha256": shards * 8}
    return replace(made, evaluations=(replace(found, metrics=named),), provenance=provenance)


TWO = TableSettings(
    metrics=(R1, MEDIAN), rows=(TableRow(label="x", stage="x"), TableRow(label="y", stage="y"))
)
SAID = "Measured over different data, so rows of two groups do not compare: "


def test_rows_over_different_sets_are_told_and_no_direction_is_misnamed() -> None:
    table = build_table(TWO, {"x": [over("11112222")], "y": [over("33334444", "sketch", "photo")]})
    assert table.headings == ("pair a->b R@1", "pair b->a MedR")
    assert f"{SAID}x (shard set 11112222, text->video); y (shard set 33334444, sketch->photo)." in table.notes
    table = build_table(TWO, {"x": [over("11112222")], "y": [over("33334444")]})
    assert table.headings == ("pair text->video R@1", "pair video->text MedR")
    assert sum(note.startswith(SAID) for note in table.notes) == 1
    table = build_table(TWO, {"x": [over("11112222")], "y": [over("11112222", "sketch", "photo")]})
    assert f"{SAID}x (shard set 11112222, text->video); y (shard set 11112222, sketch->photo)." in table.notes


def test_rows_over_the_same_set_of_every_seed_are_alike() -> None:
    seeds = [over("11112222"), over("33334444")]
    for other in (seeds, [None, over("33334444")], [over("11112222"), over(None)]):
        table = build_table(TWO, {"x": seeds, "y": other})
        assert not any(note.startswith(SAID) for note in table.notes)
    table = build_table(TWO, {"x": seeds, "y": seeds[::-1]})
    (said,) = [note for note in table.notes if note.startswith(SAID)]
    assert "x (shard sets 11112222, 33334444, text->video); y (shard sets 33334444, 11112222" in said


def test_of_many_sets_and_rows_the_first_are_named() -> None:
    rows = tuple(TableRow(label=f"r{i}", stage=f"r{i}") for i in range(14))
    results = {f"r{i}": [over(f"{i % 6}" * 8)] for i in range(14)}
    results |= {f"r{i}": [over("0" * 8)] for i in range(6, 14)}
    (said,) = [
        note
        for note in build_table(TableSettings(metrics=(R1,), rows=rows), results).notes
        if note.startswith(SAID)
    ]
    assert "r0, r6, r7, r8, and 5 more rows (shard set 00000000, text->video); r1 (shard" in said
    assert said.endswith("r3 (shard set 33333333, text->video); and 2 more groups of rows.")
