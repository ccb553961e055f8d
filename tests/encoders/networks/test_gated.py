"""Gated units: parts of unit length, made once where no gradient is asked for."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from swamp_dist.encoders.networks.gated import GatedUnit, unit_parts

WIDTHS = [40, 60]


def _rows(dtype: torch.dtype) -> torch.Tensor:
    rows = torch.randn(7, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows[3], rows[4, :40], rows[5] = 0, 0, 1e-20
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_parts_are_brought_to_unit_length_bit_by_bit_as_by_torch(dtype: torch.dtype) -> None:
    rows = _rows(dtype)
    expected = [functional.normalize(part, dim=1, eps=1e-12) for part in torch.split(rows, WIDTHS, dim=1)]
    before = rows.clone()
    assert torch.equal(unit_parts(rows, WIDTHS), torch.cat(expected, dim=1))
    assert torch.equal(unit_parts(rows.requires_grad_(), WIDTHS), torch.cat(expected, dim=1))
    assert torch.equal(rows, before)


def test_rows_with_a_gradient_get_that_of_the_formula() -> None:
    rows = _rows(torch.float64).requires_grad_()
    unit = GatedUnit(100, 4, WIDTHS).double()
    torch.autograd.gradcheck(unit, rows[:3].detach().requires_grad_())
    unit(rows).sum().backward()
    assert rows.grad is not None
    assert rows.grad[:3].abs().min() > 0


def test_features_get_no_gradient_and_weights_get_theirs() -> None:
    unit = GatedUnit(100, 4, WIDTHS)
    unit(_rows(torch.float32)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in unit.parameters())
