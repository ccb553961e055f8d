"""The shipped pipelines, run through the command a user types."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _swamp(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "swamp_dist", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _metric(run_dir: Path, key: str, figure: str) -> float:
    result: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
    return float(result["evaluations"][0]["metrics"][key][figure])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_table13_for_one_seed_and_three_epochs(tmp_path: Path) -> None:
    arguments = (
        "pipeline",
        "jobs/pipelines/table13.yaml",
        "matrix={seed: [0]}",
        "overrides=[train.epochs=3]",
    )
    printed = _swamp(*arguments, "--run-dir", str(tmp_path / "run"))
    assert "90.8" in printed  # the paper's row stands beside ours
    stages = ("contrastive", "contrastive-long", "swamp", "swamp-alone", "warm-up", "warm-up-swamp")
    for stage in stages:
        run_dir = tmp_path / "run" / "seed-0" / stage
        assert json.loads((run_dir / "result.json").read_text())["steps"] == 3 * 54
        assert _metric(run_dir, "pair/a_to_b", "r_at_10") > 5 * 0.5  # chance is 0.5%
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    again = _swamp(*arguments, "--run-dir", str(tmp_path / "run"))
    assert "90.8" in again
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(
    shutil.which("npm") is None, reason="OpenMoji is fetched with npm, which is not installed"
)
def test_openmoji_for_one_seed_beats_chance_in_both_directions(tmp_path: Path) -> None:
    _swamp(
        "pipeline", "jobs/pipelines/openmoji.yaml", "matrix={seed: [0]}", "--run-dir", str(tmp_path / "run")
    )
    for stage in (form + term for form in ("hardest", "infonce", "all") for term in ("", "-swamp")):
        for direction in ("pair/a_to_b", "pair/b_to_a"):
            run_dir = tmp_path / "run" / "seed-0" / stage
            assert _metric(run_dir, direction, "num_items") == 500
            assert _metric(run_dir, direction, "r_at_1") > 10 * 0.2  # chance is 0.2%; one seed spreads by 1
