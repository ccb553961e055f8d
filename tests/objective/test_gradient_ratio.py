"""The weight by gradient ratio against plain autograd on the whole batch; what measuring must not change."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone, on_main
from swamp_dist.objective.gradient_ratio import Pulls, after_measurement, weight_for
from swamp_dist.objective.objective import Objective, build_objective
from swamp_dist.records import BatchPlan, PairEmbeddings
from tests.ranks import run_on_ranks

BATCH, DIM, PROTOTYPES, STEPS, EVERY = 192, 8, 10, 7, 3
RATIO, CAP, CONTRASTIVE, RESUMED_AT = 0.4, 0.12, 0.7, 4
FORMS: dict[str, dict[str, Any]] = {
    "all": {},
    "all in blocks": {"chunk": 5},
    "infonce": {"form": "infonce"},
    "hardest": {"form": "hardest", "margin": 0.2, "all_negatives_steps": 2},
}
PLACES: dict[str, dict[str, Any]] = {
    "whole": {"layout": "replicated", "solve": "whole"},
    "split": {"layout": "replicated", "solve": "split"},
    "sharded": {"layout": "sharded"},
}
CASES = [("all", "split"), ("all in blocks", "sharded"), ("hardest", "whole"), ("infonce", "sharded")]


def _settings(form: str, place: str, **swamp: Any) -> ObjectiveSettings:
    start = {"start_when_filled": BATCH + 1}  # counts from the second step on
    queue = {"size": 1000} | start | PLACES[place]
    tree = {
        "contrastive": {"weight": CONTRASTIVE} | FORMS[form],
        "swamp": {"weight": CAP, "prototypes": PROTOTYPES, "queue": queue, "sinkhorn": {"iterations": 3}}
        | swamp,
    }
    return ObjectiveSettings.model_validate(tree)


BY_RATIO = {"weight_as": "gradient_ratio", "gradient_ratio": RATIO, "measure_every": EVERY}
UNMEASURED = {"weight": 1.0, "measure_every": None}


def _objective(settings: ObjectiveSettings, world: World, dtype: torch.dtype) -> Objective:
    plan = BatchPlan(BATCH, 1, 4, world.size)
    return build_objective(settings, plan, DIM, world.device, dtype, world.rank)


def _leaves(step: int, world: World, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """My rows a, b and the prototypes; pairs grow alike from step to step, so the hinges fall silent."""
    random = torch.Generator().manual_seed(step)
    rows = torch.randn(2 * BATCH + PROTOTYPES, DIM, generator=random, dtype=torch.float64)
    a, noise, prototypes = rows.split((BATCH, BATCH, PROTOTYPES))
    local = BATCH // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    sides = (a[mine], (a + 2 * 0.7**step * noise)[mine], prototypes)
    return [functional.normalize(x, dim=1).to(dtype).requires_grad_() for x in sides]


def _step(objective: Objective, step: int, world: World, dtype: torch.dtype) -> list[Tensor]:
    """Loss, its gradients and what was measured by the end of a step."""
    leaves = _leaves(step, world, dtype)
    first = world.rank * (BATCH // world.size)
    ids = first + torch.arange(len(leaves[0]))
    terms = objective(PairEmbeddings(*leaves), step * BATCH + ids, ids, step, world)
    gradients = torch.autograd.grad(terms.total, leaves)
    terms = objective.measure(terms, world)
    seen = [terms.diagnostics.get(f"swamp/{name}") for name in ("weight", "effective_ratio")]
    figures = [torch.tensor(-1.0) if figure is None else figure for figure in seen]
    return [terms.total.detach(), *gradients, *(figure.double() for figure in figures)]


def _run(world: World, case: tuple[str, str]) -> list[list[Tensor]]:
    objective = _objective(_settings(*case, **BY_RATIO), world, torch.float64)
    return [_step(objective, step, world, torch.float64) for step in range(STEPS)]


def _runs(world: World) -> list[list[list[Tensor]]]:
    return [_run(world, case) for case in CASES]


def _oracle(form: str) -> list[list[Tensor]]:
    """One process; both losses differentiated one after the other, means and weight in Python's floats."""
    objective = _objective(_settings(form, "whole", **UNMEASURED), alone(), torch.float64)
    found, means = [], None
    effective = -1.0
    for step in range(STEPS):
        leaves = _leaves(step, alone())
        ids = torch.arange(BATCH)
        terms = objective(PairEmbeddings(*leaves), step * BATCH + ids, ids, step, alone()).terms
        on_c = torch.autograd.grad(CONTRASTIVE * terms["contrastive"], leaves, allow_unused=True)
        sides, total = [x for x in on_c if x is not None], CONTRASTIVE * terms["contrastive"]
        if "swamp" not in terms:
            found.append([total.detach(), *sides, torch.zeros_like(leaves[2]), *_figures(-1, -1)])
            continue
        on_s = torch.autograd.grad(terms["swamp"], leaves)
        weight = CAP if means is None else min(CAP, RATIO * means[0] / means[1])
        total = total + weight * terms["swamp"]
        gradients = [on_c[0] + weight * on_s[0], on_c[1] + weight * on_s[1], weight * on_s[2]]
        if means is None or (step + 1) % EVERY == 0:
            norms = [float(torch.cat(pair[:2]).norm()) for pair in (on_c, on_s)]
            means = norms if means is None else [(m + n) / 2 for m, n in zip(means, norms, strict=True)]
            effective = weight * norms[1] / norms[0]
        found.append([total.detach(), *gradients, *_figures(weight, effective)])
    return found


