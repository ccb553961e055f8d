"""What files say is shown and never obeyed: every verb over files that want to drive the terminal."""

from __future__ import annotations

import json
import re
import struct
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from swamp_dist import cli
from swamp_dist.data.manifest import MANIFEST_FILE, ManifestRecord
from tests.runs.written_runs import DEAD, owned_by, rows, started, write

EVIL = (
    "\x1b[2J\x1b]0;owned\x07\x9b31m[bold red]x[/bold red][link=http://x]y[/]:skull:\u202e\rforged: done\x7f"
)
"""Clears the screen, renames the window, colours, links, turns the direction, overwrites the line."""
LINES = "\nforged: done\n"
RUNS = Path("runs")
JOB = "name: good\ndata: {shards: set}\nevaluate: [{split: test}]\n"
STYLE = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\r?\x1b\[1A|\r?\x1b\[2K")
"""What rich itself sends to a terminal."""


def metrics() -> dict[str, Any]:
    return {
        "direction": EVIL + LINES, "relevance": EVIL, "r_at_1": 1.0, "r_at_5": 2.0, "r_at_10": 3.0,
        "median_rank": 4.0, "num_queries": 5, "num_items": 5, "map": None, "precision_at": {}, "map_at": {},
    }  # fmt: skip


def result(split: str = EVIL) -> dict[str, Any]:
    both = {f"pair/{direction}": metrics() for direction in ("a_to_b", "b_to_a")}
    evaluation = {"split": split, "metrics": both, "chance": both}
    return {
        "format": 1, "name": EVIL + LINES, "weights": EVIL, "selected_step": 3, "steps": 5,
        "evaluations": [evaluation], "provenance": {"seed": EVIL},
    }  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_shards: Path) -> Path:
    """A working folder in which every file that a verb reads is hostile."""
    monkeypatch.chdir(tmp_path)
    now = time.time()
    training = {"step": 0, "total_steps": 100, "validates": EVIL, "metric": "pair/a_to_b/r_at_1"}
    failed = write(
        RUNS / "failed", started(DEAD), ("training", now, training), ("failed", now, {"reason": EVIL})
    )
    rows(failed, now, {"step": 4, f"retrieval/{EVIL}/pair/a_to_b/r_at_1": 50.0})
    failed.log(0).write_text(EVIL + LINES)
    write(RUNS / "requeued", started(DEAD), ("requeued", now, {"reason": EVIL, "job": EVIL, "host": EVIL}))
    write(RUNS / "submitted", ("submitted", now, {"job": EVIL}))
    (RUNS / "submitted/cluster.yaml").write_text(f"backend: {json.dumps(EVIL)}\n")
    elsewhere = write(RUNS / "elsewhere", started(DEAD))
    elsewhere.owner_json.write_text(json.dumps({"host": EVIL, "pid": 3, "born": EVIL}))
    done = write(RUNS / "done", started(DEAD))
    done.result_json.write_text(json.dumps(result()))
    for name, content in (("broken", {"format": EVIL}), ("torn", {"format": 1, "name": EVIL})):
        write(RUNS / name, started(DEAD)).result_json.write_text(json.dumps(content))
    write(RUNS / f"named{EVIL}", started(DEAD)).log(0).write_text(EVIL)
    graph = {"stages": [{"key": f"a{EVIL}{LINES}", "after": []}, {"key": "b", "after": [f"a{EVIL}{LINES}"]}]}
    (RUNS / "pipeline").mkdir()
    (RUNS / "pipeline/graph.json").write_text(json.dumps(graph))
    owned_by(write(RUNS / "held", started(DEAD)), DEAD)
    _hostile_set(tiny_shards, tmp_path / "set")
    (tmp_path / "weights.safetensors").write_bytes(
        _weights({EVIL: {"dtype": EVIL}, "__metadata__": {EVIL: EVIL}})
    )
    (tmp_path / "good.yaml").write_text(JOB)
    (tmp_path / "evil.yaml").write_text(
        f"{json.dumps(EVIL)}: 1\nname: {json.dumps(EVIL)}\n{json.dumps(EVIL)}: 2\n"
    )
    (tmp_path / "raw.yaml").write_bytes(f"name: {EVIL}\n".encode())
    return tmp_path


def _hostile_set(made_from: Path, folder: Path) -> None:
    """A shard set whose splits, fields and files are called as no build would call them."""
    folder.mkdir()
    record = json.loads((made_from / MANIFEST_FILE).read_text())
    record["splits"][EVIL] = record["splits"].pop("test")
    record["fields"][EVIL] = record["fields"]["a"]
    record["name"] = EVIL
    record["hash"] = ManifestRecord.model_validate(record).content_hash()
    (folder / MANIFEST_FILE).write_text(json.dumps(record))


def _weights(header: dict[str, Any]) -> bytes:
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content


VERBS = """
status
status --json
status --watch runs/failed
status runs/pipeline
logs runs/failed
logs runs/failed --follow
logs runs/failed --rank 7
logs runs/named{evil}
cancel runs/submitted
cancel runs/elsewhere
cancel runs/pipeline
cancel runs/held
table runs/done
table runs/done --markdown
table runs/broken
table runs/torn
report runs --out page.html
report runs/done
report runs/torn
report evil.yaml
report {evil}
show evil.yaml
show raw.yaml
show good.yaml name={evil}
show good.yaml data.a={evil}
show good.yaml {evil}=1
run good.yaml
run good.yaml --run-dir runs/broken
run good.yaml --run-dir {evil}
run evil.yaml
submit good.yaml --cluster evil.yaml
pipeline evil.yaml
sweep evil.yaml
doctor --job evil.yaml
shards verify set
shards verify {evil}
shards build evil.yaml
export weights.safetensors --out x.pth
export runs/done --out x.pth
""".strip().splitlines()


def ran(verb: str) -> str:
    """What a command prints, on both streams; an error of ours fails the test."""
    words = [word.replace("{evil}", EVIL) for word in verb.split()]
    done = CliRunner().invoke(cli.app, words, color=True)
    assert done.exception is None or isinstance(done.exception, SystemExit), (verb, done.exception)
    return done.output


def obeyed(output: str) -> list[str]:
    """Characters that a terminal would obey."""
    return [ascii(c) for c in output if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"]


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_no_verb_obeys_a_file(hostile: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "400")
    quoted = 0
    for verb in VERBS:
        output = STYLE.sub("", ran(verb)) if terminal else ran(verb)
        assert obeyed(output) == [], (verb, output)
        forged = [line for line in output.split("\n") if line.startswith("forged")]
        assert not forged or verb.startswith("logs"), (verb, output)  # a log has lines of its own
        assert "\U0001f480" not in output, verb
        quoted += "owned\\u0007" in output.replace("\n", "")
    assert quoted > len(VERBS) / 2  # what is cleaned is shown, not hidden


def test_markup_has_no_effect(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "400")
    for verb in ("status runs/failed", "table runs/done", "show good.yaml data.a=[bold_red]x[/bold_red]"):
        shown = ran(verb)
        assert re.search(r"\[bold[ _]red\]x\[/bold[ _]red\]", STYLE.sub("", shown)), shown
        assert "\x1b[1;31m" not in shown
        assert "\x1b]8;" not in shown


def test_markdown_shows_labels_as_they_are(hostile: Path) -> None:
    label = "[a](javascript:b) <img src=x> **c** | `d` &lt; ![e](f)\n# g"
    (RUNS / "done/result.json").write_text(json.dumps(result("test") | {"name": label}))
    as_written = r"[a\](javascript:b) \<img src=x> \*\*c\*\* \| \`d\` \&lt; \![e\](f)\\n# g"
    assert f"| {as_written} |" in ran("table runs/done --markdown")
