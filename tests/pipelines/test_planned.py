"""The shipped pipelines plan what tests/pipelines/planned/ says."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from swamp_dist.config import PipelineSettings
from swamp_dist.loading import load
from tests.pipelines.planned_text import FOLDER, ROOT, planned_text

FILES = sorted((ROOT / "jobs" / "pipelines").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_pipeline_plans_what_is_written_down(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    expected = (FOLDER / f"{file.stem}.txt").read_text().splitlines()
    found = planned_text(load(file, PipelineSettings)).splitlines()
    changes = "\n".join(
        difflib.unified_diff(expected, found, "written down", "planned now", lineterm="", n=0)
    )
    assert not changes, (
        f"{changes}\nIf this is meant: python -m tests.pipelines.planned_text writes it down anew"
    )


def test_every_shipped_pipeline_is_written_down() -> None:
    assert [f.stem for f in FILES] == sorted(f.stem for f in (ROOT / FOLDER).glob("*.txt"))
