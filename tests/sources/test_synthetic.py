from pathlib import Path

import numpy as np
import pytest

from swamp_dist.config import ShardSettings, SyntheticSource
from swamp_dist.errors import UserError
from swamp_dist.loading import load
from swamp_dist.prepare.build import build_shards
from swamp_dist.sources.synthetic import choose_splits, generate, item_fields, samples

SHARDS = Path(__file__).parents[2] / "shards"


def _settings(**changes):
    splits = {"train": {"classes": [0, 6], "per_class": 30}, "test": {"classes": [2, 8], "total": 70}}
    return SyntheticSource.model_validate({"classes": 8, "per_class": 50, "splits": splits} | changes)


def _rows(made, field):
    return np.stack([sample.fields[field] for sample in made])


def test_splits_have_their_size_and_classes_and_share_no_pair():
    made = samples(_settings())
    assert {name: len(split) for name, split in made.items()} == {"train": 180, "test": 70}
    labels = np.array([sample.label for sample in made["train"]])
    assert np.bincount(labels).tolist() == [30] * 6
    assert {sample.label for sample in made["test"]} == set(range(2, 8))
    keys = [sample.key for split in made.values() for sample in split]
    assert len(set(keys)) == 250


def test_the_seed_decides_everything():
    one, same, other = (samples(_settings(seed=seed))["train"] for seed in (0, 0, 1))
    assert np.array_equal(_rows(one, "a"), _rows(same, "a"))
    assert [s.key for s in one] == [s.key for s in same]
    assert [s.key for s in one] != [s.key for s in other]
    assert not np.allclose(_rows(one, "b"), _rows(other, "b"))


def test_another_split_does_not_move_the_data():
    settings = _settings()
    fewer = settings.model_copy(update={"splits": {"train": settings.splits["train"]}})
    assert np.array_equal(generate(settings).a, generate(fewer).a)
    assert choose_splits(settings)["train"].tolist() == choose_splits(fewer)["train"].tolist()


def test_every_dimension_is_standardised_with_the_statistics_of_one_split():
    made = samples(_settings())
    train, test = _rows(made["train"], "a"), _rows(made["test"], "a")
    assert (train.dtype, train.shape) == (np.float32, (180, 100))
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-6)
    assert np.abs(test.mean(0)).max() > 0.1
    raw = samples(_settings(standardize=False))
    assert np.abs(_rows(raw["train"], "a").std(0) - 1).max() > 0.5


def test_the_map_is_the_network_the_settings_describe():
    """With zero hidden layers and one class x is linear in z; tanh bounds what relu does not."""
    linear = _settings(hidden=[], latent_dim=5, standardize=False)
    assert np.linalg.matrix_rank(generate(linear).a, tol=1e-8) == 5
    assert np.linalg.matrix_rank(generate(_settings(standardize=False)).a, tol=1e-8) > 40
    tanh, relu = (generate(_settings(activation=kind, class_scale=1000)) for kind in ("tanh", "relu"))
    assert np.abs(tanh.a).max() < 20
    assert np.abs(relu.a).max() > 200


def test_he_normal_keeps_the_scale_that_torch_default_shrinks():
    he, default = (
        generate(_settings(activation="relu", init=init)).a.std() for init in ("he_normal", "torch_default")
    )
    assert he > 4 * default


def test_scales_of_classes_and_noise_are_those_of_the_latent_variable():
    """Through a linear map: variance between classes against within is (class_scale / noise_scale)^2."""
    settings = _settings(
        hidden=[],
        classes=400,
        per_class=20,
        standardize=False,
        splits={"train": {"classes": [0, 400], "total": 9}},
    )
    pairs = generate(settings)
    groups = pairs.a.reshape(400, 20, -1)
    within = groups.var(axis=1, ddof=1).mean(0)
    between = groups.mean(1).var(axis=0, ddof=1) - within / 20
    np.testing.assert_allclose(between / within, (2 / 1.3) ** 2, rtol=0.3)


def test_both_modalities_come_from_one_latent_variable():
    settings = _settings(hidden=[], standardize=False)
    pairs = generate(settings)
    assert np.linalg.matrix_rank(np.hstack([pairs.a, pairs.b]), tol=1e-8) == 5
    assert not np.allclose(pairs.a, pairs.b)


def test_several_items_are_noisy_copies():
    settings = _settings(items_per_entry=[4, 1], item_noise=0.05)
    assert item_fields(settings) == {"a"}
    plain, copies = samples(_settings())["test"], samples(settings)["test"]
    a = _rows(copies, "a")
    assert a.shape == (70, 4, 100)
    noise = a - _rows(plain, "a")[:, None]
    assert noise.std() == pytest.approx(0.05, rel=0.05)
    assert np.abs(noise.mean(axis=(1, 2))).max() < 0.02
    assert not np.allclose(a[:, 0], a[:, 1])
    assert np.array_equal(_rows(copies, "b"), _rows(plain, "b"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fit_on": "trian"}, "Did you mean 'train'"),
        (
            {"splits": {"train": {"classes": [0, 9], "total": 3}}},
            r"\[0, 9\]: expected a range within \[0, 8\]",
        ),
        ({"splits": {"train": {"classes": [0, 8]}}}, "either per_class or total"),
        ({"splits": {"train": {"classes": [0, 8], "total": 3, "per_class": 3}}}, "either per_class or total"),
        ({"splits": {"train": {"classes": [0, 2], "total": 101}}}, "asks for 101 pairs, but 100 are left"),
        (
            {"splits": {"train": {"classes": [0, 2], "per_class": 51}}},
            "asks for 51 pairs per class, but 50 are left",
        ),
    ],
)
def test_impossible_splits_are_refused_by_name(changes, words):
    with pytest.raises(UserError, match=words):
        samples(_settings(**changes))


def test_the_smoke_recipe_finetunes_on_classes_that_pretraining_has_not_seen(tmp_path):
    settings = load(SHARDS / "synthetic.yaml", ShardSettings, [])
    manifest = build_shards(settings, tmp_path / "set")
    classes = {name: set(manifest.split(name).labels.tolist()) for name in manifest.splits}
    assert classes["pretrain"] == classes["pretrain_validation"] == set(range(16))
    assert classes["finetune"] == classes["finetune_validation"] == classes["test"] == set(range(16, 20))
    sizes = {name: len(manifest.split(name)) for name in manifest.splits}
    assert (sizes["finetune"], sizes["test"]) == (100, 500)
    assert build_shards(settings, tmp_path / "set").hash == manifest.hash
    with pytest.raises(UserError, match=r"source\.seed: found 0, wanted 1"):
        build_shards(load(SHARDS / "synthetic.yaml", ShardSettings, ["source.seed=1"]), tmp_path / "set")


def test_the_recipe_of_table_13_is_the_papers_split():
    source = load(SHARDS / "table13.yaml", ShardSettings, []).source
    assert isinstance(source, SyntheticSource)
    chosen = choose_splits(source)
    assert {name: len(rows) for name, rows in chosen.items()} == {
        "train": 7000,
        "validation": 1000,
        "test": 2000,
    }
    assert sorted(np.concatenate(list(chosen.values())).tolist()) == list(range(10000))
    per_class = np.bincount(chosen["train"] // 500)
    assert per_class.std() > 3  # at random over all pairs, not the same number of every class
