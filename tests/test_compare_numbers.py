"""The maintainers' program that compares the numbers of two revisions finds the smallest difference."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

PROGRAM = Path(__file__).resolve().parents[1] / "tools" / "compare_numbers.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_numbers", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write_stage(
    folder: Path, loss: float = 0.1, weight: float = 1.0, rank: int = 7, shards: str = "a"
) -> None:
    """The three files of a finished stage that are compared."""
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = [
        {"step": 1, "loss/total": loss, "perf/step_seconds": float(np.random.default_rng().random())},
        {"step": 1, "retrieval/validation/pair/a_to_b/r_at_1": 5.0},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_file({"w": np.array([weight, np.nan], dtype=np.float32)}, folder / "weights.safetensors")
    evaluations = [{"split": "test", "metrics": {"pair/a_to_b": {"median_rank": rank}}}]
    result = {"evaluations": evaluations, "provenance": {"shards_sha256": shards, "seconds": 3.0}}
    (folder / "result.json").write_text(json.dumps(result))


def test_equal_stages_are_equal_whatever_the_time_they_took(program: ModuleType, tmp_path: Path) -> None:
    for side in ("first", "second"):
        _write_stage(tmp_path / side / "stage", loss=float("nan"))
    first, second = (program.read_stages(tmp_path / side) for side in ("first", "second"))
    assert all(first["stage"][kind] for kind in program.KINDS)
    assert program.report("p", first, second)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("losses", {"loss": float(np.nextafter(0.1, 1))}),
        ("weights", {"weight": float(np.nextafter(np.float32(1), np.float32(2)))}),
        ("evaluations", {"rank": 8}),
        ("shards", {"shards": "b"}),
    ],
)
def test_one_bit_is_a_difference(
    program: ModuleType,
    tmp_path: Path,
    kind: str,
    changed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    _write_stage(tmp_path / "first" / "stage")
    _write_stage(tmp_path / "second" / "stage", **changed)
    first, second = (program.read_stages(tmp_path / side) for side in ("first", "second"))
    assert not program.report("p", first, second)
    assert f"{kind} DIFFER (" in capsys.readouterr().out


def test_a_stage_that_only_one_revision_has_is_a_difference(program: ModuleType, tmp_path: Path) -> None:
    _write_stage(tmp_path / "first" / "one")
    _write_stage(tmp_path / "first" / "two")
    first = program.read_stages(tmp_path / "first")
    assert not program.report("p", first, {"one": first["one"]})
    assert not program.report("p", {"one": first["one"]}, first)


def test_an_unknown_revision_is_an_error_of_its_own() -> None:
    done = subprocess.run([sys.executable, str(PROGRAM), "no-such-revision"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no-such-revision" in done.stderr
