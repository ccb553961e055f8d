"""The SwAMP term over one row of each item: against a loop that drops rows, on any ranks and after a stop."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone, gather, on_main
from swamp_dist.objective.objective import Objective, build_objective
from swamp_dist.records import BatchPlan, PairEmbeddings
from tests.ranks import run_on_ranks

BATCH, DIM, PROTOTYPES, STEPS, TAU, EPSILON = 12, 6, 5, 6, 0.25, 0.05
CAPACITIES = {"wraps, no multiple of B": 31, "never full": 200, "the batch alone": 5}
LAYOUTS: dict[str, dict[str, Any]] = {
    "whole": {"layout": "replicated", "solve": "whole"},
    "split": {"layout": "replicated", "solve": "split"},
    "sharded": {"layout": "sharded"},
}


def _objective(world: World, size: int, **changes: Any) -> Objective:
    queue = {"size": size, "unique_items": True, "start_when_filled": 0} | changes.pop("queue", {})
    sinkhorn = {"iterations": 4, "warm_start": True} | changes.pop("sinkhorn", {})
    swamp = {"prototypes": PROTOTYPES, "weight": 1.0, "temperature": TAU, "eta": TAU / EPSILON}
    tree = {"contrastive": {"weight": 0}, "swamp": swamp | {"queue": queue, "sinkhorn": sinkhorn}}
    settings = ObjectiveSettings.model_validate(tree)
    plan = BatchPlan(BATCH, 1, 12, world.size)
    return build_objective(settings, plan, DIM, world.device, torch.float64, world.rank)


def _drawn(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a, b, prototypes and items of a global batch: items come again in it and in later ones."""
    random = torch.Generator().manual_seed(step)  # the global one belongs to all threads
    rows = torch.randn(2 * BATCH + PROTOTYPES, DIM, generator=random, dtype=torch.float64)
    a, b, prototypes = functional.normalize(rows, dim=1).split((BATCH, BATCH, PROTOTYPES))
    return a, b, prototypes, torch.randint(0, 30, (BATCH,), generator=random)


