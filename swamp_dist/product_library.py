"""Which library multiplies the float32 matrices of a training on a CPU. Each rounds sums in its own way, so a
training keeps to one, and its commits say which.

    blas      what torch takes by itself; MKL in its builds for x86
    onednn    AMD CPUs with AVX-512, which MKL does not use there: oneDNN, a part of torch, is twice as fast

torch gives float32 products to oneDNN only where operands may be rounded to bfloat16 ("bf16" of
`torch.backends.mkldnn.matmul.fp32_precision`). oneDNN does so on a CPU with units for matrices (AMX). On one
without, it multiplies float32 as it is. So the kind of CPU is looked at, and then products of numbers that
bfloat16 does not hold.

A matrix times a vector takes oneDNN longer, and so does a product of a few thousand operations: `blas` stays
for small trainings and for the solve.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch

from swamp_dist.records import ProductLibrary

logger = logging.getLogger(__name__)
WORTH = 2**32
"""Pairs of a global batch times parameters of the model from which on `onednn` is taken: the 6 * 2^32
operations of such a step take MKL a quarter of a second of one core. Smaller trainings keep the rounding that
they have had, and tiny ones would lose: a product costs some ten microseconds more."""
_ROUNDS = ("amx_tile", "amx_bf16", "amx_fp16", "avx10_2")
"""Instructions with which oneDNN may round operands."""
_SHAPES = ((1, 64, 130), (130, 1, 64), (64, 130, 1), (3, 17, 130), (130, 3, 17), (300, 512, 200))
"""Rows, terms and columns of the products that are looked at: below, at and above the widths of vectors."""


def choose_library(pairs: int, parameters: int, device: torch.device) -> ProductLibrary:
    """What a new training takes on this machine.

    Args:
        pairs: of a global batch, so that the number of ranks does not matter.
        parameters: of the model, those that are not trained too.
        device: of this rank.
    """
    if device.type != "cpu" or pairs * parameters < WORTH:
        return "blas"
    if not (onednn_is_faster() and onednn_is_exact()):
        return "blas"
    logger.info("float32 products by oneDNN, which takes half of the time of MKL on this CPU")
    return "onednn"


def resume_library(chosen: ProductLibrary, saved: ProductLibrary, device: torch.device) -> ProductLibrary:
    """What a training goes on with.

    Args:
        chosen: what it would take as a new one.
        saved: what its commit names.
        device: of this rank.
    """
    if device.type == "cpu" and saved == "onednn" and not onednn_is_exact():
        logger.warning(
            "the training began with float32 products by oneDNN, which may round operands on this CPU: it "
            "goes on with those of torch's BLAS, so losses may differ by rounding"
        )
        return "blas"
    return saved if device.type == "cpu" else chosen


@contextlib.contextmanager
def products_by(library: ProductLibrary) -> Iterator[None]:
    """Float32 products on a CPU are made by `library` inside, in all threads of the process. `onednn` needs
    `onednn_is_exact`."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16" if library == "onednn" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def training_products(library: ProductLibrary) -> contextlib.AbstractContextManager[None]:
    """Where a step makes its products: `blas` leaves what torch was told."""
    return contextlib.nullcontext() if library == "blas" else products_by(library)


def exact_mode() -> str:
    """The mode of `torch.backends.mkldnn.matmul` that multiplies float32 as it is: the present one where that
    asks for oneDNN, which does so."""
    mode = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    return "bf16" if mode == "bf16" and onednn_is_exact() else "ieee"


def onednn_is_faster() -> bool:
    """Whether MKL, which torch has, leaves half of this CPU unused."""
    known = cpu_facts()
    is_amd = str(known.get("cpu_name", "")).startswith("AMD")
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and is_amd and bool(known.get("avx512_f"))


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN, when it is allowed to round operands, multiplies float32 as it is on this CPU. Of a CPU
    that torch does not know nobody can tell."""
    known = cpu_facts()
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not known or any(known.get(name) for name in _ROUNDS):
        return False
    with products_by("onednn"), torch.no_grad():
        return all(_is_exact(*shape) for shape in _SHAPES)


def _is_exact(n: int, k: int, m: int) -> bool:
    """Whether (n, k) times (k, m) is right to the last bit in all layouts: the operands are whole numbers of
    12 bits, of which bfloat16 holds 8 and tf32 11, and no sum of their products needs more than 24."""
    generator = torch.Generator().manual_seed(n * 10_000 + k * 100 + m)
    x = 2049 + torch.randint(0, 1000, (n, k), generator=generator) * 2
    y = torch.zeros(k, m, dtype=torch.int64)
    y[torch.randint(0, k, (m,), generator=generator), torch.arange(m)] = 2051
    exact = (x @ y).float()
    a, b = x.float(), y.float()
    layouts = [(a, b), (a, b.t().contiguous().t()), (a.t().contiguous().t(), b)]
    return all(torch.equal(left @ right, exact) for left, right in layouts)


@cache
def cpu_facts() -> Mapping[str, Any]:
    """What torch knows of this CPU; {} where it does not tell."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    known: Mapping[str, Any] = {} if tell is None else tell()
    return known
