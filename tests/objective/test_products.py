"""Products of rounded operands against float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from swamp_dist.objective import products
from swamp_dist.objective.products import (
    UNIT_ROUNDOFF,
    Precision,
    add_product,
    cosine_bound,
    full_precision,
    multiply,
    own_scores,
    rounded,
)

ROUNDED: tuple[Precision, ...] = ("tf32", "bf16")
BITS = {"tf32": 11, "bf16": 8}
FLOATS = st.floats(width=32, allow_subnormal=False, allow_nan=False, allow_infinity=False).filter(
    lambda x: x == 0 or 1e-30 < abs(x) < 1e38
)
DIM = 64


# -- operands --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ROUNDED)
@given(numbers=st.lists(FLOATS, min_size=1, max_size=20))
@settings(max_examples=40)
def test_operands_are_rounded_to_the_nearest_and_of_two_to_the_even(
    precision: Precision, numbers: list[float]
) -> None:
    fractions, exponents = np.frexp(np.array(numbers))
    expected = np.ldexp(np.round(np.ldexp(fractions, BITS[precision])), exponents - BITS[precision])
    found = rounded(torch.tensor(numbers), precision)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.double().numpy(), expected)


def test_ties_go_to_the_even_neighbour() -> None:
    ulp = 2.0**-10
    halves = torch.tensor([1 + 0.5 * ulp, 1 + 1.5 * ulp, -1 - 2.5 * ulp])
    assert rounded(halves, "tf32").tolist() == [1.0, 1 + 2 * ulp, -1 - 2 * ulp]


@pytest.mark.parametrize("precision", ROUNDED)
def test_infinity_and_every_nan_stay(precision: Precision) -> None:
    patterns = torch.tensor(
        [0x7FFFFFFF, 0x7F800001, 0x7FC00000, 0x7F800000, -0x800000, -1], dtype=torch.int32
    )
    found = rounded(patterns.view(torch.float32), precision)
    assert found.isnan().tolist() == [True, True, True, False, False, True]
    assert found[3:5].tolist() == [math.inf, -math.inf]


def test_rounding_leaves_its_operand_and_takes_any_strides() -> None:
    x = torch.randn(5, 7)
    before = x.clone()
    assert torch.equal(rounded(x.t(), "tf32"), rounded(x, "tf32").t())
    assert torch.equal(rounded(x.double(), "tf32"), rounded(x, "tf32").double())
    assert torch.equal(x, before)
    assert rounded(x, "ieee") is x


# -- products --------------------------------------------------------------------------------------


def _operands(seed: int, dim: int, kind: str) -> tuple[Tensor, Tensor]:
    """Rows (9, D) and columns (D, 8): of any sizes, unit ones, or such as are rounded farthest."""
    random = torch.Generator().manual_seed(seed)
    x, y = torch.randn(9, dim, generator=random), torch.randn(dim, 8, generator=random)
    if kind == "unit":
        return functional.normalize(x, dim=1), functional.normalize(y, dim=0)
    if kind == "worst":
        near = 1 + 2.0 ** torch.tensor([-8.0, -11.0])  # the middle of two neighbours, of bf16 or of tf32
        of_x, of_y = (torch.randint(0, 2, side.shape, generator=random) for side in (x, y))
        return x.sign() * near[of_x], y.sign() * near[of_y]
    return x * torch.exp(4 * torch.randn(9, dim, generator=random)), y


def _bound(x: Tensor, y: Tensor, u: float) -> Tensor:
    """(2u + u^2) sum |x| |y|, and float32's sum of D terms."""
    return (2 * u + u * u + x.shape[1] * 2.0**-23) * (x.double().abs() @ y.double().abs())


@pytest.mark.parametrize("precision", ROUNDED)
@given(seed=st.integers(0, 2**31), dim=st.integers(1, 300), kind=st.sampled_from(["unit", "worst", "wide"]))
@settings(max_examples=60)
def test_a_product_stays_inside_its_bound(precision: Precision, seed: int, dim: int, kind: str) -> None:
    x, y = _operands(seed, dim, kind)
    exact = x.double() @ y.double()
    bound = _bound(x, y, UNIT_ROUNDOFF[precision])
    assert ((multiply(x, y, precision).double() - exact).abs() <= bound).all()
    total = torch.ones(9, 8)
    add_product(total, x, y, precision)
    assert ((total.double() - 1 - exact).abs() <= bound + 2.0**-22 * (1 + exact.abs())).all()


@pytest.mark.parametrize("precision", ROUNDED)
def test_no_smaller_bound_holds(precision: Precision) -> None:
    """Both operands just above the middle of 1 and its neighbour lose all that they can."""
    u = UNIT_ROUNDOFF[precision]
    x = torch.full((1, 4), 1 + u)  # a tie, which goes down to 1
    off = 4 * (1 + u) ** 2 - float(multiply(x, x.t(), precision))
    assert off >= 0.98 * cosine_bound(precision) * 4


