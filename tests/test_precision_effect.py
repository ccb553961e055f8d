"""The tables of `tools/precision_effect.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch


def _tool() -> ModuleType:
    path = Path(__file__).parents[1] / "tools" / "precision_effect.py"
    spec = importlib.util.spec_from_file_location("precision_effect", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_coarser_operands_are_farther_from_float64() -> None:
    tool = _tool()
    sides = tool.similar_rows(60, 32)
    found = tool.effects(tool.FORMS["infonce, T 0.1"], sides)
    typical = [found[precision].typical for precision in tool.PRECISIONS]
    assert 0 < typical[0] < typical[1] / 10
    assert typical[1] < typical[2] / 3
    worst = [tool.similarity_errors(sides, precision)[1] for precision in tool.PRECISIONS]
    assert worst == sorted(worst)


def test_a_rank_counts_the_columns_that_score_as_high() -> None:
    scores = torch.tensor([[0.5, 0.6, 0.5], [0.1, 0.9, 0.2], [0.4, 0.3, 0.35]])
    assert _tool().ranks(scores).tolist() == [3, 1, 2]
