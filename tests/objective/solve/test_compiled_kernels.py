"""What the GPU's kernels become as machine code for sm_80 and sm_90; no GPU is needed to compile for one."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TRITON = "3.7.1"
"""Another version makes other machine code, of which nothing is promised."""
MOST_REGISTERS = {"_one_read": 200, "_row_sums": 96, "_columns": 80}
"""Of a variant that loads four scores at once; 255 is what a thread can have."""


def _triton() -> str | None:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None


pytestmark = pytest.mark.skipif(
    _triton() != TRITON, reason=f"triton {_triton()} is here; the machine code of {TRITON} is looked at"
)


@pytest.fixture(scope="module", params=["", pytest.param("all", marks=pytest.mark.slow)])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every variant with its registers, stack and loads."""
    folder: Path = tmp_path_factory.mktemp("kernels")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    asked = [request.param] if request.param else []
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    program = [sys.executable, "-m", "tests.objective.solve.compiled_kernels"]
    root = Path(__file__).parents[3]
    subprocess.run([*program, folder / "found.json", *asked], env=environment, cwd=root, check=True)
    found: list[dict[str, Any]] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.timeout(600)
def test_sums_stay_in_registers_and_four_scores_are_loaded_at_once(built: list[dict[str, Any]]) -> None:
    assert {one["variant"]["arch"] for one in built} == {80, 90}
    for one in built:
        variant = one["variant"]
        assert (one["stack"], one["local"]) == (0, 0), one
        if variant["multiple"] == 1:
            assert one["wide"] == 0, one
            continue
        # Potentials, weights of columns and scores; factors of rows are numbers by themselves.
        assert one["wide"] >= (8 if variant["kernel"] == "_columns" else one["loads"] - 1), one
        assert one["registers"] <= MOST_REGISTERS[variant["kernel"]], one


@pytest.mark.timeout(600)
def test_multiples_of_four_get_the_code_of_multiples_of_sixteen(built: list[dict[str, Any]]) -> None:
    code = {
        multiple: [
            {key: one[key] for key in ("registers", "loads", "wide")} | {"variant": _without_multiple(one)}
            for one in built
            if one["variant"]["multiple"] == multiple
        ]
        for multiple in (4, 16)
    }
    assert len(code[4]) == len(code[16]) > 0
    for four, sixteen in zip(code[4], code[16], strict=True):
        assert (four["variant"], four["loads"], four["wide"]) == (
            sixteen["variant"], sixteen["loads"], sixteen["wide"],
        )  # fmt: skip
        assert four["registers"] <= sixteen["registers"] + 16


def _without_multiple(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one["variant"].items() if key != "multiple"}