def _run(objective: Objective, steps: range, world: World) -> list[list[Tensor]]:
    """Loss, gradient of my rows and of the prototypes, and the share of rows that count, of every step."""
    found = []
    mine = slice(world.rank * BATCH // world.size, (world.rank + 1) * BATCH // world.size)
    for step in steps:
        a, b, prototypes, items = _drawn(step)
        leaves = [x.clone().requires_grad_() for x in (a[mine], b[mine], prototypes)]
        terms = objective(PairEmbeddings(*leaves), items[mine], torch.arange(BATCH)[mine], step, world)
        gradients = torch.autograd.grad(terms.total, leaves)
        found.append([terms.total.detach(), *gradients, terms.diagnostics["queue/unique"]])
    return found


def _literal(capacity: int, iterations: int = 4) -> list[tuple[float, float]]:
    """Loss and share of rows that count, by rows in a list of which some are left out."""
    rows: list[tuple[Tensor, Tensor, int]] = []
    log_v: Tensor | None = None
    found = []
    for step in range(STEPS):
        a, b, prototypes, items = _drawn(step)
        rows = [*rows, *zip(a, b, items.tolist(), strict=True)][-max(capacity, BATCH) :]
        old = len(rows) - BATCH
        kept = [row for i, row in enumerate(rows) if i >= old or row[2] not in [r[2] for r in rows[i + 1 :]]]
        scores = torch.stack([torch.stack([row[side] for row in kept]) @ prototypes.t() for side in (0, 1)])
        exponents, n = scores / EPSILON, len(kept)
        g = exponents.new_zeros(2, 1, PROTOTYPES) if log_v is None else log_v
        for i in range(iterations):
            cold = log_v is None and i == 0
            f = 0 if cold else -torch.logsumexp(exponents + g, dim=2, keepdim=True)
            g = math.log(n / PROTOTYPES) - torch.logsumexp(exponents + f, dim=1, keepdim=True)
        log_v = g - g.mean(dim=2, keepdim=True)
        targets = torch.softmax(exponents[:, -BATCH:] + log_v, dim=2)
        logs = torch.log_softmax(scores[:, -BATCH:] / TAU, dim=2)
        loss = -(targets[1] * logs[0] + targets[0] * logs[1]).sum(dim=1).mean()
        found.append((float(loss), n / len(rows)))
    return found


@pytest.mark.parametrize("name", CAPACITIES)
def test_rows_that_do_not_count_are_dropped(name: str) -> None:
    found = _run(_objective(alone(), CAPACITIES[name]), range(STEPS), alone())
    expected = _literal(CAPACITIES[name])
    for (loss, *_, share), (wanted, wanted_share) in zip(found, expected, strict=True):
        assert float(loss) == pytest.approx(wanted, abs=1e-10)
        assert float(share) == pytest.approx(wanted_share, abs=1e-15)
    assert name == "the batch alone" or expected[-1][1] < 0.8
    assert name == "the batch alone" or len({round(share, 9) for _, share in expected}) > 2


def _all(world: World, memory: int) -> dict[tuple[str, str], list[list[Tensor]]]:
    found = {}
    for name, size in CAPACITIES.items():
        for layout, queue in LAYOUTS.items():
            objective = _objective(world, size, queue=queue, sinkhorn={"score_memory": memory})
            found[name, layout] = _run(objective, range(STEPS), world)
    return found


def _check_ranks(results: list[dict[tuple[str, str], list[list[Tensor]]]]) -> None:
    """Means over ranks and joined rows are those of one rank."""
    for name, size in CAPACITIES.items():
        expected = _run(_objective(alone(), size), range(STEPS), alone())
        for layout in LAYOUTS:
            for step in range(STEPS):
                loss, a, b, prototypes, share = zip(*(r[name, layout][step] for r in results), strict=True)
                rows = [torch.cat(side) / len(results) for side in (a, b)]
                found = [torch.stack(loss).mean(), *rows, torch.stack(prototypes).mean(dim=0), share[0]]
                torch.testing.assert_close(found, expected[step], rtol=0, atol=1e-10)
                assert all(torch.equal(x, share[0]) for x in share)


@pytest.mark.parametrize(("size", "memory"), [(2, 2**32), (3, 1), (4, 2**32)])
def test_the_number_of_ranks_changes_nothing(size: int, memory: int) -> None:
    """With 3 ranks every score is made anew, a row at a time."""
    _check_ranks(run_on_ranks(_all, size, memory))


def test_nor_do_twelve_ranks_as_threads() -> None:
    _check_ranks(run_on_ranks(_all, 12, 2**32, how="threads"))


# -- a run that stops and goes on ------------------------------------------------------------------


def _stopped(world: World, changes: dict[str, Any]) -> tuple[Any, Any, dict[str, dict[str, Tensor]]]:
    """Steps 3 to 5 without a stop and after one, and on other layouts; and the state in between."""
    first = _objective(world, 31, queue=LAYOUTS["sharded"], **changes)
    _run(first, range(3), world)
    held = first.state(world)
    state = on_main(world, lambda: held)
    whole, resumed = _run(first, range(3, STEPS), world), {}
    for layout, queue in LAYOUTS.items():
        second = _objective(world, 31, queue=queue, **changes)
        second.load_state(state)
        resumed[layout] = _run(second, range(3, STEPS), world)
    return whole, resumed, state


@pytest.mark.parametrize("warm", [True, False])
def test_a_resume_is_bit_equal_and_goes_on_in_any_layout(warm: bool) -> None:
    for whole, resumed, state in run_on_ranks(_stopped, 3, {"sinkhorn": {"warm_start": warm}}):
        for found, expected in zip(resumed["sharded"], whole, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
        torch.testing.assert_close(resumed["whole"], whole, rtol=0, atol=1e-10)
        torch.testing.assert_close(resumed["split"], whole, rtol=0, atol=1e-10)
        solo = _objective(alone(), 31, sinkhorn={"warm_start": warm})
        solo.load_state(state)
        share = [step[-1] for step in _run(solo, range(3, STEPS), alone())]
        assert [float(x) for x in share] == [float(step[-1]) for step in whole]


# -- when the term starts --------------------------------------------------------------------------

START = 19
_ITEMS = [range(12), range(12), range(6, 18), range(12, 24), [0] * 12, [0] * 12, [0] * 12]
"""Of 12, 24, 31, 31, ... rows there count 12, 12, 18, 19, and fewer then."""


def _started(objective: Objective, steps: range, world: World) -> list[bool]:
    mine = slice(world.rank * BATCH // world.size, (world.rank + 1) * BATCH // world.size)
    found = []
    for step in steps:
        a, b, prototypes, _ = _drawn(step)
        items = torch.tensor(list(_ITEMS[step]))
        embeddings = PairEmbeddings(a[mine], b[mine], prototypes)
        terms = objective(embeddings, items[mine], torch.arange(BATCH)[mine], step, world)
        found.append("swamp" in terms.terms)
    return found


def _starts(world: World, layout: str) -> list[bool]:
    queue = LAYOUTS[layout] | {"start_when_filled": START}
    whole = _objective(world, 31, queue=queue)
    found = _started(whole, range(6), world)
    held = whole.state(world)
    state = on_main(world, lambda: held)
    resumed = _objective(world, 31, queue=queue)
    resumed.load_state(state)
    return found + _started(resumed, range(6, 7), world)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_term_starts_once_enough_rows_count_and_stays(layout: str) -> None:
    """In the steps after the start fewer rows count than it takes, before and after a resume."""
    expected = [False, False, False, True, True, True, True]
    assert _starts(alone(), layout) == expected
    assert run_on_ranks(_starts, 2, layout) == [expected, expected]


def test_a_state_that_does_not_say_so_starts_as_its_rows_do() -> None:
    for steps, counts in ((3, False), (4, True)):
        first = _objective(alone(), 31, queue={"start_when_filled": START})
        _started(first, range(steps), alone())
        state = {k: v for k, v in first.state(alone()).items() if k != "started"}
        second = _objective(alone(), 31, queue={"start_when_filled": START})
        second.load_state(state)
        assert second.swamp is not None
        assert second.swamp._has_started is counts


def test_the_host_reads_the_number_of_rows_until_the_start_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reads = []
    real = Tensor.__int__
    monkeypatch.setattr(Tensor, "__int__", lambda x: reads.append(x) or real(x))  # type: ignore[func-returns-value]
    with caplog.at_level(logging.INFO):
        _started(_objective(alone(), 31, queue={"start_when_filled": START}), range(6), alone())
    assert len(reads) == 3  # steps 1 to 3: in step 0 there are too few rows, whatever they are
    assert "counts from step 3 on: 19 rows" in caplog.text
    reads.clear()
    _started(_objective(alone(), 31, queue={"start_when_filled": BATCH}), range(6), alone())
    assert not reads  # the batch is enough, and all its rows count


def test_ids_are_gathered_where_the_queue_is_sharded() -> None:
    assert all(run_on_ranks(_gathers, 2))


def _gathers(world: World) -> bool:
    objective = _objective(world, 31, queue=LAYOUTS["sharded"])
    _run(objective, range(2), world)
    queue = objective.queue
    assert queue is not None
    held = gather(queue.ids.clone(), world)
    return len(queue.counting(BATCH)) == 24 and len(held) == 24 and len(queue.ids) == 12
