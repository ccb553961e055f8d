"""Which library multiplies float32 matrices on a CPU: the choice, its products, that a training keeps it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from swamp_dist import product_library
from swamp_dist.config import ObjectiveSettings, StageSettings
from swamp_dist.distributed import World, alone
from swamp_dist.objective.objective import build_objective
from swamp_dist.objective.products import full_precision
from swamp_dist.objective.terms import swamp
from swamp_dist.product_library import (
    WORTH,
    choose_library,
    exact_mode,
    onednn_is_exact,
    onednn_is_faster,
    products_by,
    resume_library,
    training_products,
)
from swamp_dist.records import BatchPlan, PairEmbeddings, ProductLibrary
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.run import run_stage
from swamp_dist.train.loop import Preempted
from tests.ranks import run_on_ranks
from tests.train.tiny import StopAfter, tiny_stage

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ZEN: Mapping[str, Any] = {"cpu_name": "AMD EPYC 9654", "avx2": True, "avx512_f": True, "avx512_bf16": True}
MODES = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
SIDES = st.integers(1, 200)
exact_here = pytest.mark.skipif(
    not onednn_is_exact(), reason="oneDNN may round operands on this CPU: its float32 products are not taken"
)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Says which CPU is at hand, and whether its products came out exact."""

    def say(known: Mapping[str, Any], is_exact: bool = True) -> None:
        onednn_is_exact.cache_clear()
        monkeypatch.setattr(product_library, "cpu_facts", lambda: known)
        monkeypatch.setattr(product_library, "_is_exact", lambda *shape: is_exact)
        for backend in (torch.backends.mkl, torch.backends.mkldnn):
            monkeypatch.setattr(backend, "is_available", lambda: True)

    yield say
    onednn_is_exact.cache_clear()


