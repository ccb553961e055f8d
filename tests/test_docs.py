"""What the documents promise exists: files they link to, and commands they tell a reader to type."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from swamp_dist.cli import app
from swamp_dist.config import (
    LocalCluster,
    PipelineSettings,
    RayCluster,
    ShardSettings,
    SlurmCluster,
    StageSettings,
    SweepSettings,
)
from swamp_dist.data.entry import ENTRY, encode_entry
from swamp_dist.loading import kind_of, load
from swamp_dist.records import Sample

ROOT = Path(__file__).resolve().parents[1]
OWN = {**os.environ, "PYTHONPATH": str(ROOT)}
DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if not {".venv", "data", "runs", "build"} & set(p.parts))
COMMANDS = [
    (document.name, line.strip().split("   ")[0].split(" #")[0])
    for document in DOCUMENTS
    for block in re.findall(r"```\w*\n(.*?)```", document.read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.strip().startswith("swamp ")
]
# Files that a document shows in full: a block whose first line is a comment with their name, or that `cat`
# writes.
SHOWN = {
    commented or written
    for document in DOCUMENTS
    for commented, written in re.findall(
        r"```\w+\n# (\S+)\n|^cat > (\S+) <<", document.read_text(), re.MULTILINE
    )
}


def test_there_are_documents_and_commands_to_check() -> None:
    assert len(DOCUMENTS) >= 5
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_commands_name_verbs_and_files_that_exist(
    document: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    _, verb, *rest = shlex.split(command)
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    assert verb in verbs, f"{document}: {command}"
    if verb == "shards":
        assert rest[0] in verbs["shards"].commands, f"{document}: {command}"
    files = [word for word in rest if word.endswith(".yaml") and word not in SHOWN]
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    for file in files:
        kind = kind_of(Path(file))
        assert kind in (
            StageSettings,
            ShardSettings,
            PipelineSettings,
            SweepSettings,
            LocalCluster,
            RayCluster,
            SlurmCluster,
        )
        of_cluster = kind in (LocalCluster, RayCluster, SlurmCluster)
        load(Path(file), kind, () if of_cluster else overrides)


def test_the_keys_of_an_entry_are_those_that_are_written() -> None:
    (documented,) = re.findall(r"`entry\.json`: `\{(.*?)\}`", (ROOT / "shards" / "README.md").read_text())
    written = dict(encode_entry(Sample("k", {"a": np.zeros(2, np.float32)})))[ENTRY]
    assert re.findall(r'"(\w+)"', documented) == list(json.loads(written))


@pytest.mark.slow
def test_the_python_examples_run_as_they_stand(tmp_path: Path) -> None:
    """One after the other in one program, outside the checkout, without a guard for processes."""
    section = (ROOT / "README.md").read_text().split("## From Python")[1].split("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 3
    assert sum(bool(line) for line in examples[0].splitlines()) <= 15  # from arrays to figures
    (tmp_path / "example.py").write_text("".join(examples))
    own = OWN | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=own, capture_output=True, text=True, check=True
    )
    said = [line for line in done.stdout.splitlines() if re.match(r"\[?[\d']", line)]
    r_at_1, found, of_training, *losses = said
    assert 10 < float(r_at_1) <= 100  # 1 by chance
    assert re.fullmatch(r"\['clip\d+', 'clip\d+', 'clip\d+'\]", found)
    assert 10 < float(of_training) <= 100
    assert len(losses) == 5
    assert float(losses[-1]) < float(losses[0])