def _figures(*values: float) -> list[Tensor]:
    return [torch.tensor(float(value), dtype=torch.float64) for value in values]


def _join(of_ranks: list[list[Tensor]]) -> list[Tensor]:
    """Means over ranks, as DeepSpeed takes them; rows in rank order; figures of the first rank."""
    loss, a, b, prototypes, weight, effective = zip(*of_ranks, strict=True)
    assert all(torch.equal(value, same[0]) for same in (weight, effective) for value in same)  # bit by bit
    rows = [torch.cat(side) / len(of_ranks) for side in (a, b)]
    return [torch.stack(loss).mean(), *rows, torch.stack(prototypes).mean(dim=0), weight[0], effective[0]]


def _check(results: list[list[list[list[Tensor]]]]) -> None:
    for number, (form, place) in enumerate(CASES):
        for step, expected in enumerate(_oracle(form)):
            found = _join([result[number][step] for result in results])
            torch.testing.assert_close(
                found, expected, rtol=0, atol=1e-10, msg=lambda m, at=(form, place, step): f"{at}: {m}"
            )


ANEW = ("split", "sharded")
"""Layouts that a run of one process goes on with."""
Found = tuple[list[list[list[Tensor]]], list[list[list[list[Tensor]]]], list[list[list[Tensor]]]]


def _everything(world: World, state: dict[str, Tensor]) -> Found:
    """Runs by ratio, literal runs and resumed ones: one start of the ranks serves all."""
    return _runs(world), _literals(world), [_resumed(world, place, state) for place in ANEW]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_train_as_one_process_watched_or_not_and_resumed(size: int) -> None:
    results: list[Found] = run_on_ranks(_everything, size, _half())
    runs, literals, resumed = (list(found) for found in zip(*results, strict=True))
    _check(runs)
    for found in literals:
        _assert_no_bit_moves(found)
    for number in range(len(ANEW)):
        for step, expected in enumerate(_oracle("all")[RESUMED_AT:]):
            joined = _join([result[number][step] for result in resumed])
            torch.testing.assert_close(joined, expected, rtol=0, atol=1e-10)


def test_64_ranks_train_as_one_process() -> None:
    _check(run_on_ranks(_runs, 64, how="threads"))


def test_one_rank_gives_what_plain_autograd_gives() -> None:
    _check([_runs(alone())])


def test_the_oracle_sees_a_cap_a_ratio_and_steps_before_the_term_counts() -> None:
    """Equality means something only where the weight moves."""
    capped = []
    for form in ("all", "hardest"):
        before, start, first, second, *same, third = (float(values[4]) for values in _oracle(form))
        assert (before, start) == (-1, CAP)  # does not count; counts and is measured for the first time
        assert same == [second, second]  # measured in steps 2, 3 and 6
        assert len({first, second, third}) == 3
        assert 0 < first < 0.5 * CAP
        capped.append(third == CAP)
    assert sorted(capped) == [False, True]


