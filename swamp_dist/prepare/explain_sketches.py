"""What a built sketch set holds beside what was published of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from swamp_dist.config import SketchSettings
from swamp_dist.data.coverage import SplitCoverage, skipped_lines
from swamp_dist.data.manifest import Manifest
from swamp_dist.sources.published_sketches import published_sketches
from swamp_dist.sources.sketch_sets import PHOTOS

_OTHERS = {"sketchy21": "sketchy25", "sketchy25": "sketchy21"}
_SEEN, _UNSEEN = ("train", "validation"), ("test",)


def sketch_lines(
    manifest: Manifest, settings: SketchSettings, covered: Mapping[str, SplitCoverage]
) -> Iterator[str]:
    """Lines about classes, sketches and photos of seen and unseen classes."""
    published = published_sketches(settings)
    for side, number in (("seen", 0), ("unseen", 1)):
        splits = [name for name in (_SEEN, _UNSEEN)[number] if name in manifest.splits]
        if not splits:
            continue
        told = " + ".join(splits)
        classes = len({label for name in splits for label in manifest.split(name).labels.tolist()})
        wanted = None if published is None else published.classes[number]
        yield f"{told}: {classes:,} {side} classes{_compare(classes, wanted, '')}"
        for what, ending in (("sketches", ""), ("photos", PHOTOS)):
            names = [name + ending for name in splits]
            count = sum(len(manifest.split(name)) for name in names)
            wanted = None if published is None else getattr(published, what)[number]
            yield f"{' + '.join(names)}: {count:,} {what}{_compare(count, wanted, _left_out(names, covered))}"
    if (other := _OTHERS.get(settings.split or "")) is not None:
        yield f"figures on {settings.split} and on {other} do not compare: their unseen classes differ"


def _left_out(names: list[str], covered: Mapping[str, SplitCoverage]) -> str:
    lines = [line for name in names if name in covered for line in skipped_lines(covered[name].skipped)]
    return "; ".join(lines)


def _compare(count: int, published: int | None, left_out: str) -> str:
    reason = f"; left out: {left_out}" if left_out else ""
    if published is None:
        return f"; no published count{reason}"
    if count == published:
        return f", as published{reason}"
    why = reason or ": the raw files hold another number: they were cut, cleaned, or are of another copy"
    return f"; {published:,} published, {count - published:+,} here{why}"
