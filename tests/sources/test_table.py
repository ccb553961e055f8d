"""Images and captions in a table: which rows become an entry, and what is refused before a build starts."""

import json

import pytest
from pydantic import ValidationError

from swamp_dist.config import ShardSettings, TableSource, WordsBuildSettings
from swamp_dist.data.reader import open_reader
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.prepare.build import build_shards, read_coverage
from swamp_dist.sources.table import open_splits
from tests.data.image_sets import FORMATS, encode, smooth

COUNT = 6


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six images; the table is elsewhere, so that paths are those below root."""
    monkeypatch.chdir(tmp_path)
    for i in range(COUNT):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{i}.jpg").write_bytes(encode(smooth(i), FORMATS[i % 3]))
    return tmp_path


def source(**changes) -> TableSource:
    return TableSource.model_validate(
        {"file": "t.csv", "root": "pictures", "shares": {"train": 1.0}, **changes}
    )


def write(folder, *rows: str, header: str = "image,caption", name: str = "t.csv") -> None:
    (folder / name).write_text("\n".join([header, *rows]) + "\n")


def read_all(settings):
    split = open_splits(settings)["train"]
    return [split.read(i) for i in range(len(split.keys))]


def test_rows_of_one_image_are_one_entry_with_all_their_captions(folder):
    write(
        folder, '0.jpg,"A cat, red",""', "1.jpg,a dog,two dogs", "./0.jpg,the cat,...", "2.jpg, x ,y",
        header="image,caption,more",
    )  # fmt: skip
    found = read_all(source(captions=["caption", "more"]))
    assert [s.key for s in found] == ["x_0-pjpg", "x_1-pjpg", "x_2-pjpg"]
    assert [s.captions for s in found] == [("A cat, red", "the cat"), ("a dog", "two dogs"), ("x", "y")]
    assert found[1].fields == {"image": (folder / "pictures" / "1.jpg").read_bytes()}
    assert found[1].text == {"image": "1.jpg"}
    kept = read_all(source(captions=["caption", "more"], wordless="refuse"))
    assert kept[0].captions == ("A cat, red", "", "the cat", "...")


def test_csv_tsv_and_jsonl_say_the_same(folder):
    rows = [{"image": f"{i}.jpg", "caption": f"no. {i}", "c": f"k{i % 2}", "id": i} for i in range(COUNT)]
    write(
        folder,
        *("\t".join(str(v) for v in row.values()) for row in rows),
        header="image\tcaption\tc\tid",
        name="t.tsv",
    )
    write(folder, *(",".join(str(v) for v in row.values()) for row in rows), header="image,caption,c,id")
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = {"key": "id", "label": "c"}
    one, *others = (read_all(source(file=f"t.{ending}", **named)) for ending in ("csv", "tsv", "jsonl"))
    assert others == [one, one]
    assert [s.key for s in one] == [f"v_{i}" for i in range(COUNT)]
    assert [s.label for s in one] == [0, 1] * 3


def test_a_jsonl_may_list_captions(folder):
    rows = [
        {"image": "0.jpg", "caption": ["a", None, "b"]},
        {"image": "1.jpg", "caption": []},
        {"image": "2.jpg", "caption": 7},
    ]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = open_splits(source(file="t.jsonl"))["train"]
    assert split.read(0).captions == ("a", "b")
    for number, kind in ((1, "no captions"), (2, "captions malformed")):
        with pytest.raises(BadEntry) as bad:
            split.read(number)
        assert bad.value.kind == kind
    assert split.captions is not None
    assert list(split.captions()) == [("a", "b"), (), ()]


def test_captions_are_stored_as_texts_or_as_word_ids(folder):
    write(folder, *(f"{i}.jpg,a red dog" for i in range(COUNT)))
    texts = build_shards(ShardSettings(name="t", source=source(caption_field="caption")), folder / "texts")
    assert {name: str(spec) for name, spec in texts.record.fields.items()} == {
        "caption": "text (items)",
        "image": "image",
    }
    (entry,) = open_reader(texts, "train", ("caption",)).read([0])
    assert entry.arrays["caption"].tolist() == ["a red dog"]
    (folder / "vectors.txt").write_text("2 2\ndog 1 2\nred 3 4\n")
    words = WordsBuildSettings(vectors=folder / "vectors.txt", max_words=3)
    ids = build_shards(
        ShardSettings(name="t", source=source(caption_field="caption"), words=words), folder / "ids"
    )
    (entry,) = open_reader(ids, "train", ("caption",)).read([0])
    assert sorted(entry.arrays["caption"].tolist()[0]) == [0, 1, 2]


def test_bad_images_and_captions_are_left_out_by_policy(folder):
    write(folder, *(f"{i}.jpg,a dog" for i in range(4)), "4.jpg,...", "absent.jpg,a dog")
    (folder / "pictures" / "1.jpg").write_bytes(b"GIF89a, which is another format")
    whole = (folder / "pictures" / "3.jpg").read_bytes()
    (folder / "pictures" / "3.jpg").write_bytes(whole[:20])
    settings = ShardSettings(name="t", source=source(), on_missing="skip", max_missing_share=0.9)
    build_shards(settings, folder / "set")
    coverage, _ = read_coverage(folder / "set")
    assert coverage is not None
    skipped = coverage.splits["train"].skipped
    assert {"no image", "caption without words", "image of another format"} <= skipped.keys()
    assert sum(kind.count for kind in skipped.values()) == 4
    with pytest.raises(UserError, match="leave such entries out with on_missing=skip"):
        build_shards(ShardSettings(name="t", source=source()), folder / "other")


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (["0.jpg,a", "../t.csv,b"], {}, r"source.image: t.csv:3: expected the path of an image below"),
        (["0.jpg,a,x", "0.jpg,b,y"], {"label": "c"},
         r"source.label: t.csv:2 and t.csv:3 name one image; its 'c' is 'x' and 'y'"),
        (["0.jpg,a,x", "1.jpg,b,x"], {"key": "c"}, r"t.csv:2 and t.csv:3: two entries have the key 'x'"),
        (["0.jpg,a,x", "1.jpg,b,y"], {"captions": ["captions"]}, "no column 'captions'. Did you mean 'cap"),
        ([f"{'a' * 100}.jpg,a,x"], {}, r"letters; .* may have 100.\nLet source.key name shorter ones"),
        (["0.jpg,a,train", "1.jpg,b,tset"], {"split": "c", "shares": {}, "splits": ["train", "test"]},
         r"source.split: t.csv:3: split 'tset' is not among"),
        (["0.jpg,a,x"], {"file": "absent.csv"}, "absent.csv: no such file; correct its place in the recipe"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_anything_is_built(folder, rows, changes, message):
    write(folder, *rows, header="image,caption,c" if rows[0].count(",") == 2 else "image,caption")
    with pytest.raises(UserError, match=message):
        build_shards(ShardSettings(name="t", source=source(**changes)), folder / "set")
    assert not (folder / "set").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "t.txt"}, "expected a file that ends in .csv, .tsv, .jsonl; found 't.txt'"),
        ({"caption_field": "image"}, "image_field and caption_field are both 'image'"),
        ({"shares": {}}, "give either split .* or shares"),
        ({"captions": []}, "at least 1 item"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_as_they_are_read(changes, message):
    with pytest.raises(ValidationError, match=message):
        source(**changes)
