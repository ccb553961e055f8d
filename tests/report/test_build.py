"""The whole page: what it holds, what it leaves out, what it refuses to become."""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from swamp_dist import cli
from swamp_dist.errors import UserError
from swamp_dist.evaluate.render import grids
from swamp_dist.pages.page import MOST_BYTES
from swamp_dist.pipelines.compare import compare_runs
from swamp_dist.records import Alarm
from swamp_dist.report.build import Asked, Report, best_run, build_report
from swamp_dist.report.facts import read_run
from swamp_dist.report.subject import open_subject
from swamp_dist.runs.folder import RunDir
from tests.pages.parsed import EVIL, Parsed
from tests.report.made import begun, finished, thirty

ALARM = Alarm("ratio", f"effective ratio above 1 {EVIL}", 7, 12, None, 1)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def made(source: Path, **asked: object) -> Report:
    return build_report(open_subject(source, None), Asked("swamp report RUN", **asked))  # type: ignore[arg-type]


def swamp(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def ids(html: str) -> list[str | None]:
    return [section["id"] for section in Parsed(html).named("section")]


def test_a_run_is_shown_with_figures_curves_settings_cost_and_provenance(tmp_path: Path) -> None:
    run = finished(tmp_path / "one", alarms=(ALARM,), provenance={"git": {"commit": "abc123"}}).path
    page = made(run)
    assert ids(page.html) == ["results", "curves", "settings", "alarms", "cost", "provenance", "left-out"]
    said = Parsed(page.html).said
    for told in (
        "Evaluated on test",
        "chance",
        "abc123",
        "validation, pair relevance, percent",
        "960",
        "60 s",
    ):
        assert told in said, told
    assert re.search(r"objective\.swamp\.prototypes</th><td>10</td>", page.html)
    assert "effective ratio above 1" in said
    assert "train.optimizer.clip_norm" in page.html
    assert [how for _, how in page.left_out] == [
        "swamp report RUN --examples", "swamp report RUN --prototypes"
    ]  # fmt: skip


def test_runs_are_compared_by_the_code_of_swamp_compare(tmp_path: Path) -> None:
    for seed in range(3):
        for weight in (0, 0.5):
            name = f"seed-{seed}/weight-{weight}"
            finished(tmp_path / name, 30 + seed + 5 * weight, seed=seed, objective__swamp__weight=weight)
    page = made(tmp_path)
    compared = compare_runs([tmp_path])
    assert compared.table is not None
    figures, differences = grids(compared.table)
    assert all(f"<td>{text}</td>" in page.html for row in figures.rows for text in row[1:])
    assert all(f"<td>{text}</td>" in page.html for row in differences.rows for text in row[3:])
    assert "[+2.50, +2.50]" in page.html
    assert "objective.swamp.weight" in page.html
    assert len(Parsed(page.html).named("button")) == 2  # one for each group of runs
    assert "seed-2/weight-0.5" in page.html


def test_only_groups_with_lines_are_in_the_legend(tmp_path: Path) -> None:
    finished(tmp_path / "trained", objective__swamp__prototypes=20)
    finished(tmp_path / "evaluated").metrics_jsonl.unlink()
    finished(tmp_path / "also", objective__swamp__prototypes=30)
    buttons = Parsed(made(tmp_path).html).named("button")
    assert [button["data-line"] for button in buttons] == ["0", "2"]


def test_texts_of_files_do_no_harm(tmp_path: Path) -> None:
    evil = "x onerror=alert(1) ' \u202e"
    run = finished(
        tmp_path / evil, alarms=(ALARM,), provenance={EVIL: EVIL, "python": EVIL}, data__a=EVIL[:60],
    )  # fmt: skip
    with run.metrics_jsonl.open("a") as file:
        for step in (50, 60):
            file.write(json.dumps({"step": step, EVIL: 1.0, f"retrieval/{EVIL}/pair/a_to_b/map": 2.0}) + "\n")
    for source in (run.path, tmp_path):
        page = made(source).html
        parsed = Parsed(page)
        assert len(parsed.named("script")) == len(parsed.named("style")) == 1
        assert parsed.named("img") == []
        attributes = {name for _, each in parsed.tags for name in each}
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not set("\x1b\u202e\0") & set(page)
        assert "\\u001b[2J\\u202e\\u0000" in parsed.said
        links = [each["href"] for each in parsed.named("a")]
        assert all(link is not None and link.startswith("#") for link in links)
        assert "http" not in page.replace("http-equiv", "")


def test_nothing_but_run_folders_is_read_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the data or weights were read")

    for reader in (
        "data.manifest.load_manifest", "report.facts.known_inputs", "report.looked_up.load_model"
    ):  # fmt: skip
        monkeypatch.setattr(f"swamp_dist.{reader}", refuse)
    run = finished(tmp_path / "one")
    run.weights.write_bytes(b"no weights")
    assert "retrieval examples" in made(run.path).left_out[0][0]


def test_what_cannot_be_looked_up_is_left_out_with_the_reason(tmp_path: Path) -> None:
    run = finished(tmp_path / "one").path
    left_out = made(run, examples=True, prototypes=True).left_out
    assert [what for what, _ in left_out] == ["retrieval examples", "the sheet of prototypes"]
    assert all(str(run) in why for _, why in left_out)


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    finished(tmp_path / "good")
    begun(tmp_path / "live")
    finished(tmp_path / "torn").result_json.write_text("{")
    page = made(tmp_path)
    assert page.left_out[0][0] == "run torn"
    assert "cannot be read" in page.left_out[0][1]
    assert "1 of 3" in page.html
    assert "1 of 2 runs have written it." in page.html
    (tmp_path / "good/result.json").unlink()
    assert "No run has been evaluated yet" in made(tmp_path).html
    only = finished(tmp_path / "torn-alone/x").path
    (only / "result.json").write_text("[]")
    with pytest.raises(UserError, match="no run can be read"):
        made(only)


def test_sheets_that_a_run_has_are_shown_and_other_files_are_not(tmp_path: Path) -> None:
    run = finished(tmp_path / "one").path
    for name, data in (("test", PNG), ("bad", b"<svg onload=alert(1)>")):
        (run / "prototypes" / name).mkdir(parents=True)
        (run / "prototypes" / name / "sheet.png").write_bytes(data)
    page = made(run)
    (image,) = Parsed(page.html).named("img")
    assert (image["width"], image["height"]) == ("1", "1")
    assert (image["src"] or "").startswith("data:image/png;base64,iVBOR")
    assert "prototypes" in ids(page.html)
    assert [what for what, _ in page.left_out][0] == "a sheet of prototypes"


def test_thirty_runs_take_less_than_five_megabytes(tmp_path: Path) -> None:
    thirty(tmp_path, steps=210)
    started = time.monotonic()
    page = made(tmp_path)
    print(f"\n30 runs: {len(page.html.encode()):,} bytes, {time.monotonic() - started:.1f} s")  # noqa: T201
    assert len(page.html.encode()) < MOST_BYTES / 5
    assert "30 of 30" in page.html


def test_a_page_that_is_too_large_shows_less_says_so_and_has_an_end(tmp_path: Path) -> None:
    run = finished(tmp_path / "one", steps=600).path
    subject, asked = open_subject(run, None), Asked("swamp report RUN")
    whole = build_report(subject, asked)
    less = build_report(subject, asked, len(whole.html.encode()) - 1)
    assert len(less.html) < len(whole.html)
    assert "all but 100 points of a curve" in less.left_out[-1][0]
    with pytest.raises(UserError, match=r"1 runs make a page of [\d,]+ bytes; expected at most 1,000"):
        build_report(subject, asked, 1000)


def test_the_best_run_is_the_one_that_is_looked_into(tmp_path: Path) -> None:
    runs = [read_run(str(r), finished(tmp_path / str(r), r), False) for r in (20.0, 31.0, 25.0)]
    assert best_run(runs, ()).key == "31.0"
    assert best_run(runs, ("class/b_to_a/map",)).key == "31.0"
    assert best_run([read_run("live", begun(tmp_path / "live"), False)], ()).key == "live"


def test_the_verb_writes_the_page_beside_the_runs_and_says_what_it_left_out(tmp_path: Path) -> None:
    run = finished(tmp_path / "one")
    done = swamp("report", str(run.path))
    assert done.exit_code == 0, done.output
    assert (
        f"left out:    retrieval examples, which need the data and the weights: swamp report {run.path}"
        in done.output
    )
    first = (run.path / "report.html").read_bytes()
    assert swamp("report", str(run.path), "--out", str(tmp_path / "other.html")).exit_code == 0
    assert (tmp_path / "other.html").read_bytes() == first  # the same runs give the same page
    refused = swamp("report", str(run.path), "--metrics", "r_at_2")
    assert refused.exit_code == 2
    assert "r_at_1" in refused.output
    chosen = swamp("report", str(run.path), "--metrics", "pair/*/r_at_5")
    assert chosen.exit_code == 0
    assert "R@10" not in RunDir(run.path).path.joinpath("report.html").read_text().split('id="curves"')[0]
