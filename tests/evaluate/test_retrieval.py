"""Whole evaluations: both directions, several captions an entry, classes, any world size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from swamp_dist.config import EvaluateSettings
from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.writer import write_shards
from swamp_dist.distributed import World, alone
from swamp_dist.errors import UserError
from swamp_dist.evaluate import retrieval
from swamp_dist.evaluate.embedding import Embedded
from swamp_dist.evaluate.results import promised_metrics
from swamp_dist.evaluate.retrieval import check_evaluation, evaluate_embedded, evaluate_split
from swamp_dist.records import EvaluationResult, Sample
from tests.evaluate.test_ranking import naive_average_precision, naive_order
from tests.ranks import run_on_ranks

BOTH = EvaluateSettings(split="test", relevance=("pair", "class"), precision_at=(1, 10), hit_at=(1, 11))


def random_sides(num_entries: int, several: bool, levels: int | None = None) -> tuple[Embedded, Embedded]:
    """Two noisy views of common vectors; up to three items of A an entry; `levels` rounds, so scores tie."""
    generator = torch.Generator().manual_seed(num_entries)
    common = torch.randn(num_entries, 6, generator=generator)
    labels = torch.arange(num_entries) * 7 % 5
    sides = []
    for counts in (torch.arange(num_entries) % 3 + 1 if several else torch.ones(num_entries).long(), None):
        entry = torch.arange(num_entries).repeat_interleave(
            torch.ones_like(labels) if counts is None else counts
        )
        rows = common[entry] + torch.randn(len(entry), 6, generator=generator)
        rows = (
            torch.nn.functional.normalize(rows, dim=1) if levels is None else (rows * levels).round() / levels
        )
        sides.append(Embedded(rows, entry, labels[entry]))
    return sides[0], sides[1]


def naive_ranks(query: Embedded, gallery: Embedded, relevance: str) -> tuple[list[int], list[float]]:
    scores = (query.rows.double() @ gallery.rows.double().T).float()
    group, other = (x.entry if relevance == "pair" else x.label for x in (query, gallery))
    orders = [naive_order(s.tolist(), (other == g).tolist()) for s, g in zip(scores, group, strict=True)]
    return [o.index(True) + 1 for o in orders], [naive_average_precision(o, len(o)) for o in orders]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("levels", [None, 1])
def test_both_directions_equal_a_naive_full_sort(several: bool, levels: int | None) -> None:
    a, b = random_sides(140, several, levels)
    result = evaluate_embedded(a, b, BOTH, "text", "video", alone())
    for relevance in ("pair", "class"):
        for key, query, gallery in (("a_to_b", a, b), ("b_to_a", b, a)):
            found = result.metrics[f"{relevance}/{key}"]
            ranks, precisions = naive_ranks(query, gallery, relevance)
            recalls = [100 * np.mean(np.array(ranks) <= k) for k in (1, 5, 10)]
            assert [found.r_at_1, found.r_at_5, found.r_at_10] == pytest.approx(recalls)
            assert found.median_rank == np.median(ranks)
            assert (found.num_queries, found.num_items) == (len(query.entry), len(gallery.entry))
            if relevance == "class":
                assert found.map == pytest.approx(100 * np.mean(precisions))
            else:
                assert found.map is None
    assert result.metrics["pair/a_to_b"].direction == "text->video"
    assert result.metrics["class/b_to_a"].direction == "video->text"


WORLD_CASES = [(n, several) for n in (1, 2, 37, 300) for several in (False, True)]


def _evaluate_cases(world: World) -> list[EvaluationResult]:
    return [evaluate_embedded(*random_sides(*case), BOTH, "a", "b", world) for case in WORLD_CASES]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_results_are_identical_for_any_world_size_and_on_every_rank(size: int) -> None:
    expected = _evaluate_cases(alone())
    for found in run_on_ranks(_evaluate_cases, size):
        assert found == expected


def test_one_item_sets_are_perfect_and_equal_to_chance() -> None:
    result = evaluate_embedded(*random_sides(1, False), BOTH, "a", "b", alone())
    assert result.metrics == result.chance
    assert result.metrics["pair/a_to_b"].r_at_1 == 100


def test_a_collapsed_model_is_no_better_than_chance_in_any_figure() -> None:
    a, b = random_sides(90, True)
    flat = [Embedded(torch.full_like(x.rows, 0.5), x.entry, x.label) for x in (a, b)]
    result = evaluate_embedded(flat[0], flat[1], BOTH, "a", "b", alone())
    for name in promised_metrics(BOTH):
        found, by_chance = retrieval.metric_value(result, name), retrieval.chance_value(result, name)
        assert not retrieval.better(name, found, by_chance), name


def test_miech_ties_let_a_collapsed_model_score_chance_and_refuse_what_has_no_diagonal() -> None:
    settings = EvaluateSettings(split="test", ties="miech")
    a, b = random_sides(40, False)
    flat = Embedded(torch.ones_like(a.rows), a.entry, a.label)
    result = evaluate_embedded(flat, flat, settings, "a", "b", alone())
    assert result.metrics["pair/a_to_b"].r_at_1 == pytest.approx(100 / 40)
    several, single = random_sides(40, True)
    with pytest.raises(UserError, match="one item per entry.*'text' has several"):
        evaluate_embedded(several, single, settings, "text", "video", alone())
    with pytest.raises(UserError, match="pair relevance only"):
        evaluate_embedded(a, b, settings.model_copy(update={"relevance": ("class",)}), "a", "b", alone())


def test_cut_offs_without_classes_are_refused() -> None:
    settings = EvaluateSettings(split="test", precision_at=(5,))
    with pytest.raises(UserError, match="needs class relevance"):
        evaluate_embedded(*random_sides(4, False), settings, "a", "b", alone())


def write_set(folder: Path, labelled: bool = True) -> Manifest:
    """Captions (one to three an entry, float16) beside one vector each, in three shards and one."""
    rng = np.random.default_rng(0)

    def sample(i: int) -> Sample:
        video = rng.standard_normal(5).astype(np.float32)
        text = (video + rng.standard_normal((i % 3 + 1, 5))).astype(np.float16)
        return Sample(f"e{i:03d}", {"text": text, "video": video}, i % 4 if labelled else -1)

    splits = {"train": [sample(i) for i in range(3)], "test": [sample(i) for i in range(3, 42)]}
    return write_shards(splits, folder, "demo", {}, entries_per_shard=13, item_fields=("text",))


def unit(rows: Tensor) -> Tensor:
    assert rows.dtype == torch.float32
    assert rows.shape == (8, 5)
    return torch.nn.functional.normalize(rows, dim=1)


REAL = EvaluateSettings(split="test", relevance=("pair", "class"), precision_at=(5,), chunk=8)


def _evaluate_set(world: World, folder: Path) -> list[EvaluationResult]:
    manifest = load_manifest(folder)
    with torch.inference_mode():
        return [
            evaluate_split(
                unit,
                unit,
                manifest,
                REAL,
                "text",
                "video",
                world,
                (open_reader(manifest, "test", ("text", "video"), reading, cache),) * 2,
            )  # fmt: skip
            for cache in ("none", "memory")
            for reading in ("seek", "stream")
        ]


def test_shards_are_evaluated_alike_by_any_world_size_and_way_of_reading(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set")
    entries = open_reader(manifest, "test", ("text", "video")).read(range(39))
    label = torch.tensor([e.label for e in entries])
    owner = torch.arange(39).repeat_interleave(torch.tensor([len(e.arrays["text"]) for e in entries]))
    text = torch.from_numpy(np.concatenate([e.arrays["text"] for e in entries])).float()
    video = torch.from_numpy(np.stack([e.arrays["video"] for e in entries]))
    sides = [Embedded(torch.nn.functional.normalize(x, dim=1), o, label[o])
             for x, o in ((text, owner), (video, torch.arange(39)))]  # fmt: skip
    expected = evaluate_embedded(sides[0], sides[1], REAL, "text", "video", alone())
    assert expected.metrics["pair/a_to_b"].num_queries == len(owner) == 78
    assert _evaluate_set(alone(), tmp_path / "set") == [expected] * 4
    assert run_on_ranks(_evaluate_set, 3, tmp_path / "set") == [[expected] * 4] * 3


@pytest.mark.parametrize(
    ("settings", "field", "message"),
    [
        (REAL, "text", "39 of 39 entries of split 'test'.* have no class"),
        (EvaluateSettings(split="tset"), "text", "Did you mean 'test'"),
        (EvaluateSettings(split="test"), "txt", "Did you mean 'text'"),
        (EvaluateSettings(split="test", precision_at=(3,)), "text", "needs class relevance"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_from_the_manifest_alone(
    tmp_path: Path, settings: EvaluateSettings, field: str, message: str
) -> None:
    manifest = write_set(tmp_path / "set", labelled=False)
    with pytest.raises(UserError, match=message):
        check_evaluation(manifest, settings, field, "video")
