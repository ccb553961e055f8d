"""The table of `tools/start_distance.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch


def _tool() -> ModuleType:
    path = Path(__file__).parents[1] / "tools" / "start_distance.py"
    spec = importlib.util.spec_from_file_location("start_distance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_total_variation_is_the_share_of_mass_that_lies_elsewhere() -> None:
    q = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    assert _tool().total_variation(q, q.flip(2)) == 0.5


@pytest.mark.slow
def test_it_prints_distances_that_fall_with_the_iterations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = _tool()
    np.save(tmp_path / "scores.npy", tool.drawn_scores(60, 12, 8)[0].numpy())
    tables = []
    for given in (
        ["--rows", "60", "--prototypes", "12", "--dim", "8"],
        ["--scores", f"{tmp_path}/scores.npy"],
    ):
        tool.main(given)
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    rows = [[float(x) for x in line.strip("| ").split("|")] for line in tables[0].splitlines()[2:]]
    assert len(rows) == len(tool.EPSILONS) * len(tool.ITERATIONS)
    for epsilon in tool.EPSILONS:
        mine = np.array([row[2:] for row in rows if row[0] == epsilon])
        assert (np.diff(mine[:, :2], axis=0) <= 0).all()
        assert mine[0].min() > 0.001
        assert (np.abs(mine[:, 0] - mine[:, 1]) <= mine[:, 2] + 1e-4).all()  # the triangle's inequality
