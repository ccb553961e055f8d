"""Normalised scores: against literal loops in float64, and the same integers on any number of ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import DataSettings, EvaluateSettings, NormaliseSettings, StageSettings
from swamp_dist.data.manifest import load_manifest
from swamp_dist.distributed import World, alone
from swamp_dist.errors import UserError
from swamp_dist.evaluate import normalise
from swamp_dist.evaluate.checks import check_evaluation, check_normalise
from swamp_dist.evaluate.embedding import Embedded
from swamp_dist.evaluate.normalise import find_shift
from swamp_dist.evaluate.readers import BankReader, open_bank, open_readers
from swamp_dist.evaluate.results import splits_text
from swamp_dist.evaluate.retrieval import evaluate_embedded, evaluate_split
from swamp_dist.records import EvaluationResult
from tests.evaluate.test_retrieval import unit, write_set
from tests.ranks import run_on_ranks

METHODS: list[dict[str, Any]] = [
    {"method": "qb_norm"},
    {"method": "qb_norm", "beta": 3.0, "nearest": 2},
    {"method": "sinkhorn"},
    {"method": "sinkhorn", "epsilon": 0.3},
]


def _settings(**asked: Any) -> NormaliseSettings:
    return NormaliseSettings.model_validate({"bank": "train"} | asked)


def _rows(count: int, seed: int, dim: int = 6) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, dim, generator=random) + 0.5, dim=1)


def _sides(count: int) -> tuple[Embedded, Embedded, list[Tensor]]:
    """Items a and b, two of a per entry, and a bank of each that takes more than one tile."""
    b = _rows(count, 1)
    a = functional.normalize(b.repeat_interleave(2, dim=0) + 0.8 * _rows(2 * count, 2), dim=1)
    entry, labels = torch.arange(count), torch.arange(count) % 5
    of_a = entry.repeat_interleave(2)
    return Embedded(a, of_a, labels[of_a]), Embedded(b, entry, labels), [_rows(600, 3), _rows(300, 4)]


# -- literal loops ---------------------------------------------------------------------------------


def _inverted_softmax(asked: NormaliseSettings, queries: Tensor, bank: Tensor, gallery: Tensor) -> Tensor:
    """The published definition, query by query: exp(beta s) / sum over the bank for activated queries."""
    s, of_bank = (x.double() @ gallery.double().t() for x in (queries, bank))
    near = {int(j) for row in of_bank for j in row.argsort(descending=True)[: asked.nearest]}
    sums = [sum(math.exp(asked.beta * float(row[j])) for row in of_bank) for j in range(len(gallery))]
    found = []
    for row in s:
        if int(row.argmax()) in near:
            found.append([math.exp(asked.beta * float(x)) / sums[j] for j, x in enumerate(row)])
        else:
            found.append([float(x) for x in row])
    return torch.tensor(found, dtype=torch.float64)


def _by_plan(asked: NormaliseSettings, queries: Tensor, bank: Tensor, gallery: Tensor) -> Tensor:
    """exp(s / epsilon) v with the v of POT's plan between bank and gallery."""
    s, of_bank = ((x.double() @ gallery.double().t()).numpy() for x in (queries, bank))
    weights = [np.full(len(x), 1 / len(x)) for x in (bank, gallery)]
    plan = ot.sinkhorn(*weights, -of_bank, asked.epsilon, method="sinkhorn_log", stopThr=1e-12, log=True)
    log_v = plan[1]["log_v"]
    return torch.from_numpy(s / asked.epsilon + log_v)


def _order(scores: Tensor) -> list[list[int]]:
    return [row.argsort(descending=True).tolist() for row in scores]


@pytest.mark.parametrize("asked", METHODS, ids=str)
def test_items_are_ranked_as_by_literal_loops(asked: dict[str, Any]) -> None:
    chosen, (a, b, banks) = _settings(**asked), _sides(40)
    for queries, gallery, bank in ((a, b, banks[0]), (b, a, banks[1])):
        literal = _inverted_softmax if chosen.method == "qb_norm" else _by_plan
        expected = literal(chosen, queries.rows, bank, gallery.rows)
        shift = find_shift(chosen, bank, gallery.rows, alone())
        assert _order(shift.scores(queries.rows, gallery.rows)) == _order(expected)
        assert _order(expected) != _order(queries.rows.double() @ gallery.rows.double().t())


def test_amounts_are_those_of_the_formula() -> None:
    bank, gallery = _rows(300, 5), _rows(7, 6)
    s = bank.double() @ gallery.double().t()
    found = find_shift(_settings(method="qb_norm", beta=4.0), bank, gallery, alone())
    expected = [math.log(sum(math.exp(4 * float(x)) for x in column)) / 4 for column in s.t()]
    torch.testing.assert_close(found.amounts.double(), torch.tensor(expected).double(), rtol=0, atol=1e-6)
    by_plan = find_shift(_settings(method="sinkhorn", epsilon=0.1), bank, gallery, alone())
    shares = ((s - by_plan.amounts.double()) / 0.1).softmax(dim=1).sum(dim=0) * 7 / 300
    torch.testing.assert_close(shares, torch.ones(7).double(), rtol=0, atol=1e-3)


