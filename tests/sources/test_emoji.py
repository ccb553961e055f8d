"""Emoji with five texts: small packages in the published layout, made where they would be unpacked."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swamp_dist.config import EmojiSource
from swamp_dist.errors import UserError
from swamp_dist.sources import emoji, emoji_pictures
from swamp_dist.sources.emoji import Concept, Picture, code_of, five_captions, group
from swamp_dist.sources.packages import MARKER, Package

SURFERS = ("🏄", "🏄‍♀️", "🏄‍♂️")
FRUIT = "🍎🍐🍊🍋🍌🍉🍇🍓🍒🍑"


def put(package: Package, downloads: Path, files: Mapping[str, object]) -> None:
    folder = downloads / package.folder
    for name, content in files.items():
        path = folder / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (folder / MARKER).write_text(json.dumps({"archive_sha256": package.sha256}))


def entry(
    character: str, label: str, tags: list[str], number: int = 0, subgroup: int = 3
) -> dict[str, object]:
    return {"label": label, "emoji": character, "group": number, "subgroup": subgroup, "tags": tags}


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Ten fruits, three surfers, a flag, and an emoji with too few words; two artists."""
    tags = ["one", "two", "three", "four", "five"]
    entries = [entry(each, f"fruit {each.encode().hex()}x", tags) for each in FRUIT]
    entries += [
        entry(each, name, tags, 1, 7)
        for each, name in zip(SURFERS, ("person surfing", "woman surfing", "man surfing"), strict=True)
    ]
    entries += [
        entry("🏴", "flag: black", tags, 2),
        entry("🧱", "brick", ["one"]),
        {"label": "A", "emoji": "🇦"},
    ]
    characters = [*FRUIT, *SURFERS, "🏴", "🧱"]
    names = {
        "en/data.json": entries,
        "meta/groups.json": {"groups": {"0": "food", "1": "people", "2": "flags"}},
    }
    put(emoji.NAMES, tmp_path, names)
    put(emoji.KEYWORDS, tmp_path, {"dist/emoji-en-US.json": {each: ["a_word", ":D"] for each in FRUIT}})
    put(emoji.OTHER_NAMES, tmp_path, {"data-by-emoji.json": {each: {"name": "fruit"} for each in FRUIT}})
    for number, artist in enumerate(("noto", "emojione")):
        icons = {f"icon{i}": {"body": body(i, number)} for i in range(len(characters))}
        codes = {code_of(each): f"icon{i}" for i, each in enumerate(characters)}
        put(
            emoji_pictures.ARTISTS[artist],
            tmp_path,
            {
                "icons.json": {"icons": icons, "width": 40, "height": 20},
                "chars.json": {} if artist == "emojione" else codes,
            },
        )
    return tmp_path


def body(number: int, artist: int) -> str:
    """A bar of its own for each emoji: across for one artist, along for the other."""
    at = 2 * number
    across = f'x="{at}" y="0" width="2" height="20"'
    along = f'x="{at}" y="5" width="2" height="5"'
    return f'<rect {along if artist else across} fill="#ff0000"/>'


def settings(downloads: Path, **options: object) -> EmojiSource:
    chosen = {"artists": ("noto", "emojione"), "size": 64, "test_items": 3, "validation_items": 2, **options}
    return EmojiSource(download=downloads, **chosen)


def test_an_entry_is_one_picture_of_one_artist_with_five_texts(downloads: Path) -> None:
    pytest.importorskip("resvg_py")
    splits = emoji.open_splits(settings(downloads))
    samples = {
        each.key: each for split in splits.values() for each in map(split.read, range(len(split.keys)))
    }
    apple = samples.get("noto-1f34e") or samples["emojione-1f34e"]
    name = f"fruit {'🍎'.encode().hex()}x"
    assert apple.captions == (name, "fruit, three", "a word, four", "one, five", "two")
    assert apple.label == 3
    picture = apple.fields["image"]
    assert isinstance(picture, bytes)
    drawn = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    assert drawn.shape == (64, 64, 3)
    assert (drawn[:15] == 255).all(), "an icon twice as wide as high stands in the middle"
    assert (drawn[16:48] != 255).any()
    assert not [key for key in samples if "1f3f4" in key or "1f9f1" in key], "flags; fewer than five texts"
    train = splits["train"]
    assert train.captions is not None
    assert [tuple(each) for each in train.captions()] == [samples[key].captions for key in train.keys]


def test_twins_are_in_one_split_and_held_out_splits_have_one_picture_of_each(downloads: Path) -> None:
    pytest.importorskip("resvg_py")
    for seed in range(4):
        splits = emoji.open_splits(settings(downloads, seed=seed))
        shown = {
            name: ["surfing" if "1f3c4" in key else key.partition("-")[2] for key in split.keys]
            for name, split in splits.items()
        }
        assert [len(shown[name]) for name in ("validation", "test")] == [2, 3]
        assert len(set(shown["test"])) == 3
        assert not set(shown["test"]) & set(shown["train"])
        assert not set(shown["validation"]) & (set(shown["train"]) | set(shown["test"]))


def test_names_and_code_points_tell_twins_and_pictures_alike_too() -> None:
    def picture(character: str, name: str, artist: str = "noto") -> Picture:
        return Picture(Concept(code_of(character), name, (), 0), artist, "")

    pictures = [
        picture("👩‍🚀", "woman astronaut"),
        picture("🧑‍🚀", "space traveller", "twemoji"),
        picture("👪", "family"),
        picture("👨‍👩‍👦", "family: man, woman, boy"),
        picture("🕐", "one o’clock"),
        picture("🕑", "two o’clock"),
        picture("🕑", "two o’clock", "twemoji"),
        picture("🍎", "red apple"),
    ]
    thumbnails = np.random.default_rng(0).random((8, 1024))
    thumbnails[5] = thumbnails[4] + 0.01 * thumbnails[5]  # two clocks of one artist
    thumbnails[7] = thumbnails[6]  # equal pictures of two artists join nothing
    assert group(pictures, thumbnails).tolist() == [0, 0, 1, 1, 2, 2, 2, 3]


@given(
    words=st.lists(
        st.sampled_from(["red_heart", "Love", "love", "<3", "ok", "a b", "c", "d", "e"]), max_size=12
    )
)
def test_five_captions_hold_every_text_once(words: list[str]) -> None:
    expected = list(dict.fromkeys(word.replace("_", " ").lower() for word in words))
    expected = [word for word in expected if word not in ("<3", ":d", "1")]
    rest = [word for word in expected if word != "red heart"]
    found = five_captions("Red heart", words)
    if len(rest) < 4:
        assert found is None
        return
    assert found is not None
    assert found[0] == "red heart"
    assert len(found) == 5
    dealt = [phrase.split(", ") for phrase in found[1:]]
    assert sorted(word for phrase in dealt for word in phrase) == sorted(rest)
    assert [phrase[0] for phrase in dealt] == rest[:4]


def test_a_set_whose_icons_have_no_code_points_is_refused(tmp_path: Path) -> None:
    (tmp_path / "icons.json").write_text(json.dumps({"icons": {"sun": {"body": ""}}}))
    (tmp_path / "chars.json").write_text("{}")
    with pytest.raises(UserError, match="no icon of icons.json belongs to a code point"):
        emoji_pictures.read_set(tmp_path)


def test_an_artist_stands_once() -> None:
    with pytest.raises(ValueError, match="expected every artist once; found noto, noto"):
        EmojiSource(artists=("noto", "noto"))
