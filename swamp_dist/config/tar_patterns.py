"""Patterns that name several files: braces as in a shell, then `*`, `?` and `[...]`."""

from __future__ import annotations

import glob
import itertools
import re
from pathlib import Path

MOST_FILES = 100_000
"""Names that the braces of one pattern may stand for."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})", re.ASCII)


def expand_braces(pattern: str) -> list[str]:
    """The names that `{000..009}` and `{a,b}` stand for, in their order.

    Numbers are filled with zeros to the longer end of a range where one of its ends begins with 0.

    Raises:
        ValueError: other braces, or more than MOST_FILES names.
    """
    texts = _BRACES.split(pattern)
    if any(brace in text for text in texts[::2] for brace in "{}"):
        raise ValueError(f"{pattern[:80]!r}: expected braces in pairs, none within another")
    choices = [[text] if i % 2 == 0 else _choices(text, pattern) for i, text in enumerate(texts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST_FILES:
        raise ValueError(f"{pattern[:80]!r} stands for {count:,} names; a pattern may have {MOST_FILES:,}")
    return ["".join(parts) for parts in itertools.product(*choices)]


def matching_files(pattern: Path) -> list[Path]:
    """Paths that a pattern names; where `*` and the like match nothing, the path as it stands, which is no
    file. Those of one name with `*` are sorted."""
    found: list[Path] = []
    for name in expand_braces(str(pattern)):
        matches = [] if Path(name).exists() else sorted(glob.glob(name))
        found += map(Path, matches or [name])
    return list(dict.fromkeys(found))


def _choices(braces: str, pattern: str) -> list[str]:
    span = _RANGE.fullmatch(braces)
    if span is None:
        if "," not in braces:
            raise ValueError(f"{pattern[:80]!r}: expected {{000..009}} or {{a,b}}, found {{{braces[:40]}}}")
        return braces.split(",")
    first, last = int(span[1]), int(span[2])
    if not 0 <= last - first < MOST_FILES:
        raise ValueError(f"{pattern[:80]!r}: {{{braces}}} stands for {max(0, last - first + 1):,} names")
    is_filled = any(len(end) > 1 and end.startswith("0") for end in span.groups())
    width = max(map(len, span.groups())) if is_filled else 1
    return [f"{number:0{width}d}" for number in range(first, last + 1)]
