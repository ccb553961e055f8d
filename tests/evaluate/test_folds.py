"""Blocks of entries: which entries are in which, and the means over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from swamp_dist.config import EvaluateSettings, FoldSettings
from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.writer import write_shards
from swamp_dist.distributed import World, alone
from swamp_dist.errors import UserError
from swamp_dist.evaluate.checks import check_evaluation
from swamp_dist.evaluate.embedding import Embedded
from swamp_dist.evaluate.folds import entry_folds
from swamp_dist.evaluate.results import from_json, metric_value, to_json
from swamp_dist.evaluate.retrieval import evaluate_embedded, evaluate_scored, evaluate_split
from swamp_dist.evaluate.scored import Scored
from swamp_dist.records import EvaluationResult, Sample
from tests.ranks import run_on_ranks

FOLDS = FoldSettings(count=2, entries=6)
SETTINGS = EvaluateSettings(split="test", folds=FOLDS)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """14 entries, written in a shuffled order, with three captions each."""
    folder = tmp_path_factory.mktemp("folds")

    def samples() -> list[Sample]:
        random = np.random.default_rng(0)
        found = []
        for i in range(14):
            x = random.normal(size=4)
            captions = (x + random.normal(size=(3, 4))).astype(np.float32)
            found.append(Sample(f"{i:06d}_x", {"image": x.astype(np.float32), "text": captions}))
        return found

    write_shards(
        {"test": samples()}, folder, "folds", {"kind": "test"}, entries_per_shard=5, shuffle_seed=3,
        item_fields=("text",),
    )  # fmt: skip
    return load_manifest(folder)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def evaluated(world: World, folder: Path, settings: EvaluateSettings) -> EvaluationResult:
    manifest = load_manifest(folder)
    reader = open_reader(manifest, "test", ("image", "text"))
    return evaluate_split(unit, unit, manifest, settings, "image", "text", world, (reader, reader))


def test_entries_are_cut_by_the_order_of_their_keys() -> None:
    assert entry_folds(["c", "a", "e", "b", "d"], FoldSettings(count=2, entries=2)).tolist() == [
        1,
        0,
        -1,
        0,
        1,
    ]


def test_figures_are_the_means_of_blocks_ranked_alone(manifest: Manifest) -> None:
    found = evaluated(alone(), manifest.folder, SETTINGS)
    split = manifest.split("test")
    keys, reader = split.keys(range(14)), open_reader(manifest, "test", ("image", "text"))
    assert keys != sorted(keys)
    singles = []
    for block in (keys_of(range(6)), keys_of(range(6, 12))):
        entries = reader.read([i for i in range(14) if keys[i] in block])
        sides = []
        for field in ("image", "text"):
            arrays = [np.atleast_2d(entry.arrays[field]) for entry in entries]
            owner = torch.arange(6).repeat_interleave(torch.tensor([len(x) for x in arrays]))
            sides.append(Embedded(unit(torch.from_numpy(np.concatenate(arrays))), owner, owner))
        plain = EvaluateSettings(split="test")
        singles.append(evaluate_embedded(sides[0], sides[1], plain, "image", "text", alone()))
    for key, metrics in found.metrics.items():
        assert metrics.folds == 2
        assert metrics.num_items == (18 if key.endswith("a_to_b") else 6)
        for name in ("r_at_1", "r_at_5", "median_rank"):
            values = [getattr(each.metrics[key], name) for each in singles]
            assert getattr(metrics, name) == pytest.approx(sum(values) / 2)
    assert singles[0] != singles[1]
    assert from_json(to_json(found)) == found


def keys_of(rows: range) -> set[str]:
    return {f"{i:06d}_x" for i in rows}


def test_scores_are_cut_alike_and_ranks_change_nothing(manifest: Manifest) -> None:
    expected = evaluated(alone(), manifest.folder, SETTINGS)
    assert run_on_ranks(evaluated, 2, manifest.folder, SETTINGS) == [expected] * 2
    reader, keys = open_reader(manifest, "test", ("image", "text")), manifest.split("test").keys(range(14))
    entries = reader.read(range(14))
    images = unit(torch.from_numpy(np.stack([e.arrays["image"] for e in entries])))
    texts = unit(torch.from_numpy(np.concatenate([e.arrays["text"] for e in entries])))
    own, owners = torch.arange(14), torch.arange(14).repeat_interleave(3)
    sides = Embedded(images, own, own), Embedded(texts, owners, owners)
    scores = (images.double() @ texts.double().t()).float()
    assert evaluate_scored(Scored(scores, *sides, keys), SETTINGS, "image", "text", alone()) == expected


def test_too_few_entries_are_refused_with_the_split_that_has_them(manifest: Manifest) -> None:
    large = SETTINGS.model_copy(update={"folds": FoldSettings(count=5, entries=1000)})
    with pytest.raises(
        UserError, match=r"(?s)need 5,000; split 'test' .* has 14.*takes the 5,000 .* testall"
    ):
        check_evaluation(manifest, large, "image", "text")


def test_rsum_and_the_published_median(manifest: Manifest) -> None:
    found = evaluated(alone(), manifest.folder, EvaluateSettings(split="test"))
    names = [f"pair/{d}/r_at_{k}" for d in ("a_to_b", "b_to_a") for k in (1, 5, 10)]
    total = sum(metric_value(found, name) for name in names)
    assert metric_value(found, "pair/both/rsum") == pytest.approx(total)
    floor = evaluated(alone(), manifest.folder, EvaluateSettings(split="test", median_rank="floor"))
    medians = [(found.metrics[key].median_rank, floor.metrics[key].median_rank) for key in found.metrics]
    assert all(int(exact) == rounded for exact, rounded in medians)
    assert any(exact != rounded for exact, rounded in medians), "no median lies between two ranks"
