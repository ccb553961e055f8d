"""Which program passes over the scores, and that a training keeps to it."""

from __future__ import annotations

import logging

import pytest
import torch

from swamp_dist.objective.solve import passes
from swamp_dist.objective.solve.passes import Passes, choose_passes, passes_code, resume_passes
from tests.numba_faults import FAULT

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("rows", "device", "dtype", "expected"),
    [
        (passes.WORTH, "cpu", torch.float32, "numba"),
        (passes.WORTH - 1, "cpu", torch.float32, "torch"),
        (passes.WORTH, "cpu", torch.float64, "torch"),
        (passes.WORTH, "cuda", torch.float32, "triton"),
        (1, "cuda", torch.float32, "triton"),
        (1, "cuda", torch.float64, "torch"),
    ],
)
def test_the_choice(rows: int, device: str, dtype: torch.dtype, expected: Passes) -> None:
    assert choose_passes(rows, 1, torch.device(device), dtype) == expected


@pytest.mark.usefixtures("without_numba")
def test_without_numba_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_passes(passes.WORTH, 1, CPU, torch.float32) == "torch"
        assert choose_passes(8, 1, CPU, torch.float32) == "torch"
    assert ["plain torch" in line and "swamp-dist[fast]" in line for line in caplog.messages] == [True]


@pytest.mark.parametrize("chosen", ["torch", "numba"])
@pytest.mark.parametrize("saved", ["torch", "numba"])
def test_a_training_goes_on_with_what_it_began_with(chosen: Passes, saved: Passes) -> None:
    assert resume_passes(chosen, passes_code(saved)) == saved


def test_a_commit_of_an_earlier_version_goes_on_in_plain_torch() -> None:
    assert resume_passes("numba", None) == "torch"
    assert resume_passes("triton", None) == "triton"


@pytest.mark.parametrize(("chosen", "saved"), [("triton", "numba"), ("numba", "triton"), ("torch", "triton")])
def test_on_another_kind_of_device_it_takes_what_fits(chosen: Passes, saved: Passes) -> None:
    assert resume_passes(chosen, passes_code(saved)) == chosen


@pytest.mark.usefixtures("without_numba")
def test_a_lost_numba_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert resume_passes("torch", passes_code("numba")) == "torch"
    assert len(caplog.messages) == 1
    assert "differ by rounding" in caplog.messages[0]
    assert "numba, which is not installed" in caplog.messages[0]


@pytest.mark.usefixtures("broken_numba")
def test_a_numba_that_cannot_be_imported_is_told_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_passes(passes.WORTH, 1, CPU, torch.float32) == "torch"
        assert resume_passes("torch", passes_code("numba")) == "torch"
    new, resumed = caplog.messages
    assert new.endswith(f"plain torch, at about half the speed: numba {FAULT}")
    assert f"numba, which {FAULT}" in resumed


@pytest.mark.parametrize("code", [-1, 3])
def test_an_unknown_code_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match="not known"):
        resume_passes("torch", torch.tensor(code))