# -- the choice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (ZEN, "onednn"),
        (ZEN | {"avx512_f": False}, "blas"),
        (ZEN | {"cpu_name": "Intel(R) Xeon(R)"}, "blas"),
        *((ZEN | {unit: True}, "blas") for unit in ("amx_tile", "amx_bf16", "amx_fp16", "avx10_2")),
        ({"cpu_name": "Neoverse-V2"}, "blas"),
        ({}, "blas"),
    ],
    ids=str,
)
def test_only_an_amd_cpu_with_avx512_and_no_units_that_round_takes_onednn(
    on_cpu: Any, known: Mapping[str, Any], expected: ProductLibrary
) -> None:
    on_cpu(known)
    assert choose_library(256, WORTH // 256, CPU) == expected


def test_small_trainings_gpus_and_products_that_are_rounded_after_all_stay(on_cpu: Any) -> None:
    on_cpu(ZEN)
    assert choose_library(256, WORTH // 256 - 1, CPU) == "blas"
    assert choose_library(256, WORTH, GPU) == "blas"
    on_cpu(ZEN, is_exact=False)
    assert choose_library(256, WORTH, CPU) == "blas"


def test_a_torch_that_tells_nothing_of_its_cpu_keeps_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    product_library.cpu_facts.cache_clear()
    onednn_is_exact.cache_clear()
    try:
        assert product_library.cpu_facts() == {}
        assert not onednn_is_exact()
        assert not onednn_is_faster()
    finally:
        product_library.cpu_facts.cache_clear()
        onednn_is_exact.cache_clear()


@pytest.mark.parametrize("saved", ["blas", "onednn"])
@pytest.mark.parametrize("chosen", ["blas", "onednn"])
def test_a_training_goes_on_with_what_it_began_with(
    on_cpu: Any, chosen: ProductLibrary, saved: ProductLibrary
) -> None:
    on_cpu(ZEN)
    assert resume_library(chosen, saved, CPU) == saved
    assert resume_library("blas", saved, GPU) == "blas"


def test_where_onednn_rounds_it_goes_on_by_blas_and_says_so(
    on_cpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    on_cpu(ZEN | {"amx_bf16": True})
    with caplog.at_level(logging.WARNING):
        assert resume_library("blas", "onednn", CPU) == "blas"
    assert "began with float32 products by oneDNN" in caplog.text


# -- what it does -------------------------------------------------------------------------------------


def test_a_mode_is_set_inside_and_restored_after_an_error() -> None:
    before = MODES.fp32_precision

    def fail() -> None:
        with products_by("onednn"):
            assert MODES.fp32_precision == "bf16"
            with products_by("blas"):
                assert MODES.fp32_precision == "ieee"
            assert MODES.fp32_precision == "bf16"
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert MODES.fp32_precision == before
    with training_products("blas"):
        assert MODES.fp32_precision == before


@pytest.mark.parametrize("is_exact", [True, False])
def test_full_precision_keeps_onednn_only_where_it_is_exact(on_cpu: Any, is_exact: bool) -> None:
    on_cpu(ZEN, is_exact)
    with full_precision("cpu"):
        assert MODES.fp32_precision == "ieee"
    with products_by("onednn"):
        assert exact_mode() == ("bf16" if is_exact else "ieee")
        with full_precision("cpu"):
            assert MODES.fp32_precision == ("bf16" if is_exact else "ieee")
        assert MODES.fp32_precision == "bf16"


def test_the_solve_stays_with_blas_in_a_step_by_onednn(on_cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It multiplies matrices by vectors, which takes oneDNN several times as long."""
    on_cpu(ZEN)
    modes: list[str] = []
    solve = swamp.solve
    monkeypatch.setattr(
        swamp, "solve", lambda *x, **y: [modes.append(MODES.fp32_precision), solve(*x, **y)][1]
    )
    terms = {"weight": 1.0, "prototypes": 3, "queue": {"size": 8, "start_when_filled": 0}}
    plan = BatchPlan(4, 1, 4, 1)
    objective = build_objective(ObjectiveSettings.model_validate({"swamp": terms}), plan, 5, CPU)
    rows = torch.nn.functional.normalize(torch.randn(11, 5), dim=1)
    ids = torch.arange(4)
    with products_by("onednn"):
        objective(PairEmbeddings(rows[:4], rows[4:8], rows[8:]), ids, ids, 0, alone())
        assert MODES.fp32_precision == "bf16"
    assert modes == ["ieee"]


def test_products_of_rounded_operands_are_told_apart() -> None:
    """The products that are looked at need every bit of float32."""
    product = torch.Tensor.__matmul__

    def rounded(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            return product(x, y)
        return product(x.bfloat16().float(), y.bfloat16().float())

    assert all(product_library._is_exact(*shape) for shape in product_library._SHAPES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "__matmul__", rounded)
        assert not any(product_library._is_exact(*shape) for shape in product_library._SHAPES)


@exact_here
@settings(max_examples=60, deadline=None)
@given(SIDES, st.integers(1, 300), SIDES, st.sampled_from(["", "x", "y"]), st.integers(0, 99))
def test_onednn_is_within_the_bound_of_float32_sums(n: int, k: int, m: int, turned: str, seed: int) -> None:
    """|error| <= k u sum |x y| with u = 2^-24, for operands of any layout. Operands of bfloat16 are off by up
    to 2^-7 of the sum."""
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, k, generator=draw), torch.randn(k, m, generator=draw)
    x = x.t().contiguous().t() if turned == "x" else x
    y = y.t().contiguous().t() if turned == "y" else y
    with products_by("onednn"):
        found = x @ y
        added = torch.addmm(torch.ones(m), x, y)
    exact, bound = x.double() @ y.double(), x.double().abs() @ y.double().abs()
    assert ((found.double() - exact).abs() <= k * 2.0**-24 * bound).all()
    assert ((added.double() - 1 - exact).abs() <= (k + 1) * 2.0**-24 * (bound + 1)).all()


# -- a training ---------------------------------------------------------------------------------------


def _train(world: World, stage: StageSettings, folder: Path, worth: int, stop: int, later: int) -> None:
    """A stage with a stop, whose worth of oneDNN is `worth` before and `later` after it."""
    product_library.WORTH = worth
    if stop:
        with pytest.raises(Preempted):
            run_stage(stage, RunDir(folder), world, StopAfter(stop))
    product_library.WORTH = later
    run_stage(stage, RunDir(folder), world)


def _facts(folder: Path) -> tuple[str, list[float], dict[str, torch.Tensor]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss/total"] for row in rows if "loss/total" in row]
    library = json.loads((folder / "result.json").read_text())["provenance"]["product_library"]
    return library, losses, load_file(folder / "weights.safetensors")


WIDE = {"model__a": {"kind": "mlp", "hidden": [64]}, "model__b": {"kind": "mlp", "hidden": [64]}}
NEVER = 2**62


@exact_here
@pytest.mark.skipif(not onednn_is_faster(), reason="this CPU is none for which oneDNN is taken")
def test_a_stopped_training_keeps_its_library_and_its_bits(tiny_shards: Path, tmp_path: Path) -> None:
    stage = tiny_stage(tiny_shards, **WIDE)
    for name, worth, stop, later in (
        ("onednn", 0, 0, 0),
        ("onednn stopped", 0, 11, NEVER),
        ("blas", NEVER, 0, NEVER),
        ("blas stopped", NEVER, 11, 0),
    ):
        run_on_ranks(_train, 1, stage, tmp_path / name, worth, stop, later)
    for library in ("onednn", "blas"):
        whole, stopped = _facts(tmp_path / library), _facts(tmp_path / f"{library} stopped")
        assert whole[0] == stopped[0] == library
        assert whole[1] == stopped[1]
        assert all(torch.equal(whole[2][name], stopped[2][name]) for name in whole[2])
    one, other = _facts(tmp_path / "onednn"), _facts(tmp_path / "blas")
    assert one[1] != other[1]  # two programs ran
    torch.testing.assert_close(torch.tensor(one[1]), torch.tensor(other[1]), rtol=1e-4, atol=1e-5)


@exact_here
@pytest.mark.skipif(not onednn_is_faster(), reason="this CPU is none for which oneDNN is taken")
def test_world_sizes_agree(tiny_shards: Path, tmp_path: Path) -> None:
    stage = tiny_stage(tiny_shards, **WIDE, model__a__dropout=0.0)
    for size in (1, 2):
        run_on_ranks(_train, size, stage, tmp_path / str(size), 0, 0, 0)
    (library, one, _), (_, two, _) = (_facts(tmp_path / str(size)) for size in (1, 2))
    assert library == "onednn"
    torch.testing.assert_close(torch.tensor(one), torch.tensor(two), rtol=0, atol=1e-5)
