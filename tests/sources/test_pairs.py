"""Pairs in arrays and tables: which rows become an entry, and what is refused before a build starts."""

import os

import numpy as np
import pytest
from pydantic import ValidationError

from swamp_dist.config import PairsSource, ShardSettings, WordsBuildSettings
from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.loading import dump, load
from swamp_dist.prepare.build import build_shards, read_coverage
from swamp_dist.sources.pairs import item_fields, open_splits

COUNT = 12


@pytest.fixture
def files(tmp_path, monkeypatch):
    """a: 12 vectors of 3; b: 24 vectors of 2, two for each, in mixed order; items.csv: what is known of a."""
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.arange(36, dtype=np.float32).reshape(COUNT, 3))
    owner = np.random.default_rng(0).permutation(np.repeat(np.arange(COUNT), 2))
    values = np.stack([owner, np.arange(24)], axis=1).astype(np.float64)
    np.savez("b.npz", values=values, owner=owner, short=owner[:-1], name=np.array([f"i{o}" for o in owner]))
    rows = [
        f"i{i},{'cat' if i % 2 else 'dog'},{'test' if i < 4 else 'train'},v{i // 2}" for i in range(COUNT)
    ]
    (tmp_path / "items.csv").write_text("\n".join(["id,class,split,video", *rows]) + "\n")
    return tmp_path


def items(column: str) -> dict[str, str]:
    return {"file": "items.csv", "column": column}


SIDES = {
    "a": {"file": "a.npy"},
    "b": {"file": "b.npz", "column": "values", "belongs_to": {"column": "owner"}},
}
ALL = {"shares": {"train": 1.0}}


def source(**changes) -> PairsSource:
    return PairsSource.model_validate({**SIDES, "split": items("split"), **changes})


def samples(**changes):
    return {
        name: [split.read(i) for i in range(len(split.keys))]
        for name, split in open_splits(source(**changes)).items()
    }


# -- what becomes of the rows ----------------------------------------------------------------------


def test_several_rows_belong_to_an_entry_in_the_order_of_the_file(files):
    found = samples(label=items("class"), group=items("video"))
    assert {name: [s.key for s in each] for name, each in found.items()} == {
        "test": [f"row{i}" for i in range(4)],
        "train": [f"row{i}" for i in range(4, COUNT)],
    }
    for i, sample in enumerate([*found["test"], *found["train"]]):
        assert sample.fields["a"].tolist() == [3 * i, 3 * i + 1, 3 * i + 2]
        owner, number = sample.fields["b"].T
        assert owner.tolist() == [i, i]
        assert number[0] < number[1]
        assert (sample.label, sample.text) == (i % 2, {"label": "cat" if i % 2 else "dog"})
    assert item_fields(source()) == {"b"}
    assert found["train"][0].fields["b"].dtype == np.float64


def write_splits():
    """a and b per split, b twice for each of a: test has the last 4 rows of the other fixture's files."""
    a, b = np.load("a.npy"), np.load("b.npz")
    for name, rows in (("train", range(8)), ("test", range(8, COUNT))):
        chosen = np.isin(b["owner"], rows)
        np.save(f"{name}_a.npy", a[rows.start : rows.stop])
        np.savez(f"{name}_b.npz", values=b["values"][chosen], owner=b["owner"][chosen] - rows.start)
        lines = [f"{'cat' if i % 3 else 'dog'},v{i // 2}" for i in rows]
        with open(f"{name}.csv", "w") as file:
            file.write("\n".join(["class,video", *lines]) + "\n")


def each(suffix: str) -> dict[str, str]:
    return {name: f"{name}{suffix}" for name in ("train", "test")}


OF_SPLITS = {
    "a": {"files": each("_a.npy")},
    "b": {"files": each("_b.npz"), "column": "values", "belongs_to": {"column": "owner"}},
}


