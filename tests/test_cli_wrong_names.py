"""Runs, steps, files and metrics under names that do not fit the verb: what was found, the fix, code 2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.graph import GraphNode, write_graph
from tests.report.made import begun, finished
from tests.test_cli_hints import ROOT, swamp, told

_SMOKE = str(ROOT / "jobs" / "pipelines" / "smoke.yaml")
_OFFLINE = """#!/bin/sh
cat >&2 <<END
npm error code ECONNREFUSED
npm error FetchError: request to http://host/ failed, reason: connect ECONNREFUSED
npm error     at ClientRequest.emit (node:events:524:28) {
npm error   type: 'system'
npm error }
npm error
npm error A complete log of this run can be found in: /root/.npm/x.log
END
exit 1
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two finished runs, one that has not ended, and a job."""
    monkeypatch.chdir(tmp_path)
    finished(Path("runs/one"))
    finished(Path("runs/two"), recall=40.0, seed=1)
    begun(Path("runs/three"))
    Path("runs/empty").mkdir()
    Path("runs/empty/events.jsonl").write_text("")
    Path("job.yaml").write_text("name: x\ndata: {shards: d}\nmodel: {a: {kind: mlp}}\ntrain: {epochs: 1}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eval", "runs/onee"], "found nothing there. Fix: did you mean runs/one?"),
        (["eval", "runs"], "found a folder of runs. Fix: name one of them: runs/one, runs/three, runs/two"),
        (["prototypes", "runs/none", "--split", "s"], "expected a run folder, RUN@STEP"),
        (["prototypes", "runs/one@x", "--split", "s"], "found 'x' for the step. Fix: name the run, runs/one"),
        (["prototypes", "runs/one@3", "--split", "s"], "runs/one@3: expected a run folder"),
        (["prototypes", "job.yaml", "--split", "s"], "found a .yaml file. Fix: name the run folder"),
        (["compare", "runs/one@6", "runs/two"], "name the run, runs/one; or evaluate that step first"),
        (["compare", "job.yaml", "runs/two"], "job.yaml is a file: expected a run folder"),
        (["status", "runs/on"], "runs/on does not exist: expected a run folder, a pipeline"),
        (["status", "runs/on"], "Fix: did you mean runs/one?"),
        (["status", "elsewhere"], "Fix: correct the path (what there is: swamp status)"),
        (["table", "nowhere"], "nowhere does not exist: expected a pipeline file, or run folders."),
        (["table", "nowhere"], "There are: runs/empty, runs/one, runs/three, runs/two"),
        (["report", "runs/one@6"], "swamp eval runs/one@6"),
        (["report", "runs/onne"], "Fix: did you mean runs/one?"),
        (["report", "runs/one", "--out", "runs"], "for example runs/report.html"),
        (["report", "runs/one", "--split", "test"], "add --examples or --prototypes"),
        (["table", "runs/one", "--metrics", "r_at_7"], "Did you mean 'r_at_5'? Known names: pair/{"),
        (["table", "runs/one", "--sort", "pair/mean/r_at1"], "Did you mean 'pair/mean/r_at_1'"),
        (["table", _SMOKE], "smoke: no stage is done in runs/smoke, which does not exist. Give the folder"),
        (["shards", "verify", "runs/one"], "it is the folder of a run. Name the set that its stage.yaml has"),
        (["logs", "runs"], "runs is a folder of runs: name one of its runs"),
        (["compare", "runs/one", "runs/two", "--metrics", "mapp"], "Did you mean 'map'? Known names:"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_wrong_name_is_answered_with_the_right_one(arguments: list[str], said: str) -> None:
    result = swamp(*arguments)
    assert said in told(result)
    assert len(result.output.splitlines()) <= 9


def test_settings_are_shown_as_people_write_them() -> None:
    finished(Path("runs/four"), model__a__hidden=[8, 8])
    shown = swamp("compare", "runs/one", "runs/four").output
    assert "[8, 8]" in shown
    assert "(8" not in shown


def test_what_neither_of_two_settings_says_is_no_difference() -> None:
    run = RunDir(Path("runs/one"))
    made = run.read_result()
    assert made is not None
    run.write_result(replace(made, weights=None))  # no such file was written
    result = swamp("run", "runs/one/stage.yaml", "evaluate=[]", "--run-dir", "runs/one")
    said = told(result)
    assert "evaluate.0.split: was test, asked null" in said
    assert "was null, asked null" not in said


def test_stages_that_have_not_begun_are_left_out_of_a_comparison() -> None:
    nodes = [GraphNode(name, ()) for name in ("one", "two", "waiting")]
    write_graph(Path("runs"), nodes)
    shown = swamp("compare", "runs")
    assert shown.exit_code == 0, shown.output
    assert "left out, as they have not begun: runs/waiting" in " ".join(shown.output.split())
    assert "no stage.yaml" in told(swamp("compare", "runs/one", "runs/empty"))


def test_nothing_is_to_continue_where_all_is_done() -> None:
    result = swamp("cancel", "runs/one")
    assert result.exit_code == 0
    assert "to continue" not in result.output


def test_a_page_is_written_into_a_folder_that_was_not_there() -> None:
    assert swamp("report", "runs/one", "--out", "new/folder/page.html").exit_code == 0
    assert Path("new/folder/page.html").is_file()


def test_a_file_with_code_is_refused_without_advice_to_load_it() -> None:
    torch.save(Path("anything"), "code.pth")
    said = told(swamp("import", "code.pth", "--out", "weights"))
    assert "holds more than tensors (pathlib." in said
    assert "add_safe_globals" not in said
    assert "weights_only" not in said


def test_a_package_manager_without_a_network_is_quoted_by_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path("bin/npm")
    script.parent.mkdir()
    script.write_text(_OFFLINE)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent.resolve()}:/usr/bin:/bin")
    result = swamp("shards", "build", str(ROOT / "shards/emoji.yaml"))
    said = told(result)
    assert "| FetchError: request to http://host/ failed, reason: connect ECONNREFUSED" in result.output
    assert "or copy data/downloads from" in said
    assert "at ClientRequest" not in said
    assert "complete log" not in said
