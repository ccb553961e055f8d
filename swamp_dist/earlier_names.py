"""Settings that had another name in an earlier version, and which files and checkpoints may still hold.

A name is replaced where a file or an override is read, before files are laid over each other: so a new name
above an earlier one, or the reverse, is a change of one setting and not two settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

EARLIER_NAMES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("objective", "contrastive", "negatives"): ("objective", "contrastive", "form"),
}
"""Earlier key -> present key, in the same section."""


def present_name(key: tuple[str, ...]) -> tuple[str, ...]:
    """The key as it is called now."""
    return EARLIER_NAMES.get(key, key)


def rename(values: dict[str, Any], origin: dict[tuple[str, ...], str]) -> Iterator[tuple[str, ...]]:
    """Give the settings of one file their present names, in place.

    Yields earlier names that are given together with the present one; they stay.

    Args:
        values: what the file says.
        origin: where each key was given.
    """
    for earlier, present in EARLIER_NAMES.items():
        section: Any = values
        for part in earlier[:-1]:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or earlier[-1] not in section:
            continue
        if present[-1] in section:
            yield earlier
            continue
        section[present[-1]] = section.pop(earlier[-1])
        origin[present] = origin.pop(earlier, "")
