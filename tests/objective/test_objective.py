import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist import distributed
from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone
from swamp_dist.errors import UserError
from swamp_dist.objective.objective import Objective, build_objective
from swamp_dist.records import BatchPlan, LossTerms, PairEmbeddings
from tests.ranks import run_on_ranks
from tests.traffic import Traffic

DIM, PROTOTYPES, ENTRIES = 6, 7, 12
SWAMP: dict[str, Any] = {
    "weight": 0.5,
    "prototypes": PROTOTYPES,
    "queue": {"size": 20, "start_when_filled": 0},
    "sinkhorn": {"iterations": 4, "warm_start": False},
}
CPU = torch.device("cpu")


def _build(world_size: int = 1, pairs_per_entry: int = 1, **settings: Any) -> Objective:
    plan = BatchPlan(ENTRIES // pairs_per_entry, pairs_per_entry, 4, world_size)
    tree = {"contrastive": {}, "swamp": SWAMP} | settings
    return build_objective(ObjectiveSettings.model_validate(tree), plan, DIM, CPU, torch.float64)


def _batch(step: int, world: World, pairs_per_entry: int = 1) -> tuple[PairEmbeddings, Tensor, Tensor]:
    torch.manual_seed(step)
    a, b = functional.normalize(torch.randn(2, ENTRIES, DIM, dtype=torch.float64), dim=2)
    prototypes = functional.normalize(torch.randn(PROTOTYPES, DIM, dtype=torch.float64), dim=1)
    local = ENTRIES // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    leaves = [x.clone().requires_grad_() for x in (a[mine], b[mine], prototypes)]
    positions = torch.arange(ENTRIES // pairs_per_entry).repeat_interleave(pairs_per_entry)
    ids = 100 * step + torch.arange(ENTRIES)
    return PairEmbeddings(*leaves), ids[mine], positions[mine]


def _call(objective: Objective, step: int, world: World, pairs_per_entry: int = 1) -> LossTerms:
    return objective(*_batch(step, world, pairs_per_entry), step, world)


# -- against a plain reference ---------------------------------------------------------------------


def _reference_targets(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Alternate normalisation of exp(scores / epsilon): columns to N/K, rows to 1."""
    q = torch.exp(scores / epsilon)
    for _ in range(iterations):
        q = q / q.sum(dim=0, keepdim=True)
        q = q / q.sum(dim=1, keepdim=True)
    return q


def test_three_steps_equal_algorithm_1_written_out() -> None:
    objective, world = _build(), alone()
    history_a: list[Tensor] = []
    history_b: list[Tensor] = []
    for step in range(3):
        (a, b, p, *_), ids, entries = _batch(step, world)
        assert p is not None
        history_a, history_b = [*history_a, a.detach()], [*history_b, b.detach()]
        queue_a, queue_b = torch.cat(history_a)[-20:], torch.cat(history_b)[-20:]
        q_a = _reference_targets(queue_b @ p.detach().t(), 0.05, 4)[-ENTRIES:]
        q_b = _reference_targets(queue_a @ p.detach().t(), 0.05, 4)[-ENTRIES:]
        l_s = -(q_a * torch.log_softmax(a @ p.t() / 0.25, dim=1)).sum(dim=1).mean()
        l_s = l_s - (q_b * torch.log_softmax(b @ p.t() / 0.25, dim=1)).sum(dim=1).mean()
        x = a @ b.t()
        own = x.diagonal()
        l_c = ((0.1 + x - own[:, None]).relu() + (0.1 + x - own[None, :]).relu()).mean()
        terms = objective(PairEmbeddings(a, b, p), ids, entries, step, world)
        assert "swamp" in terms.terms
        assert "contrastive" in terms.terms
        torch.testing.assert_close(terms.terms["contrastive"], l_c, rtol=0, atol=1e-13)
        torch.testing.assert_close(terms.terms["swamp"], l_s, rtol=0, atol=1e-12)
        expected = torch.autograd.grad(l_c + 0.5 * l_s, (a, b, p))
        found = torch.autograd.grad(terms.total, (a, b, p))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_figures_say_what_they_claim() -> None:
    objective, world = _build(), alone()
    for step in (0, 4):
        terms = _call(objective, step, world)
    (a, b, *_), *_ = _batch(4, world)
    x = (a @ b.t()).detach()
    off_diagonal = x.clone().fill_diagonal_(-9)
    figures = {name: float(value) for name, value in terms.diagnostics.items()}
    assert all(value.dim() == 0 and not value.requires_grad for value in terms.diagnostics.values())
    assert figures["similarity/positive"] == pytest.approx(float(x.diagonal().mean()))
    off_sum = x.sum() - x.diagonal().sum()
    assert figures["similarity/negative"] == pytest.approx(float(off_sum) / (ENTRIES * (ENTRIES - 1)))
    hardest = (off_diagonal.amax(dim=0).mean() + off_diagonal.amax(dim=1).mean()) / 2
    assert figures["similarity/hardest_negative"] == pytest.approx(float(hardest))
    assert figures["queue/fill"] == 1.0
    assert figures["queue/age_max"] == 4
    assert figures["queue/age_mean"] == pytest.approx(4 * 8 / 20)
    assert figures["swamp/iterations"] == 4
    assert objective.last_usage is not None
    assert int(objective.last_usage.sum()) == 2 * ENTRIES
    distinct = int((objective.last_usage > 0).sum())
    assert figures["swamp/used_prototypes"] == pytest.approx(distinct / PROTOTYPES)
    assert 0 < figures["swamp/target_entropy"] < figures["swamp/target_entropy_max"]


SOFT = {"kind": "within_modality", "weight": 0.3, "temperature": 0.4}
COMPARED: list[dict[str, Any]] = [
    {"form": "all"},
    {"form": "infonce", "targets": SOFT},
    {"form": "sigmoid", "positives": "entry"},
]


def _logged_and_not(world: World) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """For each form, of steps that are logged and of steps that are not: all that the training goes on with,
    collectives of the third step, figures and usage."""
    return [(_steps(world, form, is_logged=True), _steps(world, form, is_logged=False)) for form in COMPARED]


def _steps(world: World, form: dict[str, Any], *, is_logged: bool) -> tuple[Any, ...]:
    objective = _build(world.size, pairs_per_entry=2, contrastive=form)
    for step in range(3):
        embeddings, ids, entries = _batch(step, world, pairs_per_entry=2)
        with Traffic() as sent:
            terms = objective(embeddings, ids, entries, step, world, is_logged=is_logged)
    terms.total.backward()
    gradients = [x.grad for x in embeddings if x is not None]
    goes_on = [terms.total, *terms.terms.values(), *gradients, *objective.state(world).values()]
    return goes_on, sent.calls, set(terms.diagnostics), objective.last_usage


@pytest.mark.parametrize("size", [1, 2])
def test_a_step_that_is_not_logged_learns_the_same_and_says_less(size: int) -> None:
    hardest, usage = ("all_reduce", 8 * ENTRIES), ("all_reduce", 8 * PROTOTYPES)
    for logged, silent in (both for forms in run_on_ranks(_logged_and_not, size) for both in forms):
        assert len(logged[0]) == len(silent[0]) > 4
        assert all(torch.equal(x, y) for x, y in zip(logged[0], silent[0], strict=True))
        left_out = Counter([hardest, usage] if size > 1 else [])
        assert Counter(logged[1]) - Counter(silent[1]) == left_out
        assert silent[2] < logged[2]
        assert {"similarity/hardest_negative", "swamp/agreement", "queue/fill"} <= logged[2] - silent[2]
        assert {"similarity/positive", "similarity/negative"} <= silent[2]  # alarms look at these
        assert (logged[3] is None, silent[3] is None) == (False, True)


# -- what is switched off does no work -------------------------------------------------------------


def _refused(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"{name} was called")

    return call


def test_without_the_swamp_term_there_is_no_queue_and_no_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    from swamp_dist.objective.terms import swamp as module

    monkeypatch.setattr(module, "solve", _refused("solve"))
    objective = _build(swamp={"weight": 0})
    (a, b, *_), ids, entries = _batch(0, alone())
    terms = objective(PairEmbeddings(a, b, None), ids, entries, 0, alone())
    assert objective.queue is None
    assert "swamp" not in terms.terms
    assert "contrastive" in terms.terms
    assert torch.equal(terms.total, terms.terms["contrastive"])
    assert objective.state(alone()) == {}
    objective.load_state({})


def test_without_the_contrastive_term_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    from swamp_dist.objective import objective as module
    from swamp_dist.objective.terms import contrastive

    monkeypatch.setattr(contrastive, "compare", _refused("compare"))
    monkeypatch.setattr(module, "start_gather_rows", _refused("start_gather_rows"))
    terms = _call(_build(contrastive={"weight": 0}), 0, alone())
    assert "contrastive" not in terms.terms
    assert "swamp" in terms.terms
    torch.testing.assert_close(terms.total, 0.5 * terms.terms["swamp"])


def test_the_term_counts_once_enough_rows_are_queued(caplog: pytest.LogCaptureFixture) -> None:
    queue = {"size": 40, "start_when_filled": 30}
    objective = _build(contrastive={"weight": 0}, swamp=SWAMP | {"queue": queue})
    with caplog.at_level(logging.INFO):
        for step in range(5):
            embeddings, ids, entries = _batch(step, alone())
            terms = objective(embeddings, ids, entries, step, alone())
            terms.total.backward()  # also before the start: the engine needs a gradient on every step
            gradients = [x.grad for x in embeddings if x is not None]
            assert ("swamp" not in terms.terms) == (step < 2)
            assert all(g is not None and bool(g.any()) == (step >= 2) for g in gradients)
    messages = [r.message for r in caplog.records if "SwAMP term" in r.message]
    assert messages == ["the SwAMP term counts from step 2 on: 36 rows are queued"]


def test_default_start_is_as_many_rows_as_prototypes() -> None:
    objective = _build(swamp=SWAMP | {"prototypes": 24, "queue": {"size": 60}})
    torch.manual_seed(0)
    prototypes = torch.randn(24, DIM, dtype=torch.float64)
    started = []
    for step in range(4):
        embeddings, ids, entries = _batch(step, alone())
        terms = objective(embeddings._replace(prototypes=prototypes), ids, entries, step, alone())
        started.append("swamp" in terms.terms)
    assert started == [False, True, True, True]


def test_the_first_steps_may_use_all_negatives() -> None:
    hardest = {"form": "hardest", "reduction": "sum", "margin": 0.1}
    off = {"weight": 0}
    late = _build(contrastive=hardest | {"all_negatives_steps": 2}, swamp=off)
    every, plain = _build(contrastive={}, swamp=off), _build(contrastive=hardest, swamp=off)
    torch.testing.assert_close(_call(late, 1, alone()).total, ENTRIES * _call(every, 1, alone()).total)
    torch.testing.assert_close(_call(late, 2, alone()).total, _call(plain, 2, alone()).total)


def test_entry_weights_need_several_pairs_and_a_share() -> None:
    off = {"weight": 0}
    weighted = _build(pairs_per_entry=3, swamp=off)
    equal = _build(pairs_per_entry=3, contrastive={"in_entry_share": None}, swamp=off)
    single = _build(swamp=off)
    losses = [float(_call(o, 0, alone(), 3).total.detach()) for o in (weighted, equal, single)]
    assert losses[0] != pytest.approx(losses[1])
    assert losses[1] == losses[2]


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_a_restored_objective_goes_on_to_the_same_bits(warm: bool) -> None:
    swamp = SWAMP | {"sinkhorn": {"iterations": 3, "warm_start": warm}}
    first, second = _build(swamp=swamp), _build(swamp=swamp)
    for step in range(3):
        _call(first, step, alone())
    state = first.state(alone())
    assert ("log_v" in state) == warm
    second.load_state(state)
    for step in (3, 4):
        expected, found = _call(first, step, alone()), _call(second, step, alone())
        assert torch.equal(expected.total, found.total)
        assert all(torch.equal(v, found.diagnostics[k]) for k, v in expected.diagnostics.items())
    with pytest.raises(ValueError, match="potentials"):
        second.load_state(state | {"log_v": torch.zeros(2, 3)})


def test_a_warm_start_changes_a_short_solve() -> None:
    cold = _build(swamp=SWAMP | {"sinkhorn": {"iterations": 2, "warm_start": False}})
    warm = _build(swamp=SWAMP | {"sinkhorn": {"iterations": 2, "warm_start": True}})
    first = _call(cold, 0, alone()), _call(warm, 0, alone())
    assert torch.equal(first[0].total, first[1].total)  # the first solve has nothing to start from
    second = _call(cold, 0, alone()), _call(warm, 0, alone())
    assert not torch.equal(second[0].total, second[1].total)
    assert second[1].diagnostics["swamp/marginal_error"] < second[0].diagnostics["swamp/marginal_error"]


# -- settings --------------------------------------------------------------------------------------


def test_settings_that_cannot_work_are_refused_or_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"start_when_filled = 21.*hold 20 rows"):
        _build(swamp=SWAMP | {"queue": {"size": 20, "start_when_filled": 21}})
    plan = BatchPlan(1, 1, 1, 1)
    with pytest.raises(UserError, match="at least 2 pairs"):
        build_objective(ObjectiveSettings(), plan, DIM, CPU)
    assert not caplog.records
    _build(swamp=SWAMP | {"prototypes": 21})
    assert "20 rows are solved against 21 prototypes" in caplog.text
    _build(swamp=SWAMP | {"eta": 1.0})
    assert "softer than predictions" in caplog.text


def test_half_precision_and_autocast_do_not_reach_the_objective() -> None:
    settings = ObjectiveSettings.model_validate({"swamp": SWAMP})
    objective = build_objective(settings, BatchPlan(ENTRIES, 1, 4, 1), DIM, CPU)
    embeddings, ids, entries = _batch(0, alone())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective(
            PairEmbeddings(*(x.bfloat16() for x in embeddings if x is not None)), ids, entries, 0, alone()
        )
    assert terms.total.dtype == torch.float32


# -- over ranks ------------------------------------------------------------------------------------

MODES: list[dict[str, Any]] = [
    {"swamp": SWAMP | {"queue": {"size": 31, "start_when_filled": 0, "solve": solve}}}
    for solve in ("split", "whole", "auto")
]


def _three_steps(world: World) -> list[tuple[Tensor, ...]]:
    """Global loss, gradients of all rows and usage after three steps, for each mode."""
    results = []
    for mode in MODES:
        objective = _build(world.size, **mode)
        for step in range(3):
            embeddings, ids, entries = _batch(step, world)
            terms = objective(embeddings, ids, entries, step, world)
        terms.total.backward()
        a, b, prototypes = (x.grad for x in embeddings if x is not None)
        assert a is not None
        assert b is not None
        assert prototypes is not None
        assert objective.last_usage is not None
        loss = distributed.mean_over_ranks(terms.total.detach().clone(), world)
        rows = [distributed.gather(x, world) / world.size for x in (a, b)]
        shared = distributed.mean_over_ranks(prototypes, world)
        results.append((loss, *rows, shared, objective.last_usage))
    return results


@pytest.mark.parametrize("size", [2, 3, 4])
def test_split_and_whole_give_one_process_s_loss_gradient_and_usage(size: int) -> None:
    expected = _three_steps(alone())
    torch.testing.assert_close(expected[0], expected[1])
    for result in run_on_ranks(_three_steps, size):
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-13)


def _collectives(world: World) -> list[list[str]]:
    """Names of the collectives of the second step, forward only, for some settings."""
    real = {name: getattr(torch.distributed, name) for name in ("all_reduce", "all_gather_single")}
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return real[name](*args, **kwargs)

        return call

    for name in real:
        setattr(torch.distributed, name, counted(name))
    found = []
    for mode in (*MODES[:2], {"swamp": {"weight": 0}}):
        objective = _build(world.size, **mode)
        for step in range(2):
            calls.clear()
            _call(objective, step, world)
        found.append(list(calls))
    for name, function in real.items():
        setattr(torch.distributed, name, function)
    return found


def test_a_step_talks_no_more_than_it_must() -> None:
    split, whole, contrastive_only = run_on_ranks(_collectives, 2)[0]
    gathers = ["all_gather_single"] * 4  # both sides, the pairs' similarities, ids
    hardest, usage = ["all_reduce"], ["all_reduce"]
    assert split == gathers + hardest + ["all_reduce"] * 4 + usage  # cold solve in range
    assert whole == gathers + hardest + usage
    assert contrastive_only == ["all_gather_single"] * 2 + hardest  # a alone, and the pairs' similarities
