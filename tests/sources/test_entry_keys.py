"""Keys: safe, reversible, different for different ids; the validation share is fixed by the id."""

from __future__ import annotations

import re

import pytest

from swamp_dist.errors import UserError
from swamp_dist.sources.entry_keys import cut_validation, entry_key, identity_of, is_held_out, numbered_keys

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
IDS = [
    "-abc_DEF-12", "_abc", "--", "-p", "0001_A_Movie_00.00.51.926-00.00.54.129", "it's", "Am\u00e9lie",
    "a/b c",
    "x-2e", "v_abc", "x.p-", ".-p2e", "-2d.", "a.b", "a-pb", "a--pb.",
]  # fmt: skip


@pytest.mark.parametrize("number", [None, 0, 12])
def test_keys_are_safe_and_reversible(number: int | None) -> None:
    for identity in IDS:
        key = entry_key(identity, number)
        assert SAFE.fullmatch(key), key
        assert identity_of(key) == (identity, number)


def test_different_items_have_different_keys() -> None:
    keys = [entry_key(identity, number) for identity in IDS for number in (None, 0, 1)]
    assert len(set(keys)) == len(keys)
    assert numbered_keys(["a", "b", "a", "a"]) == ["v_a", "v_b", "v1_a", "v2_a"]
    assert entry_key("-abc") == "v_-abc"
    assert entry_key("0002_00.01-02") == "x_0002_00-p01--02"


def test_a_long_clip_id_stays_below_what_tar_takes() -> None:
    identity = "1033_Sherlock_Holmes_A_Game_of_Shadows_00.13.54.833-00.13.59.046"
    assert len(f"{entry_key(identity, 12)}.entry.json") <= 100


def test_what_is_no_key_or_id_is_refused() -> None:
    with pytest.raises(UserError, match="'abc' is not the key"):
        identity_of("abc")
    with pytest.raises(UserError, match="empty"):
        entry_key("")


def test_shares_hold_about_what_they_say_and_contain_each_other() -> None:
    names = [f"video{i}" for i in range(4000)]
    small = {n for n in names if is_held_out(n, 0.1)}
    assert 0.08 < len(small) / len(names) < 0.12
    assert small < {n for n in names if is_held_out(n, 0.3)}
    assert not any(is_held_out(n, 0.0) for n in names)
    assert [i for i in range(40) if is_held_out(f"video{i}", 0.1)] == [13, 33, 37]  # for ever


def test_groups_stay_together_and_no_side_may_be_empty() -> None:
    items = [(f"movie{i}", n) for i in range(20) for n in range(3)]
    parts = cut_validation(items, lambda item: item[0], 0.3)
    assert sorted(parts["train"] + parts["validation"]) == sorted(items)
    assert not {m for m, _ in parts["train"]} & {m for m, _ in parts["validation"]}
    assert parts["train"] == [item for item in items if item in parts["train"]]
    assert list(cut_validation(items, lambda item: item[0], 0)) == ["train"]
    for share, side in ((1e-9, "validation"), (1 - 1e-9, "train")):
        with pytest.raises(UserError, match=f"no entry for '{side}' of 60"):
            cut_validation(items, lambda item: item[0], share)
