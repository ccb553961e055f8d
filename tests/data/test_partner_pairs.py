"""Pairs drawn by class in the stream: the same for any ranks, workers and reading, and from any step on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from swamp_dist.config import BlendedSet, ClipSettings, DataSettings, PartnerSettings, StageSettings
from swamp_dist.data.blend import one_set
from swamp_dist.data.class_vectors import with_vectors, write_class_names, write_class_vectors
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.loading_memory import kept_of
from swamp_dist.data.manifest import ClassVectorsRecord, Manifest, load_manifest
from swamp_dist.data.partner_checks import partner_problems
from swamp_dist.data.stream import open_stream
from swamp_dist.train.fingerprint import check_fingerprint, default_marks, fingerprint
from tests.data.partner_sets import picture, write_couples

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a hint about few cores
UNIFORM = {"split": "train_photos", "negatives": "uniform"}


def settings_of(manifest, **changes) -> DataSettings:
    values = {
        "shards": manifest.folder,
        "a": "id",
        "b": "id",
        "entries": 8,
        "workers": 0,
        "partners": UNIFORM,
    }
    return DataSettings.model_validate(values | changes)


def batches(manifest, first=0, last=7, world=1, rank=0, pairs=1, seed=3, **changes):
    data = settings_of(manifest, **changes)
    plan = plan_batches(data.entries, pairs, 4, world, len(manifest.split("train")))
    stream = open_stream(manifest, "train", data, plan, seed=seed, rank=rank)
    found = list(stream.batches(first, last))
    stream.close()
    return found


def content(found):
    return [(x.ids, x.a, x.b, x.labels, x.negatives, x.negative_labels) for x in found]


def assert_same(one, other):
    for mine, theirs in zip(content(one), content(other), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def test_pairs_share_a_class_and_negatives_do_not(tmp_path):
    manifest, drawn = write_couples(tmp_path / "set"), set()
    for batch in batches(manifest, last=30, pairs=2):
        assert torch.equal(batch.a[:, 1], batch.labels.float())
        assert torch.equal(batch.b[:, 1], batch.labels.float())
        assert torch.equal(batch.negatives[:, 1], batch.negative_labels.float())
        assert (batch.negative_labels != batch.labels).all()
        assert torch.equal(batch.items, batch.ids)  # a queue knows an item by its anchor
        drawn |= {(int(n), "b") for n in batch.b[:, 0]} | {(int(n), "neg") for n in batch.negatives[:, 0]}
    assert drawn == {(n, side) for n in range(36) for side in ("b", "neg")}  # all photos, in time


def test_anchors_come_in_the_order_of_their_split_alone(tmp_path):
    manifest = write_couples(tmp_path / "set")
    without = batches(manifest, partners=None)
    for alone, paired in zip(without, batches(manifest), strict=True):
        assert torch.equal(alone.ids, paired.ids)
        assert torch.equal(alone.a, paired.a)
    quiet = batches(manifest, partners={"split": "train_photos"})
    for batch, other in zip(quiet, batches(manifest), strict=True):
        assert torch.equal(batch.b, other.b)  # negatives move no partner
        assert batch.negatives is None
        assert batch.negative_labels is None


@pytest.mark.parametrize("make", ["vector", "picture"])
def test_draws_do_not_depend_on_ranks_workers_cache_or_the_first_step(tmp_path, make):
    if make == "vector":
        manifest, how = write_couples(tmp_path / "set"), {}
    else:
        manifest = write_couples(tmp_path / "set", make=picture)
        how = {"a": "image", "b": "image", "images": {"size": 8, "flip": 0.5}}  # cut and mirrored at random
    whole = batches(manifest, pairs=2, **how)
    assert_same(batches(manifest, first=4, pairs=2, **how), whole[4:])
    assert_same(batches(manifest, pairs=2, workers=2, **how), whole)
    assert_same(batches(manifest, pairs=2, cache="memory", **how), whole)
    halves = [batches(manifest, world=2, rank=r, pairs=2, **how) for r in (0, 1)]
    joined = zip(*(content(half) for half in halves), strict=True)
    for both, one in zip(joined, content(whole), strict=True):
        assert all(torch.equal(torch.cat(x), y) for x, y in zip(zip(*both, strict=True), one, strict=True))
    again = batches(manifest, first=6, last=12, pairs=2, **how)
    assert not all(torch.equal(x.b, y.b) for x, y in zip(again, whole, strict=False))  # another epoch


def test_memory_of_both_splits_is_counted(tmp_path):
    manifest = write_couples(tmp_path / "set")
    plan, blend = plan_batches(8, 1, 4, 1, 24), one_set(manifest, "train")
    kept = list(kept_of(blend, settings_of(manifest, cache="memory"), plan))
    sizes = [manifest.split(name).bytes for name in ("train", "train_photos")]
    assert [(each.name, each.bytes) for each in kept] == [
        ("split train", sizes[0]),
        ("split train_photos", sizes[1]),
    ]
    assert list(kept_of(blend, settings_of(manifest), plan)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reading": "stream"}, "reading = stream cannot serve"),
        ({"clips": ClipSettings()}, "partners and clips are both given"),
        ({"blend": {"x": BlendedSet(shards="set", share=1.0)}}, "partners and blend are both given"),
        ({"partners": {"split": "train"}}, "would be its own partner"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, said):
    values = {"shards": "set", "a": "image", "b": "image", "partners": UNIFORM}
    with pytest.raises(ValidationError, match=said):
        DataSettings.model_validate(values | changes)


def test_problems_are_told_from_the_manifest(tmp_path):
    manifest = write_couples(tmp_path / "set", train=(0, 1, 2), tests=(4, 5, 6))

    def problems(split, train_split="train", tested=(), **changes):
        partners = PartnerSettings(split=split, **changes)
        data = settings_of(manifest, train_split=train_split).model_copy(update={"partners": partners})
        return list(partner_problems(data, manifest, tested))

    assert problems("train_photos", tested=("test", "test_photos")) == []
    assert "evaluate reports on this split" in problems("train_photos", tested=("train_photos",))[0]
    assert "no split 'photos'" in problems("photos")[0]
    (absent,) = problems("test_photos", train_split="train")
    assert "3 of 3 classes of split 'train'" in absent
    assert "class 0 with 6 entries, class 1 with 6 entries" in absent
    (nameless,) = problems("train_photos", negatives="near")
    assert "takes vectors of the classes' names" in nameless


def with_names(manifest: Manifest, rows: np.ndarray) -> Manifest:
    """The set with names of its classes and these vectors of them."""
    names = write_class_names(manifest.folder, [f"name{i}" for i in range(len(rows))])
    file, digest, dim = write_class_vectors(manifest.folder, rows.astype(np.float32))
    made = {"kind": "rows", "source_sha256": "s", "unit": False, "words": {}}
    vectors = ClassVectorsRecord(file=file, sha256=digest, dim=dim, **made)
    record = manifest.record.model_copy(update={"class_names": with_vectors(names, vectors)})
    return Manifest(manifest.folder, record)


def test_near_negatives_come_from_the_class_whose_name_is_near(tmp_path):
    rows = np.array([[0.0], [1.0], [50.0], [53.0], [1.1], [52.0], [7.0]])  # 4 to 6 are no classes of training
    manifest = with_names(write_couples(tmp_path / "set"), rows)
    near = {"split": "train_photos", "negatives": "near"}
    assert list(partner_problems(settings_of(manifest, partners=near), manifest, ())) == []
    for batch, other in zip(batches(manifest, partners=near, last=6), batches(manifest, last=6), strict=True):
        nearest = torch.tensor([1, 0, 3, 2])[batch.labels]
        assert torch.equal(batch.negative_labels, nearest)
        assert torch.equal(batch.negatives[:, 1], nearest.float())
        assert torch.equal(batch.b, other.b)
    (absent,) = partner_problems(settings_of(manifest, train_split="test", partners=near), manifest, ())
    assert "'name4' (class 4) with 6 entries" in absent


def test_one_class_and_entries_without_class_are_refused(tmp_path):
    lonely = write_couples(tmp_path / "one", train=(1,))
    (one,) = partner_problems(settings_of(lonely), lonely, ())
    assert "has one class alone" in one
    assert list(partner_problems(settings_of(lonely, partners={"split": "train_photos"}), lonely, ())) == []
    without = write_couples(tmp_path / "none", train=(0, -1))
    told = list(partner_problems(settings_of(without), without, ()))
    assert "6 of 12 entries of split 'train'" in told[0]
    assert "9 of 18 entries of split 'train_photos'" in told[1]


def test_only_what_is_drawn_marks_a_training():
    def marks(partners):
        values = {"shards": "set", "partners": partners}
        values = {"name": "x", "data": values, "model": {"embedding_dim": 4}, "train": {"epochs": 1}}
        settings = StageSettings.model_validate(values)
        return settings, fingerprint(settings, "hash")

    settings, plain = marks(None)
    old = {key: value for key, value in plain.items() if not key.startswith("data.partners")}
    check_fingerprint(old, plain, default_marks(settings))  # of before there were partners
    _, drawn = marks(UNIFORM)
    _, named = marks(UNIFORM | {"names": {"a": "sketch", "b": "photo"}})
    assert drawn == named
    assert {key for key in drawn if "partners" in key} == {
        "data.partners.split",
        "data.partners.negatives",
        "data.partners.negative_temperature",
    }
    assert drawn != plain


def test_a_set_of_pictures_has_both_kinds(tmp_path):
    manifest = write_couples(tmp_path / "set", make=picture)
    assert load_manifest(manifest.folder).field("image").kind == "image"
    found = batches(manifest, a="image", b="image", images={"size": 8}, last=1)[0]
    assert found.a.shape == found.b.shape == found.negatives.shape == (8, 3, 8, 8)
    assert replace(found, negatives=None).negatives is None
    assert np.unique(found.labels).size > 1