def test_ieee_is_the_product_of_torch_bit_by_bit() -> None:
    x, y = torch.randn(33, 70), torch.randn(70, 21)
    assert torch.equal(multiply(x, y, "ieee"), x @ y)
    total = torch.randn(33, 21)
    expected = torch.addmm(total, x, y)
    add_product(total, x, y, "ieee")
    assert torch.equal(total, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: products of a GPU are not run")
@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("kind", ["unit", "worst", "wide"])
def test_a_gpu_stays_inside_the_bounds(precision: Precision, kind: str) -> None:
    """A GPU may cut tf32's operands off, so that u is 2^-10, and leaves the mode of products as it was."""
    matmul = torch.backends.cuda.matmul
    x, y = (side.cuda() for side in _operands(7, 300, kind))
    u = 2 * UNIT_ROUNDOFF[precision] if precision == "tf32" else UNIT_ROUNDOFF[precision]
    before = matmul.fp32_precision
    with full_precision("cuda"):
        found = multiply(x, y, precision)
        assert matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == before
    assert ((found.double() - x.double() @ y.double()).abs() <= _bound(x, y, u)).all()


def test_full_precision_turns_autocast_and_tf32_off_and_restores_them() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    x = torch.randn(3, 3)
    try:
        matmul.fp32_precision = "tf32"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (x @ x).dtype == torch.bfloat16
            with full_precision("cpu"):
                assert matmul.fp32_precision == "ieee"
                assert (x @ x).dtype == torch.float32
            assert (x @ x).dtype == torch.bfloat16
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


# -- own scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ROUNDED)
def test_own_scores_are_exact_and_their_gradient_stays_inside_its_bound(precision: Precision) -> None:
    rows, prototypes = torch.randn(20, DIM, requires_grad=True), torch.randn(6, DIM, requires_grad=True)
    scores, upstream = own_scores(rows, prototypes, precision), torch.randn(20, 6)
    assert torch.equal(scores, rows @ prototypes.t())
    found = torch.autograd.grad(scores, (rows, prototypes), upstream)
    operands = ((upstream, prototypes.detach()), (upstream.t(), rows.detach()))
    for gradient, (x, y) in zip(found, operands, strict=True):
        off = (gradient.double() - x.double() @ y.double()).abs()
        assert (off <= _bound(x, y, UNIT_ROUNDOFF[precision])).all()
        assert float(off.max()) > 1e-5


def test_ieee_own_scores_have_the_bits_of_torch_and_both_gradients() -> None:
    rows, prototypes = torch.randn(20, DIM, requires_grad=True), torch.randn(6, DIM, requires_grad=True)
    upstream = torch.randn(20, 6)
    expected, found = rows @ prototypes.t(), own_scores(rows, prototypes, "ieee")
    assert torch.equal(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, (rows, prototypes), upstream),
        torch.autograd.grad(expected, (rows, prototypes), upstream),
        strict=True,
    ):
        assert torch.equal(one, other)
    own_scores(rows, prototypes.detach(), "ieee").backward(upstream)
    assert rows.grad is not None


def test_a_program_that_allows_tf32_leaves_the_gradient_of_ieee_scores_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CPU may have no product of fewer bits, so the mode in which the products run is looked at."""
    modes = []

    def seen(x: Tensor, y: Tensor, precision: Precision) -> Tensor:
        modes.append((torch.backends.cuda.matmul.fp32_precision, precision))
        return multiply(x, y, precision)

    monkeypatch.setattr(products, "multiply", seen)
    rows, prototypes = torch.randn(20, DIM, requires_grad=True), torch.randn(6, DIM, requires_grad=True)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with full_precision("cpu"):
            scores = own_scores(rows, prototypes, "ieee")
        scores.sum().backward()
    finally:
        torch.set_float32_matmul_precision(before)
    assert modes == [("ieee", "ieee")] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: products of a GPU are not run")
def test_a_gpu_that_may_take_tf32_has_an_exact_gradient_of_ieee_scores() -> None:
    rows = torch.randn(300, DIM, device="cuda", requires_grad=True)
    prototypes = torch.randn(200, DIM, device="cuda", requires_grad=True)
    upstream = torch.randn(300, 200, device="cuda")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with full_precision("cuda"):
            scores = own_scores(rows, prototypes, "ieee")
        found = torch.autograd.grad(scores, (rows, prototypes), upstream)
    finally:
        torch.set_float32_matmul_precision(before)
    operands = ((upstream, prototypes.detach()), (upstream.t(), rows.detach()))
    for gradient, (x, y) in zip(found, operands, strict=True):
        assert ((gradient.double() - x.double() @ y.double()).abs() <= _bound(x, y, 0.0)).all()
