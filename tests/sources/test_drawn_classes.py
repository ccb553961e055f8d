"""Drawings as a sketch set: classes are divided, and near twins lie in one split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.errors import UserError
from swamp_dist.sources.class_splits import ClassSplit
from swamp_dist.sources.drawn_classes import (
    Drawing,
    Thing,
    draw_classes,
    drawings_of,
    keep_twins_together,
    near_twins,
)

GROUPS = ("fruit", "faces", "tools", "birds", "boats")
SIDES = ("train", "validation", "test")


def drawing(code: str, group: str, hand: str = "pen", twins: tuple[str, ...] = ()) -> Drawing:
    return Drawing(Thing(code, code, group, twins), hand, hand == "pen", "<svg/>")


@given(count=st.integers(4, 30), test=st.integers(1, 5), validation=st.integers(1, 5), seed=st.integers(0, 5))
def test_classes_are_divided_without_a_rest(count: int, test: int, validation: int, seed: int) -> None:
    names = [f"class{i}" for i in range(count)]
    if test + validation + 2 > count:
        with pytest.raises(UserError, match=f"{count} classes are too few"):
            draw_classes(names, test, validation, seed)
        return
    parts = draw_classes(names, test, validation, seed).classes
    assert [len(parts[side]) for side in SIDES] == [count - test - validation, validation, test]
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert parts["test"] == draw_classes(names[::-1], test, 1, seed).classes["test"], "test is drawn first"


@given(
    st.lists(st.tuples(st.sampled_from(GROUPS), st.integers(0, 9)), min_size=1, max_size=40),
    st.permutations(GROUPS),
)
def test_no_twins_lie_in_two_splits_and_test_keeps_all(rows: list[tuple[str, int]], order: list[str]) -> None:
    parts = ClassSplit({"train": tuple(order[:2]), "validation": tuple(order[2:3]), "test": tuple(order[3:])})
    drawings = [drawing(f"d{i}", group) for i, (group, _) in enumerate(rows)]
    twins = np.array([number for _, number in rows])
    kept, left_out = keep_twins_together(drawings, twins, parts)
    number_of = {each.key: int(number) for each, number in zip(drawings, twins, strict=True)}
    shown = {side: {number_of[each.key] for each in kept[side]} for side in SIDES}
    assert not shown["train"] & shown["test"]
    assert not shown["train"] & shown["validation"]
    assert not shown["validation"] & shown["test"]
    assert len(kept["test"]) == sum(group in parts.classes["test"] for group, _ in rows)
    assert left_out == len(rows) - sum(map(len, kept.values()))
    assert set().union(*shown.values()) == set(twins.tolist()), "of every group of twins one side stays"


def test_twins_are_things_of_one_text_and_look_alikes_of_one_hand() -> None:
    drawings = [
        drawing("a", "fruit"),
        drawing("a", "fruit", "brush"),
        drawing("b", "fruit", twins=("man", "x")),
        drawing("c", "tools", twins=("x",)),
        drawing("d", "tools"),
        drawing("e", "tools"),
        drawing("f", "tools", "brush"),
    ]
    pixels = np.random.default_rng(0).random((7, 1024)).astype(np.float32)
    pixels[5] = pixels[4] * 0.5 + 0.1  # the same drawing, fainter
    pixels[6] = pixels[4]  # of another hand
    assert near_twins(drawings, pixels).tolist() == [0, 0, 1, 1, 2, 2, 3]


def test_things_need_both_sides_and_classes_enough_of_them() -> None:
    things = [
        Thing(code, code, group, ()) for code, group in (("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"))
    ]
    sketches = {"pen": {"a": "1", "b": "2", "d": "3"}, "ink": {"b": "4"}}
    photos = {"oil": {"a": "5", "b": "6", "c": "7", "d": "8"}}
    found = drawings_of(things, sketches, photos, 2)
    assert [each.key for each in found] == ["pen-a", "oil-a", "pen-b", "ink-b", "oil-b"]
    assert [each.is_sketch for each in found] == [True, False, True, True, False]