def test_splits_may_be_in_files_of_their_own(files):
    write_splits()
    named = {
        "label": {"files": each(".csv"), "column": "class"},
        "group": {"files": each(".csv"), "column": "video"},
    }
    settings = PairsSource.model_validate(OF_SPLITS | named)
    found = {
        name: [split.read(i) for i in range(len(split.keys))] for name, split in open_splits(settings).items()
    }
    whole = samples(split=None, **ALL)["train"]
    for i, (one, other) in enumerate(zip(found["train"] + found["test"], whole, strict=True)):
        np.testing.assert_array_equal(one.fields["a"], other.fields["a"])
        np.testing.assert_array_equal(one.fields["b"][:, 1], other.fields["b"][:, 1])
        assert (one.label, one.text) == (int(i % 3 > 0), {"label": "cat" if i % 3 else "dog"})
    assert item_fields(settings) == {"b"}
    manifest = build_shards(ShardSettings(name="x", source=settings), files / "set")
    assert {name: len(manifest.split(name)) for name in manifest.splits} == {"train": 8, "test": 4}
    build_shards(ShardSettings(name="x", source=settings), files / "set")
    os.replace("train_a.npy", "other.npy")
    os.replace("test_a.npy", "train_a.npy")
    os.replace("other.npy", "test_a.npy")
    with pytest.raises(UserError, match="--force"):
        build_shards(ShardSettings(name="x", source=settings), files / "set")
    with pytest.raises(UserError, match=r"train.csv, 'class' has 8 rows, source.a \(train_a.npy\) has 4"):
        open_splits(settings)


def test_class_names_of_splits_are_numbered_together_and_groups_do_not_cross(files):
    write_splits()
    (files / "test.csv").write_text("class,video\n" + "fox,v9\n" * 3 + "cat,v3\n")
    label = {"files": each(".csv"), "column": "class"}
    splits = open_splits(PairsSource.model_validate(OF_SPLITS | {"label": label}))
    assert [splits["test"].read(i).label for i in range(4)] == [2, 2, 2, 1]
    with pytest.raises(UserError, match="group 'v3' is in the splits 'train' and 'test'"):
        open_splits(
            PairsSource.model_validate(OF_SPLITS | {"group": {"files": each(".csv"), "column": "video"}})
        )
    (files / "test.csv").write_text("class\n1\n2\n3\n4\n")
    with pytest.raises(UserError, match="classes of split 'train' are names, those of 'test' numbers"):
        open_splits(PairsSource.model_validate(OF_SPLITS | {"label": label}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"a": {}}, "give either file, or files"),
        ({"a": {"file": "a.npy", "files": each("_a.npy")}}, "give either file, or files"),
        ({"a": {"file": "a.npy"}}, "a: expected files with one for each of train, test"),
        ({"a": {"files": {"train": "a.npy"}}}, "b: expected files with one for each of train, as"),
        ({"a": {"files": {"train": "a.npy", "test": "a.npy"}}}, "a.files: one file is in two splits"),
        ({"a": {"files": {"train": "a.txt"}}}, "expected a file that ends in"),
        ({"shares": {"train": 1.0}}, "leave out split, splits and shares"),
        ({"split": {"file": "x.csv", "column": "split"}}, "leave out split, splits and shares"),
        ({"key": {"file": "x.csv", "column": "id"}}, "key: expected files with one for each of train, test"),
        ({"key": {"files": {"test": "x.csv"}, "column": "id"}}, "key: expected files with one for each"),
        ({"key": {"files": each(".csv")}}, "key: train.csv: expected column"),
    ],
)
def test_files_of_splits_fit_together(changes, says):
    with pytest.raises(ValidationError, match=says):
        PairsSource.model_validate(OF_SPLITS | changes)


def test_owners_are_keys_where_there_are_keys_and_the_other_side_may_have_them(files):
    named = {"file": "b.npz", "column": "values", "belongs_to": {"column": "name"}}
    by_row, by_key = samples(), samples(b=named, key=items("id"))
    turned = samples(a=named, b={"file": "a.npy", "field": "image"}, key=items("id"))
    for rows, keys, other in zip(by_row["train"], by_key["train"], turned["train"], strict=True):
        np.testing.assert_array_equal(rows.fields["b"], keys.fields["b"])
        np.testing.assert_array_equal(rows.fields["b"], other.fields["a"])
        np.testing.assert_array_equal(rows.fields["a"], other.fields["image"])
        assert keys.key == other.key == f"v_i{rows.key.removeprefix('row')}"


def test_csv_and_npy_give_the_same_vectors_and_dtype_may_be_chosen(files):
    rows = np.load("a.npy")
    lines = ["f0,id,f1,f2"] + [f"{x[0]},i{i},{x[1]},{x[2]}" for i, x in enumerate(rows)]
    (files / "a.csv").write_text("\n".join(lines))
    table = {"file": "a.csv", "columns": ["f*"], "dtype": "float16"}
    for plain, read in zip(
        samples()["train"], samples(a=table, key={"column": "id"}, b={"file": "a.npy"})["train"], strict=True
    ):
        np.testing.assert_array_equal(plain.fields["a"], read.fields["a"])
        assert read.fields["a"].dtype == np.float16
        assert read.key == plain.key.replace("row", "v_i")


