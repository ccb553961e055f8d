"""What the documents promise exists: files they link to, and commands they tell a reader to type."""

import re
import shlex
from pathlib import Path

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
from swamp_dist.loading import kind_of, load

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if not {".venv", "data", "runs", "build"} & set(p.parts))
COMMANDS = [
    (document.name, line.strip().split("   ")[0].split(" #")[0])
    for document in DOCUMENTS
    for block in re.findall(r"```\w*\n(.*?)```", document.read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.strip().startswith("swamp ")
]


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
    files = [word for word in rest if word.endswith(".yaml")]
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