def test_a_gallery_too_large_for_memory_gets_the_same_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, gallery, asked = _rows(300, 5), _rows(20, 6), _settings(method="sinkhorn")
    whole = find_shift(asked, bank, gallery, alone())
    monkeypatch.setattr(normalise, "_SOLVE_MEMORY", 50 * 4 * 20 * 8)
    torch.testing.assert_close(find_shift(asked, bank, gallery, alone()).amounts, whole.amounts)


def test_a_query_far_from_the_bank_keeps_its_scores() -> None:
    gallery = torch.eye(3)
    bank = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0]])  # nearest to item 0
    queries = torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.6, 0.6, 0.6]])
    scores = find_shift(_settings(method="qb_norm"), bank, gallery, alone()).scores(queries, gallery)
    torch.testing.assert_close(scores[1], queries[1].double())
    assert scores[0, 0] < scores[0, 1]
    assert scores[2, 0] < scores[2, 2], "of equal scores all are nearest, so this query is shifted"
    wider = find_shift(_settings(method="qb_norm", nearest=2), bank, gallery, alone())
    assert wider.near is not None
    assert wider.near.tolist() == [True, True, True], "items 1 and 2 tie for the second place of bank query 0"


@how(deadline=None, max_examples=30)
@given(
    bank=st.integers(1, 12),
    items=st.integers(1, 9),
    beta=st.floats(0.5, 40),
    nearest=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_any_shape_of_the_inverted_softmax(
    bank: int, items: int, beta: float, nearest: int, seed: int
) -> None:
    queries, rows, gallery = _rows(6, seed), _rows(bank, seed + 1), _rows(items, seed + 2)
    asked = _settings(method="qb_norm", beta=beta, nearest=nearest)
    found = find_shift(asked, rows, gallery, alone()).scores(queries, gallery)
    expected = _inverted_softmax(asked, queries, rows, gallery)
    for row, literal in zip(found, expected, strict=True):
        gaps = literal.sort().values.diff() / literal.abs().max()
        if len(gaps) == 0 or float(gaps.min()) > 1e-5:
            assert row.argsort().tolist() == literal.argsort().tolist()


@pytest.mark.parametrize("asked", METHODS[::2], ids=str)
def test_what_is_not_a_number_profits_from_nothing(asked: dict[str, Any]) -> None:
    a, b, banks = _sides(30)
    asked_for = EvaluateSettings.model_validate({"split": "test", "normalise": asked | {"bank": "train"}})
    spoiled = [Embedded(torch.full_like(x.rows, torch.nan), x.entry, x.label) for x in (a, b)]
    for bank in (banks, [torch.full_like(x, torch.nan) for x in banks]):
        found = evaluate_embedded(spoiled[0], spoiled[1], asked_for, "a", "b", alone(), bank)
        assert found.metrics["pair/a_to_b"].r_at_10 == 0
    nothing = [torch.full_like(x, torch.nan) for x in banks]  # near no item, and of no plan
    found = evaluate_embedded(a, b, asked_for, "a", "b", alone(), nothing)
    plain = evaluate_embedded(a, b, EvaluateSettings(split="test"), "a", "b", alone())
    if asked["method"] == "qb_norm":
        assert found.metrics == plain.metrics
    else:
        assert found.metrics["pair/a_to_b"].r_at_10 == 0


# -- evaluations -----------------------------------------------------------------------------------


def _evaluations(world: World) -> list[EvaluationResult]:
    a, b, banks = _sides(120)
    return [
        evaluate_embedded(
            a,
            b,
            EvaluateSettings.model_validate(
                {"split": "test", "relevance": ["pair", "class"], "normalise": asked | {"bank": "train"}}
            ),
            "text",
            "video",
            world,
            banks,
        )
        for asked in METHODS
    ]


@pytest.mark.parametrize("size", [2, 3])
def test_results_are_identical_for_any_world_size(size: int) -> None:
    expected = _evaluations(alone())
    assert len({str(each.metrics) for each in expected}) == len(METHODS)
    for found in run_on_ranks(_evaluations, size):
        assert found == expected


def test_hubs_are_put_back() -> None:
    """An item near every query takes the first place from all others, until a bank tells."""
    hub = functional.normalize(torch.ones(1, 8), dim=1)
    gallery = torch.cat((torch.eye(8)[:7], hub))
    queries = torch.cat((functional.normalize(torch.eye(8)[:7] + 0.5, dim=1), hub))
    bank = functional.normalize(1.2 * torch.eye(8)[:7] + 0.5, dim=1)
    entry = torch.arange(8)
    sides = Embedded(queries, entry, entry), Embedded(gallery, entry, entry)
    plain = evaluate_embedded(*sides, EvaluateSettings(split="test"), "a", "b", alone())
    assert plain.metrics["pair/a_to_b"].r_at_1 == 100 / 8
    for asked in METHODS[::2]:
        tree = {"split": "test", "normalise": asked | {"bank": "train"}}
        settings = EvaluateSettings.model_validate(tree)
        found = evaluate_embedded(*sides, settings, "a", "b", alone(), [bank, bank])
        assert found.metrics["pair/a_to_b"].r_at_1 == 100
        assert found.chance == plain.chance


def _from_shards(world: World, folder: Path) -> EvaluationResult:
    manifest, data = (
        load_manifest(folder),
        DataSettings.model_validate({"shards": folder, "a": "text", "b": "video"}),
    )
    asked = EvaluateSettings.model_validate(
        {"split": "test", "chunk": 8, "normalise": {"method": "qb_norm", "bank": "train", "entries": 2}}
    )
    with (
        open_readers(manifest, asked, data) as readers,
        open_bank(manifest, asked, data) as bank,
        torch.no_grad(),
    ):
        return evaluate_split(unit, unit, manifest, asked, "text", "video", world, readers, bank=bank)


def test_a_bank_is_read_from_its_split(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    expected = _from_shards(alone(), tmp_path / "set")
    assert splits_text(expected) == "test (qb_norm by train)"
    assert run_on_ranks(_from_shards, 2, tmp_path / "set") == [expected] * 2
    manifest, data = (
        load_manifest(tmp_path / "set"),
        DataSettings.model_validate({"shards": tmp_path / "set", "a": "text", "b": "video"}),
    )
    drawn = []
    for seed in range(6):
        asked = EvaluateSettings.model_validate(
            {"split": "test", "normalise": {"method": "qb_norm", "bank": "train", "entries": 2, "seed": seed}}
        )
        with open_bank(manifest, asked, data) as bank:
            assert isinstance(bank, BankReader)
            assert len(bank) == 2
            drawn.append(tuple(bank.chosen.tolist()))
            keys = [entry.key for entry in bank.read([0, 1])]
            assert keys == [f"e{i:03d}" for i in bank.chosen]
    assert len(set(drawn)) > 1
    with open_bank(manifest, EvaluateSettings(split="test"), data) as none:
        assert none is None


def test_a_bank_without_its_setting_is_an_error() -> None:
    a, b, banks = _sides(5)
    with pytest.raises(ValueError, match="scores are normalised where there are banks"):
        evaluate_embedded(a, b, EvaluateSettings(split="test"), "a", "b", alone(), banks)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "others", "said"),
    [
        ({"bank": "test"}, {}, "bank = test, which is evaluated: .* name the training split"),
        ({"bank": "train"}, {"gallery": "photos", "relevance": ["class"]}, "with gallery = photos"),
        ({"bank": "train"}, {"distance": "euclidean"}, "with distance = euclidean"),
        ({"bank": "train", "epsilon": 0.1}, {}, "epsilon = 0.1 with method = qb_norm: it would not count"),
        (
            {"bank": "train", "method": "sinkhorn", "nearest": 3},
            {},
            "nearest = 3 with method = sinkhorn: it would not count",
        ),
        (
            {"bank": "train", "method": "sinkhorn", "epsilon": 5e-4},
            {},
            "epsilon = 0.0005: .* off by 0.00012; expected at least 0.001",
        ),
    ],
)
def test_settings_that_cannot_count(asked: dict[str, Any], others: dict[str, Any], said: str) -> None:
    tree = {"split": "test", "normalise": {"method": "qb_norm"} | asked} | others
    with pytest.raises(ValueError, match=said):
        EvaluateSettings.model_validate(tree)


