"""Which classes are seen and which are not: published lists of unseen classes, and the drawing of validation.

The four lists are those of buptLinfy/ZSE-SBIR (MIT, commit 88f87f7, data_utils/test_class_*.txt) in the
spelling of `normal_name`. `sketchy21` and `quickdraw30` equal those of sounakdey/doodle2search (commit
07680c4, src/data/zeroshot_classes_*.txt); `sketchy25` and `sake30` those of qliu24/SAKE. The split of
TU-Berlin that Doodle2Search drew depends on the order in which a file system listed its folders, and cannot
be had again.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.errors import UserError
from swamp_dist.explaining import nearest
from swamp_dist.plain_files import NotPlainError, read_plain_file
from swamp_dist.sources.class_names import normal_name

UNSEEN: Mapping[str, tuple[str, ...]] = {
    "sketchy21": (
        "bat", "cabin", "cow", "dolphin", "door", "giraffe", "helicopter", "mouse", "pear", "raccoon",
        "rhinoceros", "saw", "scissors", "seagull", "skyscraper", "songbird", "sword", "tree", "wheelchair",
        "windmill", "window",
    ),
    "sketchy25": (
        "cup", "swan", "harp", "squirrel", "snail", "ray", "pineapple", "volcano", "rifle", "scissors",
        "parrot", "windmill", "teddy_bear", "tree", "wine_bottle", "deer", "chicken", "airplane",
        "wheelchair", "tank", "umbrella", "butterfly", "camel", "horse", "bell",
    ),
    "sake30": (
        "banana", "bus", "tractor", "suitcase", "streetlight", "telephone", "bottle_opener", "canoe", "fan",
        "teacup", "penguin", "laptop", "shoe", "lighter", "hot_air_balloon", "pizza", "brain", "ant",
        "t_shirt", "trombone", "windmill", "snowboard", "table", "rollerblades", "parachute",
        "space_shuttle", "bridge", "frying_pan", "bread", "horse",
    ),
    "quickdraw30": (
        "bat", "cow", "dolphin", "door", "giraffe", "helicopter", "mouse", "raccoon", "rhinoceros", "saw",
        "scissors", "skyscraper", "tree", "windmill", "feather", "campfire", "palm_tree", "fire_hydrant",
        "bread", "beach", "megaphone", "cactus", "zebra", "tiger", "shark", "frog", "banana", "cake",
        "hamburger", "fan",
    ),
}  # fmt: skip
"""Unseen classes by the name of the split."""
TEST, VALIDATION, TRAIN = "test", "validation", "train"
_MOST_BYTES = 2**20
_SEEN_SHARE = 0.9
"""Share of the seen classes that Doodle2Search trains on."""


@dataclass(frozen=True)
class ClassSplit:
    """The classes of every split; a split without classes is left out."""

    classes: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        check_disjoint(self.classes)


def check_disjoint(classes: Mapping[str, Collection[str]]) -> None:
    """Refuse splits that share a class.

    Raises:
        UserError: names all shared classes and their splits.
    """
    split_of: dict[str, str] = {}
    shared: dict[str, str] = {}
    for split, names in classes.items():
        for name in names:
            other = split_of.setdefault(name, split)
            if other != split:
                shared[name] = f"{name} ({other} and {split})"
    if shared:
        raise UserError(
            f"{len(shared)} classes are both seen and unseen: {', '.join(shared.values())}.\n"
            "No class may be in two of train, validation and test: correct the lists."
        )


def read_class_list(file: Path) -> tuple[str, ...]:
    """One class per line, as normal names in their order. The line `class_labels.txt`, which stands in the
    list that QuickDraw-Extended came with, is no class and passed over.

    Raises:
        UserError: the file cannot be read, is empty, or a class stands in it twice.
    """
    try:
        lines = read_plain_file(file, _MOST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, NotPlainError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a list of classes, one per line ({error})") from None
    names = [normal_name(line) for line in lines if line.strip() and line.strip() != "class_labels.txt"]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        why = f"{', '.join(twice)} stand twice" if twice else "it is empty"
        raise UserError(f"{file}: expected every class once, one per line; {why}")
    return tuple(names)


def divide(
    names: Sequence[str], unseen: Sequence[str], validation: int | None, seed: int, order: Sequence[str] = ()
) -> ClassSplit:
    """Train, validation and test of all classes.

    Args:
        names: all classes.
        unseen: those of test.
        validation: how many of the others validation gets; None: those that Doodle2Search leaves of n,
            n - int(0.9 n).
        seed: of Python's shuffle.
        order: what is shuffled, without the unseen ones; empty: the other classes by alphabet.

    Raises:
        UserError: an unseen class is not there, one is missing in the order, or none is left to train on.
    """
    if missing := [name for name in unseen if name not in names]:
        close = nearest(missing[0], names)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"unseen classes that the data do not have: {', '.join(missing)}.{hint}\n"
            "Fix: complete the data, or give a list of your own (source.split_file)."
        )
    seen = sorted(set(names) - set(unseen))
    if order:
        if absent := sorted(set(seen) - set(order)):
            raise UserError(f"source.order: classes that do not stand in it: {', '.join(absent)}")
        seen = [name for name in order if name in set(seen)]
    random.Random(seed).shuffle(seen)
    held_out = len(seen) - int(_SEEN_SHARE * len(seen)) if validation is None else validation
    if not seen:
        raise UserError(
            f"all {len(names)} classes are unseen: none is left to train on.\n"
            "Fix: name fewer unseen classes (source.split_file), or add seen ones to the data."
        )
    if held_out >= len(seen):
        raise UserError(
            f"{len(seen)} seen classes, {held_out} of them for validation: none is left to train on.\n"
            f"Fix: source.validation_classes = {len(seen) - 1} at most."
        )
    cut = len(seen) - held_out
    parts = {TRAIN: seen[:cut], VALIDATION: seen[cut:], TEST: list(unseen)}
    return ClassSplit({split: tuple(sorted(part)) for split, part in parts.items() if part})
