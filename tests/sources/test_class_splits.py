"""Seen and unseen classes: the published lists, the drawing of validation, and no class on two sides."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.errors import UserError
from swamp_dist.sources.class_names import normal_name
from swamp_dist.sources.class_splits import UNSEEN, ClassSplit, divide, read_class_list

NAMES = st.lists(st.text(alphabet="abcdef", min_size=1, max_size=4), min_size=3, max_size=40, unique=True)


def test_the_published_lists_have_their_published_sizes_and_one_spelling() -> None:
    assert {name: len(set(classes)) for name, classes in UNSEEN.items()} == {
        "sketchy21": 21,
        "sketchy25": 25,
        "sake30": 30,
        "quickdraw30": 30,
    }
    assert all(normal_name(each) == each for classes in UNSEEN.values() for each in classes)
    assert set(UNSEEN["sketchy21"]) & set(UNSEEN["sketchy25"]), "two lists of one set: never to be mixed"


@pytest.mark.parametrize(("seen", "validation"), [(104, 11), (80, 8), (100, 10)])
def test_a_tenth_of_the_seen_classes_is_validation_as_published(seen: int, validation: int) -> None:
    names = [f"class{i:03d}" for i in range(seen)]
    parts = divide([*names, "bat"], ["bat"], None, 42).classes
    shuffled = list(names)
    random.seed(42)
    random.shuffle(shuffled)  # what Doodle2Search does
    assert set(parts["train"]) == set(shuffled[: int(0.9 * seen)])
    assert len(parts["validation"]) == validation
    assert parts["test"] == ("bat",)


@given(names=NAMES, data=st.data())
def test_no_class_is_on_two_sides_and_none_is_lost(names: list[str], data: st.DataObject) -> None:
    unseen = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names) - 1))
    seen = len(names) - len(unseen)
    validation = data.draw(st.none() | st.integers(0, seen - 1))
    if validation is None and seen < 2:
        return
    seed = data.draw(st.integers(0, 9))
    order = data.draw(st.none() | st.permutations(names))
    parts = divide(names, unseen, validation, seed, order or ()).classes
    together = [name for part in parts.values() for name in part]
    assert sorted(together) == sorted(names)
    assert parts.get("test", ()) == tuple(sorted(unseen))
    if validation is not None:
        assert len(parts.get("validation", ())) == validation
    assert parts == divide(names[::-1], unseen, validation, seed, order or ()).classes


def test_a_class_on_two_sides_is_named() -> None:
    with pytest.raises(UserError, match=r"2 classes are both seen and unseen: bat \(train and test\), cow"):
        ClassSplit({"train": ("ant", "bat"), "validation": ("cow",), "test": ("bat", "cow")})


def test_an_unseen_class_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"do not have: wind_mill\. Did you mean 'windmill'\?"):
        divide(["windmill", "ant"], ["wind_mill"], 0, 42)
    with pytest.raises(UserError, match="1 seen classes, 1 of them for validation: none is left") as raised:
        divide(["windmill", "ant"], ["windmill"], None, 42)
    assert "validation_classes = 0 at most" in str(raised.value)
    for validation in (None, 0, 1):
        with pytest.raises(UserError, match=r"all 2 classes are unseen.*\nFix: name fewer unseen classes"):
            divide(["windmill", "ant"], ["windmill", "ant"], validation, 42)
    with pytest.raises(UserError, match="source.order: classes that do not stand in it: cow"):
        divide(["windmill", "ant", "cow"], ["windmill"], 1, 42, ["ant", "windmill"])


def test_a_list_of_classes_in_any_spelling(tmp_path: Path) -> None:
    file = tmp_path / "test.txt"
    file.write_text("Palm tree\n\nhot-air_balloon\nclass_labels.txt\n")
    assert read_class_list(file) == ("palm_tree", "hot_air_balloon")
    file.write_text("palm tree\npalm_tree\n")
    with pytest.raises(UserError, match="palm_tree stand twice"):
        read_class_list(file)
    file.write_text("\n")
    with pytest.raises(UserError, match="it is empty"):
        read_class_list(file)
    with pytest.raises(UserError, match="cannot be read as a list of classes"):
        read_class_list(tmp_path / "gone.txt")