def test_models_whose_scores_are_no_cosines_are_refused() -> None:
    tree: dict[str, Any] = {
        "name": "x",
        "data": {"shards": "x", "a": "a", "b": "b"},
        "weights": "runs/x",
        "evaluate": [{"split": "test", "normalise": {"method": "sinkhorn", "bank": "train"}}],
    }
    asked = StageSettings.model_validate(tree)
    check_normalise(asked, asked.evaluate[0])
    averaged = StageSettings.model_validate(tree | {"average_with": ["runs/y"]})
    with pytest.raises(UserError, match="scores of 2 models are averaged"):
        check_normalise(averaged, averaged.evaluate[0])
    scored = StageSettings.model_validate(
        tree | {"model": {"sets": {"kind": "cross_attention", "queries": "b"}}}
    )
    with pytest.raises(UserError, match="model.sets = cross_attention: the model scores pairs"):
        check_normalise(scored, scored.evaluate[0])
    check_normalise(scored, EvaluateSettings(split="test"))


def test_a_bank_that_the_set_lacks_is_refused(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set")
    tree = {"split": "test", "normalise": {"method": "qb_norm", "bank": "trian"}}
    with pytest.raises(UserError, match="trian"):
        check_evaluation(manifest, EvaluateSettings.model_validate(tree), "text", "video")