# -- what measuring must not change ----------------------------------------------------------------


def _literal(world: World, case: tuple[str, str], every: int | None) -> list[list[Tensor]]:
    objective = _objective(_settings(*case, measure_every=every), world, torch.float32)
    return [_step(objective, step, world, torch.float32) for step in range(STEPS)]


def _literals(world: World) -> list[list[list[list[Tensor]]]]:
    return [[_literal(world, case, every) for every in (None, 1)] for case in CASES]


def _assert_no_bit_moves(of_cases: list[list[list[list[Tensor]]]]) -> None:
    for unmeasured, *measured in of_cases:
        for run in measured:
            for expected, found in zip(unmeasured, run, strict=True):
                assert all(torch.equal(x, y) for x, y in zip(expected[:5], found[:5], strict=True))
            assert float(run[-1][5]) > 0 > float(unmeasured[-1][5])


def test_measuring_moves_no_bit_on_one_rank() -> None:
    _assert_no_bit_moves(_literals(alone()))


def test_a_measured_step_leaves_nothing_behind() -> None:
    objective = _objective(_settings("all", "whole"), alone(), torch.float64)
    gc.disable()
    try:
        for step in range(3):
            leaves = _leaves(step, alone())
            a = leaves[0] * 1.0  # with a history, as embeddings have one
            gone, ids = weakref.ref(a), torch.arange(BATCH)
            terms = objective(PairEmbeddings(a, leaves[1], leaves[2]), ids, ids, step, alone())
            terms.total.backward()  # type: ignore[no-untyped-call]
            objective.measure(terms, alone())
            del a, terms
            assert gone() is None
    finally:
        gc.enable()
    assert objective.effective_ratio is not None


def test_without_gradient_or_a_second_term_nothing_is_measured() -> None:
    frozen = _objective(_settings("all", "whole"), alone(), torch.float64)
    single = ObjectiveSettings.model_validate(
        {"contrastive": {"weight": 0}, "swamp": {"prototypes": PROTOTYPES}}
    )
    both = ((frozen, torch.no_grad()), (_objective(single, alone(), torch.float64), torch.enable_grad()))
    for objective, mode in both:
        for step in range(3):
            ids = torch.arange(BATCH)
            with mode:
                terms = objective(PairEmbeddings(*_leaves(step, alone())), ids, ids, step, alone())
            assert "swamp" in terms.terms or step < 2
            objective.measure(terms, alone())
        assert objective.effective_ratio is None


def test_a_side_without_gradient_counts_as_nothing() -> None:
    objective = _objective(_settings("all", "whole", queue={"start_when_filled": 0}), alone(), torch.float64)
    a, b, prototypes = _leaves(0, alone())
    ids = torch.arange(BATCH)
    terms = objective(PairEmbeddings(a.detach(), b, prototypes), ids, ids, 0, alone())
    norms = [float(torch.autograd.grad(x, b, retain_graph=True)[0].norm()) for x in terms.terms.values()]
    terms.total.backward()  # type: ignore[no-untyped-call]
    found = objective.measure(terms, alone()).diagnostics["swamp/effective_ratio"]
    assert float(found) == pytest.approx(CAP * norms[1] / (CONTRASTIVE * norms[0]), abs=1e-10)


def test_measuring_before_the_backward_pass_is_refused() -> None:
    objective = _objective(_settings("all", "whole", queue={"start_when_filled": 0}), alone(), torch.float64)
    ids = torch.arange(BATCH)
    terms = objective(PairEmbeddings(*_leaves(0, alone())), ids, ids, 0, alone())
    with pytest.raises(ValueError, match="after the backward pass"):
        objective.measure(terms, alone())


# -- the weight ------------------------------------------------------------------------------------


def _pulls(others: float, swamp: float) -> Pulls:
    return Pulls(*_figures(others, swamp, 0.0))


@pytest.mark.parametrize(
    ("others", "swamp", "weight"),
    [(0, 0, 0.25), (1, 0, 0.25), (0, 1, 0.0), (1, 1, 0.25), (1, 3, 0.1), (1e-200, 1e-200, 0.25)],
)
def test_the_weight_of_corner_cases(others: float, swamp: float, weight: float) -> None:
    assert float(weight_for(_pulls(others, swamp), 0.3, 0.25)) == pytest.approx(weight, abs=1e-15)


