"""What a build left out and what it knows of the captions: coverage.json and coverage.txt of a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict

from swamp_dist.data.shard_plan import BuildPlan
from swamp_dist.data.staging import UnitRecord

COVERAGE_FILE = "coverage.json"
COVERAGE_TEXT = "coverage.txt"
_NAMED = 5


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SkippedKind(_Record):
    """Entries that were left out for one reason."""

    count: int
    first: tuple[str, ...]
    """Keys of the first few, in the order of the split's shards."""


class SplitCoverage(_Record):
    """One split: what the raw data list, and what became of it."""

    listed: int
    """Entries that the raw data list."""
    written: int
    skipped: dict[str, SkippedKind]
    tally: dict[str, int]
    """captions and, with a word table or vocabulary, captions_without_words, tokens, unknown_tokens; nothing
    in sets without captions."""
    published: int | None = None
    """Published number of entries; None where none is known."""

    @property
    def share_skipped(self) -> float:
        """Entries left out, as a share of those listed."""
        return 1 - self.written / self.listed


class Coverage(_Record):
    """The report of one build."""

    name: str
    splits: dict[str, SplitCoverage]
    vocabulary: int | None = None
    """Words of the set's table; None in sets without words."""

    @property
    def skipped(self) -> int:
        """Entries left out in all splits."""
        return sum(split.listed - split.written for split in self.splits.values())


def cover(
    plan: BuildPlan,
    records: Iterable[UnitRecord],
    published: Mapping[str, int] | None = None,
    vocabulary: int | None = None,
) -> Coverage:
    """The report over all finished shards."""
    by_split: dict[str, list[UnitRecord]] = {name: [] for name in plan.entries}
    for record in records:
        by_split[record.split].append(record)
    splits = {
        name: _cover_split(plan.entries[name], found, (published or {}).get(name))
        for name, found in by_split.items()
    }
    return Coverage(name=plan.recipe.name, splits=splits, vocabulary=vocabulary)


def _cover_split(listed: int, records: list[UnitRecord], published: int | None) -> SplitCoverage:
    tally: Counter[str] = Counter()
    for record in records:
        tally.update(record.tally)
    return SplitCoverage(
        listed=listed,
        written=sum(record.shard.entries for record in records),
        skipped=skipped_kinds(records),
        tally=dict(tally),
        published=published,
    )


def skipped_kinds(records: Iterable[UnitRecord]) -> dict[str, SkippedKind]:
    """Entries left out by kind, with the first few names of each."""
    keys: dict[str, list[str]] = {}
    for record in records:
        for entry in record.skipped:
            keys.setdefault(entry.kind, []).append(entry.key)
    return {kind: SkippedKind(count=len(found), first=tuple(found[:_NAMED])) for kind, found in keys.items()}


def skipped_lines(kinds: Mapping[str, SkippedKind]) -> list[str]:
    """For example `12 x no 3D features: v1, v2, v3, ...`."""
    return [
        f"{kind.count} x {name}: {', '.join(kind.first)}{', ...' if kind.count > len(kind.first) else ''}"
        for name, kind in kinds.items()
    ]


def coverage_text(coverage: Coverage) -> str:
    """The report as plain lines, for the screen and for coverage.txt."""
    lines = [f"coverage of {coverage.name}"]
    for name, split in coverage.splits.items():
        lines += [f"  {name}", *(f"    {line}" for line in _split_lines(split))]
    if coverage.vocabulary is not None:
        lines.append(f"  vocabulary: {coverage.vocabulary:,} words")
    return "\n".join(lines) + "\n"


def _split_lines(split: SplitCoverage) -> list[str]:
    lines = [f"entries: {split.written:,} of {split.listed:,} listed{_compare_with_published(split)}"]
    if split.skipped:
        lines.append(f"left out: {split.listed - split.written:,} ({split.share_skipped:.3%})")
        lines += [f"  {line}" for line in skipped_lines(split.skipped)]
    tally = split.tally
    if "captions" in tally:
        lines.append(f"captions: {tally['captions']:,}")
    if "tokens" in tally:
        lines.append(f"captions without a word of the vocabulary: {tally['captions_without_words']:,}")
        share = tally["unknown_tokens"] / max(1, tally["tokens"])
        lines.append(
            f"tokens outside the vocabulary: {tally['unknown_tokens']:,} of {tally['tokens']:,} ({share:.2%})"
        )
    return lines


def _compare_with_published(split: SplitCoverage) -> str:
    """How the entries that the raw data list compare with the published count, if there is one."""
    if split.published is None:
        return ""
    if split.published == split.listed:
        return f"; {split.published:,} published"
    return f"; {split.published:,} published: {split.listed - split.published:+,} here"
