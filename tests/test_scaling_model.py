"""The tables of `tools/scaling_model.py`."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[1] / "tools" / "scaling_model.py"
    spec = importlib.util.spec_from_file_location("scaling_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scaling_model", module)  # its dataclass asks for it
    spec.loader.exec_module(module)
    return module


def test_it_prints_a_step_for_every_number_of_gpus(
    tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.main()
    rows = re.findall(r"^  ([\d,]+) +([\d,]+) +([\d,]+) +([\d.]+) ", capsys.readouterr().out, re.MULTILINE)
    assert [int(gpus.replace(",", "")) for gpus, *_ in rows] == [
        *(1, 8, 16, 32),
        *(2**n for n in range(3, 11)),
    ]
    steps = [float(step) for *_, step in rows[4:]]
    assert steps == sorted(steps)


def test_the_swamp_term_adds_a_tenth_of_the_operations_at_most(tool: ModuleType) -> None:
    assert 1.0 < tool.counted_ratio(1) < 1.1
    assert tool.counted_ratio(8) == pytest.approx(tool.counted_ratio(1), rel=0.01)
