"""The objective gives hundreds of ranks the loss and the gradients of one process with the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, PairEmbeddings
from tests.ranks import run_on_ranks

BATCH, DIM, PROTOTYPES, STEPS = 512, 8, 24, 2
OFF = {"weight": 0}
HARDEST = {"form": "hardest", "margin": 0.2}
FORMS: dict[str, dict[str, Any]] = {
    "all": {},
    "all in blocks": {"chunk": 100},
    "entry weights": {"in_entry_share": 0.4},
    "hardest": HARDEST,
    "hardest, sum": HARDEST | {"reduction": "sum"},
    "hardest in blocks after all": HARDEST | {"all_negatives_steps": 1, "chunk": 100},
}
"""Contrastive settings."""
PLACES: dict[str, dict[str, Any]] = {
    "whole": {"layout": "replicated", "solve": "whole"},
    "split": {"layout": "replicated", "solve": "split"},
    "sharded": {"layout": "sharded"},
}
"""Where queue rows live and who solves them. One process has one place: the first."""
QUEUE = {"size": 700, "start_when_filled": 0}  # the second batch overwrites a part of the first
COLD = {"iterations": 3, "warm_start": False}
SOLVES: dict[str, dict[str, Any]] = {
    "warm": {},
    "hard targets": {"assignment": "hard"},
    "cold": {"sinkhorn": COLD},
    "cold, small epsilon": {"eta": 50.0, "sinkhorn": COLD},
    "besides the batch": {"queue": QUEUE | {"counts_batch": False}},
    "unique items": {"queue": QUEUE | {"unique_items": True}},
    "no queue": {"queue": QUEUE | {"size": 0, "counts_batch": False}},
    "to a tolerance": {"sinkhorn": {"tolerance": 0.01}},
}
"""SwAMP settings."""


@dataclass(frozen=True)
class Case:
    form: str | None
    solve: str | None
    place: str = "whole"

    def settings(self) -> ObjectiveSettings:
        contrastive = OFF if self.form is None else FORMS[self.form]
        if self.solve is None:
            return ObjectiveSettings.model_validate({"contrastive": contrastive, "swamp": OFF})
        base: dict[str, Any] = {"prototypes": PROTOTYPES, "queue": QUEUE, "sinkhorn": {"iterations": 3}}
        swamp = base | SOLVES[self.solve]
        swamp["queue"] = swamp["queue"] | PLACES[self.place]
        return ObjectiveSettings.model_validate({"contrastive": contrastive, "swamp": swamp})

    @property
    def pairs_per_entry(self) -> int:
        return 2 if self.form == "entry weights" else 1


CASES = [
    Case("all", "warm", "split"),
    Case("all", "warm", "sharded"),
    Case("all in blocks", "warm", "sharded"),
    Case("entry weights", "warm", "split"),
    Case("hardest", "warm", "whole"),
    Case("hardest, sum", "warm", "sharded"),
    Case("hardest in blocks after all", "warm", "split"),
    Case("hardest", None),
    Case(None, "hard targets", "sharded"),
    Case(None, "cold", "split"),
    Case(None, "cold, small epsilon", "sharded"),
    Case(None, "besides the batch", "sharded"),
    Case(None, "besides the batch", "split"),
    Case(None, "unique items", "sharded"),
    Case("all", "unique items", "split"),
    Case(None, "no queue", "sharded"),
    Case(None, "to a tolerance", "split"),
]


def _losses_and_gradients(world: World, cases: list[Case]) -> list[list[list[Tensor]]]:
    """For each case and step: this rank's loss and its gradient for a, b (b, D) and prototypes (K, D)."""
    return [_run(case, world) for case in cases]


def _run(case: Case, world: World) -> list[list[Tensor]]:
    local = BATCH // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    plan = BatchPlan(BATCH // case.pairs_per_entry, case.pairs_per_entry, 4, world.size)
    objective = build_objective(case.settings(), plan, DIM, world.device, torch.float64, world.rank)
    positions = torch.arange(BATCH) // case.pairs_per_entry
    found = []
    for step in range(STEPS):
        random = torch.Generator().manual_seed(step)  # the global one belongs to all threads
        rows = torch.randn(2 * BATCH + PROTOTYPES, DIM, generator=random, dtype=torch.float64)
        a, b, prototypes = functional.normalize(rows, dim=1).split((BATCH, BATCH, PROTOTYPES))
        leaves = [x.clone().requires_grad_() for x in (a[mine], b[mine], prototypes)]
        used = leaves[: 2 if case.solve is None else 3]
        ids = step * BATCH * 3 // 4 + torch.arange(BATCH)[mine]  # a quarter of the items comes again
        embeddings = PairEmbeddings(leaves[0], leaves[1], leaves[2] if len(used) == 3 else None)
        loss = objective(embeddings, ids, positions[mine], step, world).total
        found.append([loss.detach(), *torch.autograd.grad(loss, used)])
    return found


def _join(of_ranks: list[list[Tensor]]) -> list[Tensor]:
    """Means over ranks, as DeepSpeed takes them; the gradients of a and b (B, D) are in rank order."""
    loss, a, b, *prototypes = zip(*of_ranks, strict=True)
    rows = [torch.cat(side) / len(of_ranks) for side in (a, b)]
    return [torch.stack(loss).mean(), *rows, *(torch.stack(x).mean(dim=0) for x in prototypes)]


@pytest.fixture(scope="module")
def one_process() -> dict[Case, list[list[Tensor]]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small only wait for each other on a busy machine
    try:
        return {case: _run(case, alone()) for case in {Case(case.form, case.solve) for case in CASES}}
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [64, pytest.param(256, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_the_objective_does_not_depend_on_the_world_size(
    size: int, one_process: dict[Case, list[list[Tensor]]]
) -> None:
    results = run_on_ranks(_losses_and_gradients, size, CASES, how="threads", timeout=500)
    for number, case in enumerate(CASES):
        expected = one_process[Case(case.form, case.solve)]
        for step in range(STEPS):
            found = _join([result[number][step] for result in results])
            torch.testing.assert_close(
                found, expected[step], rtol=0, atol=1e-10, msg=lambda m, at=(case, step): f"{at}: {m}"
            )


def test_every_case_moves_and_no_two_are_the_same(one_process: dict[Case, list[list[Tensor]]]) -> None:
    """Equality means something only where settings matter and every input has a gradient."""
    losses = {}
    for case, steps in one_process.items():
        losses[case] = [float(loss) for loss, *_ in steps]
        assert all(float(gradient.abs().max()) > 1e-4 for _, *found in steps for gradient in found), case
    twins = {case for case in losses if case.form == "all in blocks"}  # blocks change no value
    distinct = {tuple(round(loss, 6) for loss in found) for found in losses.values()}
    assert len(distinct) == len(losses) - len(twins)
