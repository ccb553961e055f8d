"""Matrix products of the objective, and what `objective.precision` rounds their operands to.

`ieee` multiplies float32 as it is. `tf32` rounds both operands to 11 significant bits and `bf16` to 8;
products are added up in float32. The 8 bits of the exponent stay, so nothing leaves the range of float32.

On a GPU `tf32` is a mode of the product, and a GPU without such an instruction multiplies as with `ieee`;
`bf16` is a product of bfloat16 operands, summed and written in float32. A CPU has neither: it rounds
operands to the nearest, of two the even, and multiplies them in float32. That takes longer than `ieee`, and
shows on any machine what the setting does to a training. Products of gradients follow the same rule: what
flows back is an operand like any other.

With u the largest relative error of an operand, the product of rounded rows x and y is off by at most

    (2u + u^2) sum_k |x_k y_k|,

since x_k (1 + d) y_k (1 + e) - x_k y_k = x_k y_k (d + e + de), besides the rounding of float32 sums. For unit
rows the sum is at most 1 (Cauchy-Schwarz), so a cosine moves by at most t = 2u + u^2: 0.00098 with `tf32`,
0.0078 with `bf16`. Errors of D entries mostly cancel: `swamp_dist/README.md` says what is typical.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from swamp_dist.product_library import exact_mode

Precision = Literal["ieee", "tf32", "bf16"]
"""As `config.ObjectiveSettings.precision`."""
UNIT_ROUNDOFF: Mapping[Precision, float] = {"ieee": 0.0, "tf32": 2.0**-11, "bf16": 2.0**-8}
"""u: largest relative error of an operand that is rounded to the nearest. A GPU's `tf32` may cut bits off
instead, for which u is 2^-10."""
_CUT = 13
"""Bits of a float32 that tf32 has not."""


@contextlib.contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """No autocast and no TF32 inside: the exponents of the solve magnify rounding by 1 / epsilon.

    On a CPU the library that the training has asked for stays (`product_library`).
    """
    gpu: Any = torch.backends.cuda.matmul
    cpu: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, wanted = (gpu.fp32_precision, cpu.fp32_precision), ("ieee", exact_mode())
    # Entering these takes as long as a product of a small step, so it is left out where nothing changes.
    is_autocast = torch.is_autocast_enabled(device_type)
    if before != wanted:
        gpu.fp32_precision, cpu.fp32_precision = wanted
    try:
        with torch.autocast(device_type, enabled=False) if is_autocast else contextlib.nullcontext():
            yield
    finally:
        if before != wanted:
            gpu.fp32_precision, cpu.fp32_precision = before


def cosine_bound(precision: Precision) -> float:
    """t = 2u + u^2: how far the cosine of two unit rows may move, operands rounded to the nearest."""
    u = UNIT_ROUNDOFF[precision]
    return 2 * u + u * u


def rounded(x: Tensor, precision: Precision) -> Tensor:
    """`x` with operands' bits, in its own dtype: float32 or wider, any shape; NaN and infinity stay."""
    if precision == "ieee":
        return x
    if precision == "bf16":
        return x.bfloat16().to(x.dtype)
    bits = x.float().view(torch.int32)
    # Half of the last kept bit, less one where that is even, carries to the nearest, of two the even.
    kept = (bits >> _CUT).bitwise_and_(1).add_((1 << _CUT - 1) - 1).add_(bits).bitwise_and_(-(1 << _CUT))
    nearest = kept.view(torch.float32)
    return torch.where(x.isnan(), bits.view(torch.float32), nearest, out=nearest).to(x.dtype)


def multiply(x: Tensor, y: Tensor, precision: Precision, out: Tensor | None = None) -> Tensor:
    """x y of (n, k) and (k, m), in `out` (n, m) if given. float32 or, on a CPU's way alone, float64."""
    if precision == "ieee":
        return torch.mm(x, y, out=out)
    if not x.is_cuda or x.dtype != torch.float32:
        return torch.mm(rounded(x, precision), rounded(y, precision), out=out)
    if precision == "bf16":
        return torch.mm(x.bfloat16(), y.bfloat16(), out_dtype=torch.float32, out=out)
    with _tf32():
        return torch.mm(x, y, out=out)


def add_product(total: Tensor, x: Tensor, y: Tensor, precision: Precision) -> None:
    """Add x y of (n, k) and (k, m) to `total` (n, m)."""
    if precision == "ieee":
        torch.addmm(total, x, y, out=total)
    else:
        total.add_(multiply(x, y, precision))


def own_scores(rows: Tensor, prototypes: Tensor, precision: Precision) -> Tensor:
    """Scores (b, K) of rows (b, D) with prototypes (K, D), with gradient.

    The scores are `ieee` ones whatever the precision: targets take their exponents from them, and making them
    twice would cost more than a faster product saves. The two products of their gradient have the precision,
    whatever the program asks of torch's own products when the gradient is taken.
    """
    scores: Tensor = _OwnScores.apply(rows, prototypes, precision)  # type: ignore[no-untyped-call]
    return scores


class _OwnScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        rows, prototypes, ctx.precision = given
        ctx.save_for_backward(rows, prototypes)
        scores: Tensor = rows @ prototypes.t()
        return scores

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, prototypes = ctx.saved_tensors
        (on_scores,) = upstream
        with full_precision(rows.device.type):
            of_rows, of_prototypes, _ = ctx.needs_input_grad
            on_rows = multiply(on_scores, prototypes, ctx.precision) if of_rows else None
            on_prototypes = multiply(on_scores.t(), rows, ctx.precision) if of_prototypes else None
            return on_rows, on_prototypes, None


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before
