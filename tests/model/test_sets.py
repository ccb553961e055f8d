"""What becomes of sets: the equations as literal loops in float64, options, shapes, padding, costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from swamp_dist.config import MeanSettings, ModelSettings, ParSettings
from swamp_dist.model.sets import MeanOfElements, PrototypeAttention, attend, build_sets
from swamp_dist.records import Sets

WIDTH = 6
FORMS: dict[str, dict[str, Any]] = {
    "literal": {},
    "repeat": {"heads": 2},
    "slice": {"heads": 2, "head_form": "slice"},
    "project": {"heads": 2, "head_form": "project"},
    "cosine": {"compare": "cosine"},
    "scaled": {"compare": "scaled_dot", "heads": 3, "head_form": "slice"},
    "values": {"value_projection": True, "heads": 2, "head_form": "project"},
    "every query": {"norm": "query", "heads": 2},
    "normal": {"queries_start": "normal", "temperature": 0.1},
}


def drawn(lengths: list[int], width: int = WIDTH, seed: int = 0) -> Sets:
    """Sets of these lengths, padded with numbers that must not count."""
    torch.manual_seed(seed)
    values = torch.randn(len(lengths), max(lengths), width, dtype=torch.float64)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return Sets(torch.where(mask.unsqueeze(2), values, 1e3), mask)


def network(settings: ParSettings, width: int = WIDTH) -> PrototypeAttention:
    torch.manual_seed(1)
    found = build_sets(settings, width)
    assert isinstance(found, PrototypeAttention)
    return found.double()


def literal(settings: ParSettings, model: PrototypeAttention, sets: Sets) -> Tensor:
    """z_hj = sum_i a_i v_i, a = softmax_i(s(q_hj, x_i) / T), by loops over sets, heads, queries, elements."""
    rows = []
    for values, mask in zip(*sets, strict=True):
        elements, parts = [x for x, there in zip(values, mask, strict=True) if there], []
        for h in range(settings.heads):
            for q in model.queries[h]:
                keys = [_head(settings, model, x, h) for x in elements]
                summed = elements if model.values is None else [model.values.weight @ x for x in elements]
                scores = [_score(settings.compare, q, x) / settings.temperature for x in keys]
                weights = [torch.exp(s) for s in scores]
                total = sum(weights[1:], weights[0])
                z = torch.zeros_like(keys[0])
                for w, v in zip(weights, summed, strict=True):
                    z = z + w / total * _head(settings, model, v, h)
                parts.append(z / z.square().sum().sqrt() if settings.norm == "query" else z)
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def _head(settings: ParSettings, model: PrototypeAttention, x: Tensor, h: int) -> Tensor:
    if settings.head_form == "slice":
        size = len(x) // settings.heads
        return x[h * size : (h + 1) * size]
    if model.heads is None:
        return x
    return model.heads.weight[h * WIDTH : (h + 1) * WIDTH] @ x


def _score(compare: str, q: Tensor, x: Tensor) -> Tensor:
    product = sum((q[d] * x[d] for d in range(1, len(q))), q[0] * x[0])
    if compare == "cosine":
        return product / (q.square().sum() * x.square().sum()).sqrt()
    return product / math.sqrt(len(q)) if compare == "scaled_dot" else product


@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_are_those_of_the_literal_equation(form: str) -> None:
    settings = ParSettings(queries=4, **FORMS[form])
    model, sets = network(settings), drawn([5, 1, 3])
    sets.values.requires_grad_()
    found, expected = model(sets), literal(settings, model, sets)
    assert found.shape == (3, settings.embedding_dim(WIDTH))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    leaves = [sets.values, *model.parameters()]
    pulled = torch.randn_like(found)
    gradients = [
        torch.autograd.grad((rows * pulled).sum(), leaves, retain_graph=True) for rows in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert not gradients[0][0][~sets.mask].any()  # padding has no gradient at all


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 6), st.sampled_from(sorted(FORMS)),
    st.floats(-1e6, 1e6),
)  # fmt: skip
def test_padding_and_batch_mates_never_change_a_number(
    lengths: list[int], more: int, form: str, junk: float
) -> None:
    """Weights of padding are exactly 0: another finite content of it changes no bit. A wider batch and other
    sets beside one may change the order in which a product adds: to 1e-12 in float64."""
    settings = ParSettings(queries=3, **FORMS[form])
    for model in (network(settings), MeanOfElements()):
        sets = drawn(lengths)
        rows = model(sets)
        refilled = Sets(torch.where(sets.mask.unsqueeze(2), sets.values, junk), sets.mask)
        assert torch.equal(model(refilled), rows)
        wide = Sets(
            nn.functional.pad(sets.values, (0, 0, 0, more), value=junk),
            nn.functional.pad(sets.mask, (0, more)),
        )
        torch.testing.assert_close(model(wide), rows, rtol=1e-12, atol=1e-12)
        for i, length in enumerate(lengths):
            alone = model(Sets(sets.values[i : i + 1, :length], sets.mask[i : i + 1, :length]))
            torch.testing.assert_close(alone[0], rows[i], rtol=1e-12, atol=1e-12)


@given(st.permutations(range(5)))
def test_the_order_of_elements_does_not_count(order: list[int]) -> None:
    model, sets = network(ParSettings(queries=3)), drawn([5, 5])
    turned = Sets(sets.values[:, order], sets.mask)
    torch.testing.assert_close(model(turned), model(sets), rtol=1e-12, atol=1e-12)


def test_a_set_without_elements_gives_zeros_and_finite_gradients() -> None:
    sets = drawn([3, 2])
    emptied = Sets(sets.values.requires_grad_(), sets.mask & torch.tensor([[True], [False]]))
    for model in (network(ParSettings(queries=2, norm="query")), MeanOfElements()):
        rows = model(emptied)
        assert not rows[1].any()
        (gradient,) = torch.autograd.grad(rows.square().sum(), [sets.values])
        assert gradient.isfinite().all()


def test_heads_that_repeat_are_more_queries_and_the_mean_is_a_query_of_zeros() -> None:
    two, one = (network(ParSettings(queries=q, heads=h)) for q, h in ((3, 2), (6, 1)))
    with torch.no_grad():
        one.queries.copy_(two.queries.reshape(1, 6, WIDTH))
    sets = drawn([4, 2])
    assert torch.equal(two(sets), one(sets))
    alone = network(ParSettings(queries=1))
    with torch.no_grad():
        alone.queries.zero_()
    torch.testing.assert_close(alone(sets), MeanOfElements()(sets), rtol=1e-12, atol=1e-12)


def test_low_temperature_picks_one_element() -> None:
    sets, model = drawn([5, 3]), network(ParSettings(queries=1, temperature=1e-5))
    best = (sets.values @ model.queries[0, 0]).masked_fill(~sets.mask, -math.inf).argmax(1)
    torch.testing.assert_close(model(sets), sets.values[torch.arange(2), best])


@pytest.mark.parametrize(
    ("start", "deviation"), [("xavier", math.sqrt(2 / (21 * 512))), ("normal", 512**-0.5)]
)
def test_queries_start_as_said(start: Any, deviation: float) -> None:
    queries = network(ParSettings(queries=20, heads=4, queries_start=start), 512).queries.detach()
    assert queries.shape == (4, 20, 512)
    assert float(queries.std()) == pytest.approx(deviation, rel=0.02)
    assert (start == "normal") == bool(queries.abs().max() > deviation * math.sqrt(3))
    induced = nn.init.xavier_uniform_(torch.empty(1, 20, 512))  # as Set Transformer's points
    assert start == "normal" or float(induced.abs().max()) == pytest.approx(
        float(queries.abs().max()), rel=1e-3
    )


def test_the_papers_models_have_20480_values() -> None:
    for queries, heads in ((20, 1), (10, 2)):
        settings = ParSettings(queries=queries, heads=heads)
        assert (settings.embedding_dim(1024), settings.width(20480)) == (20480, 1024)
        assert settings.parameters(1024) == 20480
        assert settings.temperature == 0.5
    assert ParSettings(queries=10, heads=2, head_form="slice").embedding_dim(1024) == 10240


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"embedding_dim": 1000, "sets": {"kind": "par"}}, None),
     ({"embedding_dim": 1024, "sets": {"kind": "par"}},
      r"embedding_dim = 1024: expected a multiple of queries \* heads = 20 \* 1 = 20 .*for example 1020, "
      r"with elements of 51 values"),
     ({"embedding_dim": 60, "sets": {"kind": "par", "queries": 10, "heads": 4, "head_form": "slice"}},
      r"10 \* 4 = 40 .*for example 80, with elements of 8 values"),
     ({"embedding_dim": 7, "sets": {"kind": "mean"}}, None),
     ({"sets": {"kind": "par", "head_form": "slice"}}, "head_form = slice with heads = 1 cuts nothing")],
)  # fmt: skip
def test_lengths_that_do_not_divide_are_refused_with_one_that_does(changes: Any, said: str | None) -> None:
    if said is None:
        ModelSettings.model_validate(changes)
        return
    with pytest.raises(ValidationError, match=said):
        ModelSettings.model_validate(changes)


COSTS: dict[str, ParSettings | MeanSettings] = {
    "mean": MeanSettings(), **{name: ParSettings(queries=4, **form) for name, form in FORMS.items()}
}  # fmt: skip


@pytest.mark.parametrize("form", COSTS)
@pytest.mark.parametrize("elements", [9, 18])
def test_operations_and_parameters_are_exact_and_linear_in_the_elements(form: str, elements: int) -> None:
    settings = COSTS[form]
    model, sets = build_sets(settings, 12), drawn([elements] * 5, 12)
    sets = Sets(sets.values.float().requires_grad_(), sets.mask)
    cost = settings.cost(5, elements, 12)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(sets)
    with FlopCounterMode(display=False) as both:
        model(sets).sum().backward()
    assert forward.get_total_flops() == cost.forward_flops
    assert both.get_total_flops() == cost.flops
    assert sum(p.numel() for p in model.parameters()) == settings.parameters(12)
    assert settings.cost(5, 2 * elements, 12).flops == 2 * cost.flops


def test_the_function_takes_keys_beside_values() -> None:
    keys, values = (torch.randn(2, 3, 1, 4, dtype=torch.float64) for _ in range(2))
    queries, mask = torch.randn(1, 2, 4, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool)
    found = attend(keys, values, mask, queries, 0.7)
    weights = torch.softmax(keys[:, :, 0] @ queries[0].T / 0.7, dim=1)
    torch.testing.assert_close(found[:, 0], weights.transpose(1, 2) @ values[:, :, 0], rtol=1e-12, atol=1e-12)