_NORMS = st.floats(0, 1e6, allow_subnormal=False)


@given(_NORMS, _NORMS, st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_the_weight_is_never_above_the_cap_nor_the_pull_above_the_ratio(
    others: float, swamp: float, ratio: float, cap: float
) -> None:
    weight = float(weight_for(_pulls(others, swamp), ratio, cap))
    assert 0 <= weight <= cap
    assert weight * swamp <= ratio * others * (1 + 1e-12) or (others == 0 and swamp == 0)


@given(st.lists(st.tuples(_NORMS, st.floats(1e-3, 1e6)), min_size=1, max_size=9))
def test_a_mean_lies_between_what_was_measured_and_halves_what_was_before(
    norms: list[tuple[float, float]],
) -> None:
    pulls = None
    for others, swamp in norms:
        weighted, weight = _figures(0.5 * swamp, 0.5)
        pulls = after_measurement(pulls, _figures(others)[0], weighted, weight)
    assert pulls is not None
    shares = [2.0 ** -max(1, min(age, len(norms) - 1)) for age in range(len(norms), 0, -1)]
    for mean, values in zip(pulls[:2], zip(*norms, strict=True), strict=True):
        expected = (
            math.fsum(s * v for s, v in zip(shares, values, strict=True)) if len(norms) > 1 else values[0]
        )
        assert float(mean) == pytest.approx(expected, rel=1e-12)


def test_a_weight_of_0_hides_the_pull_of_swamp_and_its_mean_stays() -> None:
    zero = _figures(0.0)[0]
    found = after_measurement(_pulls(0.0, 2.0), _figures(4.0)[0], zero, zero)
    assert [float(x) for x in found] == [2.0, 2.0, 0.0]
    assert float(weight_for(found, 0.3, 9.0)) == pytest.approx(0.3)


# -- state -----------------------------------------------------------------------------------------


def _resumed(world: World, place: str, state: dict[str, Tensor]) -> list[list[Tensor]]:
    objective = _objective(_settings("all", place, **BY_RATIO), world, torch.float64)
    objective.load_state(on_main(world, lambda: state))
    return [_step(objective, step, world, torch.float64) for step in range(RESUMED_AT, STEPS)]


def _half() -> dict[str, Tensor]:
    """The state after four steps: measured in steps 2 and 3, next in step 6."""
    objective = _objective(_settings("all", "whole", **BY_RATIO), alone(), torch.float64)
    for step in range(RESUMED_AT):
        _step(objective, step, alone(), torch.float64)
    return objective.state(alone())


def test_a_resume_between_measurements_goes_on_to_the_same_bits() -> None:
    whole = _run(alone(), ("all", "whole"))
    for expected, found in zip(whole[RESUMED_AT:], _resumed(alone(), "whole", _half()), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(expected, found, strict=True))


def test_a_state_from_before_it_was_measured_is_taken_and_another_shape_is_not() -> None:
    objective, state = _objective(_settings("all", "whole"), alone(), torch.float64), _half()
    with pytest.raises(ValueError, match=r"saved ratio of gradients has shape \(2,\)"):
        objective.load_state(state | {"gradient_ratio": torch.zeros(2)})
    del state["gradient_ratio"]
    objective.load_state(state)
    assert objective.effective_ratio is None


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"contrastive": {"weight": 0}, "swamp": {"weight_as": "gradient_ratio"}},
            r"contrastive\.weight = 0: there is no gradient.*set contrastive\.weight: 1",
        ),
        (
            {"swamp": {"weight_as": "gradient_ratio", "measure_every": None}},
            r"measure_every = null.*set measure_every: 10",
        ),
        ({"swamp": {"gradient_ratio": 0.5}}, r"gradient_ratio = 0\.5 with weight_as = literal: it would not"),
    ],
)
def test_settings_that_cannot_count_are_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObjectiveSettings.model_validate(tree)


def test_a_stage_without_swamp_may_keep_the_word_for_its_weight() -> None:
    ObjectiveSettings.model_validate({"swamp": {"weight": 0, "weight_as": "gradient_ratio"}})