def test_shares_are_drawn_by_group(files):
    found = samples(split=None, group=items("video"), shares={"train": 0.5, "test": 0.5}, seed=3)
    groups = {name: {int(s.key.removeprefix("row")) // 2 for s in each} for name, each in found.items()}
    assert (len(groups["train"]), len(groups["test"])) == (3, 3)
    assert not groups["train"] & groups["test"]


def test_captions_in_a_table_become_words(files):
    captions = [f"{o},{'a dog' if n else ' red '}" for o in range(COUNT) for n in range(2)]
    (files / "captions.csv").write_text("\n".join(["of,caption", *captions]))
    (files / "vectors.txt").write_text("2 2\ndog 1 2\nred 3 4\n")
    b = {"file": "captions.csv", "column": "caption", "belongs_to": {"column": "of"}}
    words = WordsBuildSettings(vectors=files / "vectors.txt", max_words=2)
    manifest = build_shards(ShardSettings(name="said", source=source(b=b), words=words), files / "set")
    assert manifest.record.words is not None
    assert manifest.record.words.fields == ("b",)
    assert manifest.field("b").items
    coverage, _ = read_coverage(files / "set")
    assert coverage is not None
    assert coverage.splits["train"].tally["captions"] == 16
    texts = build_shards(ShardSettings(name="said", source=source(b=b)), files / "texts")
    assert str(texts.field("b")) == "text (items)"
    (entry,) = open_reader(texts, "train", ("b",)).read([0])
    assert entry.arrays["b"].tolist() == ["red", "a dog"]


def test_texts_without_words_are_left_out_by_rule(files):
    texts = ["a dog", "...", *["a cat"] * (COUNT - 2)]
    (files / "captions.csv").write_text("\n".join(["caption", *texts]))
    b = {"file": "captions.csv", "column": "caption"}
    assert open_splits(source(b=b))["test"].read(0).captions == ("a dog",)
    with pytest.raises(
        BadEntry, match=r"row1: captions.csv:3: the caption has no word; source.wordless: keep"
    ):
        open_splits(source(b=b))["test"].read(1)
    assert open_splits(source(b=b, wordless="keep"))["test"].read(1).captions == ("...",)


def test_the_recipe_is_the_same_in_yaml(files):
    (files / "recipe.yaml").write_text(
        "name: mine\nentries_per_shard: 3\nsource:\n  kind: pairs\n  a: {file: a.npy}\n"
        "  b: {file: b.npz, column: values, belongs_to: {column: owner}}\n"
        "  split: {file: items.csv, column: split}\n"
    )
    settings = load(files / "recipe.yaml", ShardSettings)
    assert settings.source == source()
    (files / "copy.yaml").write_text(dump(settings))  # as jobs of a cluster are given it
    assert load(files / "copy.yaml", ShardSettings) == settings


# -- sets and their raw files ----------------------------------------------------------------------


def test_changed_files_are_another_set_and_a_set_can_be_used_without_them(files):
    settings = ShardSettings(name="mine", source=source())
    build_shards(settings, files / "set")
    a = np.load("a.npy")
    np.save("a.npy", a + 1)
    with pytest.raises(UserError, match=r"set of another recipe:\n  source.sha256: found"):
        build_shards(settings, files / "set")
    (files / "a.npy").unlink()
    build_shards(settings, files / "set")
    with pytest.raises(UserError, match=r"source.a: a.npy: no such file; correct its place"):
        build_shards(settings, files / "other")
    np.save("a.npy", a)
    recorded = load_manifest(files / "set").record.source["sha256"]
    build_shards(ShardSettings(name="mine", source=source(sha256=recorded)), files / "again")
    np.save("a.npy", a + 1)
    with pytest.raises(
        UserError, match=r"source.sha256: expected .* for a.npy, b.npz, items.csv; the files have"
    ):
        build_shards(ShardSettings(name="mine", source=source(sha256=recorded)), files / "other")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": {"file": "b.npz", "column": "values"}},
         r"source.a \(a.npy\) has 12 rows, source.b \(b.npz, 'values'\) has 24; .*\n"
         r"If several .* give b.belongs_to; for 2 each, in order, save numpy.arange\(24\) // 2 as an .npy"),
        ({"b": {"file": "b.npz", "column": "values", "belongs_to": {"column": "short"}}},
         r"source.b.belongs_to: b.npz, 'short' has 23 rows, the items have 24, the entries 12"),
        ({"key": items("id")},
         r"b.belongs_to: b.npz, 'owner', row 0: expected a key of source.key, found '\d+'; 24 of 24"),
        ({"label": {"file": "b.npz", "column": "owner"}},
         r"source.label: b.npz, 'owner' has 24 rows, source.a \(a.npy\) has 12"),
        ({"split": items("id"), "group": items("class")}, r"'dog' is in .* 'i0' \(items.csv:2\) and 'i2'"),
        ({"splits": ["train", "test", "validation"]}, "'validation' empty; it holds test 4, train 8"),
        ({"key": items("class")}, r"items.csv:2 and items.csv:4: two entries have the key 'dog'"),
        ({"a": {"file": "flat.npy"}}, r"source.a: flat.npy: expected a vector per row, found one number"),
        ({"a": {"file": "complex.npy"}}, r"source.a: complex.npy: expected numbers of at most 64 bits"),
        ({"a": {"file": "pipe.npy"}}, r"source.a: pipe.npy: it is no file"),
        ({"a": {"file": "items.csv", "column": "id"}, "b": {"file": "items.csv", "column": "class"}},
         "both hold texts"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_anything_is_built(files, changes, message):
    os.mkfifo("pipe.npy")
    np.save("flat.npy", np.zeros(COUNT))
    np.save("complex.npy", np.zeros((COUNT, 2), complex))
    with pytest.raises(UserError, match=message):
        build_shards(ShardSettings(name="mine", source=source(**changes)), files / "set")
    assert not (files / "set").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": None}, "give either split .* or shares"),
        ({"shares": {"train": 1.0}}, "give either split .* or shares"),
        ({"split": None, "shares": {"train": 0.8, "test": 0.1}}, "these add up to 0.9"),
        ({"split": None, "shares": {"train": 1.0}, "splits": ["train"]}, "with shares, leave them out"),
        ({"b": {"file": "a.npy", "field": "a"}}, "a.field and b.field are both 'a'"),
        ({"b": {"file": "b.npy", "field": "../b"}}, "expected a name of at most 64 letters"),
        ({"a": {"file": "a.npy", "belongs_to": {"file": "b.npy"}}}, "give it for one of a and b"),
        ({"a": {"file": "a.npy", "column": "x"}}, "a.npy holds one array: leave out its column"),
        ({"a": {"file": "a.npz"}}, "a.npz: expected column, the name of one of its arrays"),
        ({"a": {"file": "a.csv"}}, "a.csv: expected column, the name of one of its columns"),
        ({"a": {"file": "a.csv", "column": "x", "columns": ["y"]}}, "a.csv: found column and columns"),
        ({"label": {"file": "items.csv"}}, "label: items.csv: expected column"),
        ({"label": {"column": "x"}}, "label: a.npy holds one array"),
        ({"a": {"file": "a.pkl"}}, "that ends in .npy, .npz, .csv, .tsv, .parquet; found 'a.pkl'"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused_as_they_are_read(changes, message):
    with pytest.raises(ValidationError, match=message):
        source(**changes)


def test_values_that_are_not_finite_and_entries_without_items_are_bad_entries(files):
    a = np.load("a.npy")
    a[[5, 6], 1] = np.nan, np.inf
    np.save("a.npy", a)
    owner = np.load("b.npz")["owner"]
    owner[owner == 7] = 8
    np.save("owner.npy", owner)
    b = {**SIDES["b"], "belongs_to": {"file": "owner.npy"}}
    read = open_splits(source(b=b))["train"].read
    with pytest.raises(
        BadEntry, match=r"row5: field 'a', a.npy, row 5: 1 of 3 values are empty, NaN or infinite"
    ):
        read(1)
    with pytest.raises(BadEntry, match=r"row7: no row of b.npz, 'values' belongs to it"):
        read(3)
    settings = ShardSettings(name="mine", source=source(b=b), on_missing="skip", max_missing_share=0.5)
    build_shards(settings, files / "set")
    coverage, _ = read_coverage(files / "set")
    assert coverage is not None
    assert {k: v.count for k, v in coverage.splits["train"].skipped.items()} == {
        "values not finite": 2,
        "no items": 1,
    }


def test_values_too_large_for_float16_are_bad_entries(files):
    np.save("a.npy", np.full((COUNT, 3), 7e4, np.float32))
    read = open_splits(source(a={"file": "a.npy", "dtype": "float16"}))["train"].read
    with pytest.raises(BadEntry, match="3 of 3 values are empty, NaN or infinite in float16"):
        read(0)
