"""Every form against literal double loops: values, gradients and figures, on any number of ranks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swamp_dist.distributed import World, alone
from tests.objective.contrastive import batches
from tests.objective.contrastive.batches import Found, batch, compared, expected
from tests.ranks import run_on_ranks

HARDEST = {"form": "hardest", "margin": 0.2}


@dataclass(frozen=True)
class Case:
    settings: dict[str, Any] = field(default_factory=dict)
    each: int = 1
    """Pairs per entry."""
    kind: str = "random"
    chunks: tuple[int | None, ...] = (None, 1, 5, 100)


CASES: dict[str, Case] = {
    "all": Case({"margin": 0.2}),
    "all, sum": Case({"reduction": "sum"}, chunks=(None,)),
    "all, no margin": Case({"margin": 0.0}, chunks=(None, 5)),
    "all, entry weights": Case({"in_entry_share": 0.3}, each=2),
    "all, equal weights": Case({"in_entry_share": None}, each=2, chunks=(None,)),
    "all, ties": Case({"margin": 0.3}, kind="tied"),
    "hardest": Case(HARDEST),
    "hardest, sum": Case(HARDEST | {"reduction": "sum"}, chunks=(None,)),
    "hardest, ties": Case(HARDEST, kind="tied"),
    "start of hardest": Case(
        HARDEST | {"all_negatives_steps": 9, "reduction": "sum"}, each=2, chunks=(None, 5)
    ),
}
CASES |= {
    "infonce": Case({"form": "infonce"}),
    "infonce, sum": Case({"form": "infonce", "reduction": "sum"}, chunks=(None,)),
    "sigmoid": Case({"form": "sigmoid"}),
    "sigmoid, sum": Case({"form": "sigmoid", "reduction": "sum"}, chunks=(None,)),
    "infonce, ties": Case({"form": "infonce"}, kind="tied", chunks=(5,)),
}


def _several(**asked: Any) -> Case:
    return Case({"in_entry_share": None, "margin": 0.25} | asked, 2, "siblings", (None, 5))


CASES |= {
    f"{form}, {positives}": _several(form=form, positives=positives)
    for form in ("all", "hardest", "infonce", "sigmoid")
    for positives in ("partner", "entry", "class")
}
CASES |= {
    f"mil_nce, {positives}": _several(form="infonce", positives=positives, multiple_positives="mil_nce")
    for positives in ("entry", "class")
}
CASES |= {
    "within modality": Case(
        {"form": "infonce", "targets": {"kind": "within_modality", "weight": 0.3, "temperature": 0.4}}
    ),
    "within modality, sum": Case(
        {
            "form": "infonce",
            "reduction": "sum",
            "targets": {"kind": "within_modality", "weight": 1.0, "temperature": 0.2},
        },
        kind="siblings",
        chunks=(None, 5),
    ),
    "balanced plan": Case(
        {
            "form": "infonce",
            "targets": {"kind": "balanced_plan", "weight": 0.5, "epsilon": 0.05, "iterations": 5},
        }
    ),
    "balanced plan, small epsilon": Case(
        {
            "form": "infonce",
            "targets": {"kind": "balanced_plan", "weight": 0.7, "epsilon": 0.008, "iterations": 7},
        },
        kind="siblings",
        chunks=(None, 5),
    ),
    "balanced plan, one iteration": Case(
        {
            "form": "infonce",
            "reduction": "sum",
            "targets": {"kind": "balanced_plan", "weight": 1.0, "epsilon": 2.0, "iterations": 1},
        },
        kind="siblings",
        chunks=(None, 1),
    ),
    "pseudo-positives": Case(
        {"form": "infonce", "targets": {"kind": "pseudo_positives", "weight": 0.1}}, kind="siblings"
    ),
    "pseudo-positives, ties": Case(
        {"form": "infonce", "targets": {"kind": "pseudo_positives", "weight": 0.4}}, kind="tied"
    ),
}
COUNT = 12
ON_LARGE_RINGS = ("all, entry weights", "hardest", "mil_nce, class", "sigmoid, entry")
"""Cases that threads as ranks, which share one lock, send around many times."""
ON_EVERY_RUN = ("hardest", "infonce, entry", "sigmoid")
"""Cases that 64 ranks take by default; the others are slow."""
FORMS = ("all", "hardest", "infonce", "sigmoid")
SPOILED = [
    {"form": form, "positives": positives, "in_entry_share": None}
    for form in FORMS
    for positives in ("partner", "class")
]


def _all(
    world: World, count: int, names: Collection[str] = CASES.keys()
) -> dict[tuple[str, int | None, str], Found]:
    """Every case of these names in tiles of several sizes, and with its columns on a ring."""
    where = "gathered", *(("ring",) if world.size > 1 else ())
    rings = {"ring": [name for name, case in CASES.items() if "targets" not in case.settings]}
    return {
        (name, chunk, columns): compared(
            world,
            case.settings | {"chunk": chunk, "columns": columns},
            batch(count, kind=case.kind),
            case.each,
        )
        for name, case in CASES.items()
        if name in names
        for columns in where
        for chunk in (case.chunks if world.size < 5 else (None,))
        if columns == "gathered" or (name in rings[columns] and (world.size < 5 or name in ON_LARGE_RINGS))
    }


def _oracle(count: int, names: Collection[str] = CASES.keys()) -> dict[str, Found]:
    return {
        name: expected(case.settings, batch(count, kind=case.kind), case.each)
        for name, case in CASES.items()
        if name in names
    }


def _assert_equal(results: list[dict[tuple[str, int | None, str], Found]], right: dict[str, Found]) -> None:
    for result in results:
        for (name, chunk, columns), found in result.items():
            torch.testing.assert_close(
                found, right[name], rtol=0, atol=1e-10, msg=lambda m, at=(name, chunk, columns): f"{at}: {m}"
            )


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_form_is_its_double_loop_on_few_ranks(size: int) -> None:
    results = [_all(alone(), COUNT)] if size == 1 else run_on_ranks(_all, size, COUNT)
    right = _oracle(COUNT)
    _assert_equal(results, right)
    assert all(float(found["on_a"].abs().max()) > 1e-3 for found in right.values())


@pytest.mark.timeout(400)
@pytest.mark.parametrize("names", [ON_EVERY_RUN, pytest.param(tuple(CASES), marks=pytest.mark.slow)], ids=len)
def test_every_form_is_its_double_loop_on_64_ranks(names: tuple[str, ...]) -> None:
    """Each rank holds one pair, so that every tile is one row."""
    _assert_equal(run_on_ranks(_all, 64, 64, names, timeout=300, how="threads"), _oracle(64, names))


def test_no_two_forms_are_the_same() -> None:
    losses = [round(float(found["loss"]), 9) for found in _oracle(COUNT).values()]
    assert len(set(losses)) == len(losses)


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(2, 9),
    dim=st.integers(1, 4),
    margin=st.floats(0, 2.5),
    chunk=st.none() | st.integers(1, 10),
    kind=st.sampled_from(["random", "tied"]),
)
def test_shapes_and_margins(count: int, dim: int, margin: float, chunk: int | None, kind: str) -> None:
    # A hinge that is exactly 0 has two derivatives: the margin keeps away from differences of tied rows.
    margin = margin + 0.1234567 if kind == "tied" else margin
    for form in FORMS:
        asked = {"form": form, "margin": margin}
        found = compared(alone(), asked | {"chunk": chunk}, batch(count, dim, kind))
        torch.testing.assert_close(found, expected(asked, batch(count, dim, kind)), rtol=0, atol=1e-10)


def _spoiled(world: World) -> list[Found]:
    a, b = batch(8)
    b[5] = torch.nan
    return [compared(world, asked | {"chunk": chunk}, (a, b)) for asked in SPOILED for chunk in (None, 3)]


@pytest.mark.parametrize("size", [1, 2])
def test_a_nan_reaches_the_loss(size: int) -> None:
    results = [_spoiled(alone())] if size == 1 else run_on_ranks(_spoiled, size)
    assert all(bool(found["loss"].isnan()) for result in results for found in result)


def test_a_batch_of_one_class_has_nothing_to_tell_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "labels_of", lambda count: torch.full((count,), 3))
    for form in FORMS:
        asked = {"form": form, "positives": "class"}
        found = compared(alone(), asked, batch(6))
        assert float(found["loss"]) == 0
        assert not any(bool(value.any()) for name, value in found.items() if name.startswith("on_"))
        right = expected(asked, batch(6))
        torch.testing.assert_close({name: found[name] for name in right}, right, rtol=0, atol=1e-12)


class _LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


BLOCKS = ["all", "all, entry weights", "hardest", "infonce", "sigmoid", "all, class"]


@pytest.mark.parametrize("name", [*BLOCKS, "within modality", "balanced plan", "pseudo-positives"])
def test_in_blocks_no_tensor_grows_with_rows_times_columns(name: str) -> None:
    pairs, dim, case = 240, 4, CASES[name]

    def largest(chunk: int | None) -> int:
        with _LargestTensor() as seen:
            compared(alone(), case.settings | {"chunk": chunk}, batch(pairs, dim), case.each)
        return seen.elements

    sides = 2 if "targets" in case.settings else 1  # targets are those of both directions
    assert largest(None) == sides * pairs * pairs
    assert largest(8) == sides * pairs * 8
