"""Entries divided into splits: by a column, or drawn by shares; groups stay whole."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

from swamp_dist.errors import UserError
from swamp_dist.explaining import nearest
from swamp_dist.sources.columns.column import Column

MOST_SPLITS = 64
"""More names in a split column mean that it is another column."""


def check_split_names(split_of: Sequence[str], column: Column, expected: Sequence[str]) -> None:
    """Refuse a split column that is another column, or holds other names than `expected` (empty: any).

    Raises:
        UserError: names the first row, or the split that is left empty.
    """
    found = dict.fromkeys(split_of)
    if len(found) > MOST_SPLITS:
        raise UserError(
            f"source.split: {column.title} holds {len(found):,} different names, for example "
            f"{split_of[0]!r}; a set has at most {MOST_SPLITS} splits.\nName the column "
            "that holds train, test and the like."
        )
    if not expected:
        return
    for name in found:
        if name not in expected:
            close = nearest(name, expected)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UserError(
                f"source.split: {column.place(split_of.index(name))}: split {name!r} is not "
                f"among source.splits ({', '.join(expected)}).{hint}"
            )
    empty = [name for name in expected if name not in found]
    if empty:
        counts = ", ".join(f"{name} {count:,}" for name, count in Counter(split_of).items())
        raise UserError(
            f"source.split: {column.title} leaves split {empty[0]!r} empty; it holds {counts}.\n"
            "Correct the column, or take the name out of source.splits."
        )


def check_groups(groups: Sequence[str], split_of: Sequence[str], column: Column) -> None:
    """Refuse groups that are in several splits.

    Args:
        groups: of each row.
        split_of: the split of each row.
        column: that of the groups.

    Raises:
        UserError: names the first such group and two of its rows.
    """
    first: dict[str, int] = {}
    crossing: dict[str, int] = {}
    for row, group in enumerate(groups):
        if split_of[first.setdefault(group, row)] != split_of[row]:
            crossing.setdefault(group, row)
    if crossing:
        group, row = next(iter(crossing.items()))
        raise UserError(
            f"source.group: group {group!r} is in the splits {split_of[first[group]]!r} "
            f"({column.place(first[group])}) and {split_of[row]!r} ({column.place(row)}); "
            f"{len(crossing):,} of {len(first):,} groups are in several.\n"
            "Correct the split column, or draw by group: leave split out and give source.shares."
        )


def draw_splits(units: Sequence[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """The split of each entry; entries of one unit (a group, or a key) are in one split.

    Units are put in an order drawn by their name and the seed, so that the order of rows does not matter. A
    unit belongs to the split in whose share of the entries its middle lies.

    Raises:
        UserError: a split is left without entries.
    """
    sizes = Counter(units)
    order = sorted(sizes, key=lambda unit: _drawn(unit, seed))
    names, bounds = list(shares), list(accumulate(shares.values()))
    bounds[-1] = 1.0
    chosen, before = {}, 0
    for unit in order:
        middle = (before + sizes[unit] / 2) / len(units)
        chosen[unit] = names[bisect_left(bounds, middle)]
        before += sizes[unit]
    split_of = [chosen[unit] for unit in units]
    empty = [name for name in names if name not in chosen.values()]
    if empty:
        of_groups = f" in {len(sizes)} groups" if len(sizes) < len(units) else ""
        raise UserError(
            f"source.shares: split {empty[0]!r} gets none of {len(units)} entries{of_groups} at a share of "
            f"{shares[empty[0]]:g}.\nRaise its share, or leave it out."
        )
    return split_of


def _drawn(unit: str, seed: int) -> bytes:
    return hashlib.blake2b(unit.encode(), key=f"split {seed}".encode(), digest_size=16).digest()
