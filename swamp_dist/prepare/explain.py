"""What a built set holds beside what was published of it, and why the two may differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from swamp_dist.config import KarpathySource, ScanSource, SketchSettings, SourceSettings
from swamp_dist.data.coverage import SplitCoverage, skipped_lines
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.prepare.build import read_coverage
from swamp_dist.prepare.explain_sketches import sketch_lines
from swamp_dist.sources.published import PUBLISHED, published_counts

REGIONS = 36
"""Regions of an image in the published features (Lee et al. 2018, section 4.2)."""
CAPTIONS = 5


@dataclass(frozen=True)
class _Split:
    """A split of an image-text set."""

    name: str
    entries: int
    coverage: SplitCoverage | None
    settings: ScanSource | KarpathySource
    published: int | None


def explain_set(manifest: Manifest) -> list[str]:
    """Lines about fields, splits and vocabulary of a set.

    Counts are compared for the image-text sets whose recipe says which they are (`source.data`) and for the
    sketch sets of a published list (`source.split`); for others the lines say what is there.
    """
    coverage, _ = read_coverage(manifest.folder)
    covered: Mapping[str, SplitCoverage] = {} if coverage is None else coverage.splits
    lines = [f"field {name}: {spec}" for name, spec in manifest.fields.items()]
    source = _settings(manifest)
    settings = source if isinstance(source, ScanSource | KarpathySource) else None
    for name in manifest.splits:
        entries, found = len(manifest.split(name)), covered.get(name)
        if settings is None:
            lines.append(f"{name}: {entries:,} entries")
        else:
            published = published_counts(settings).get(name)
            split = _Split(name, entries, found, settings, published)
            lines += _split_lines(split)
            lines += _region_lines(manifest, name, settings)
        lines += _word_lines(name, found)
    if settings is not None:
        lines += _set_lines(manifest, settings)
    if isinstance(source, SketchSettings):
        lines += sketch_lines(manifest, source, covered)
    lines += _class_lines(manifest)
    if manifest.record.vocabulary is not None:
        lines.append(f"vocabulary: {manifest.record.vocabulary.words:,} words, {_origin(manifest)}")
    return lines


def _settings(manifest: Manifest) -> SourceSettings | None:
    """The settings of the source; None for a set of another version, or of a program."""
    try:
        return TypeAdapter[SourceSettings](SourceSettings).validate_python(manifest.record.source)
    except ValidationError:
        return None


def _split_lines(split: _Split) -> Iterator[str]:
    per = split.settings.captions_per_image
    count = f"{split.name}: {split.entries:,} images"
    if split.published is None:
        yield f"{count}; no published count" if split.settings.data == "other" else f"{count}; not published"
    elif split.published == split.entries:
        yield f"{count}, as published{_dev_note(split)}"
    else:
        more = split.entries - split.published
        yield f"{count}; {split.published:,} published, {more:+,} here: {_why(split, split.published)}"
    if split.coverage is None or "captions" not in split.coverage.tally:
        return
    captions = split.coverage.tally["captions"]
    mean = captions / split.entries
    if captions == CAPTIONS * split.entries:
        yield f"{split.name}: {captions:,} captions, {CAPTIONS} per image, as published"
    elif captions == per * split.entries:
        yield (
            f"{split.name}: {captions:,} captions, {per} per image; published figures have {CAPTIONS}: see "
            "source.captions_per_image"
        )
    else:
        yield (
            f"{split.name}: {captions:,} captions, {mean:.3f} per image on average; published figures have "
            f"{CAPTIONS}: captions were left out (source.wordless, vocabulary.unknown), or images have fewer"
        )


def _dev_note(split: _Split) -> str:
    all_of_it = split.name == "dev" and split.entries == PUBLISHED["scan f30k"]["dev"]
    return "; SCAN's figures use the first 1,000 of them" if all_of_it else ""


def _why(split: _Split, published: int) -> str:
    """Why a split has another number of images than was published."""
    left_out = {} if split.coverage is None else split.coverage.skipped
    missing = sum(kind.count for kind in left_out.values())
    if missing and published == split.entries + missing:
        return f"left out: {'; '.join(skipped_lines(left_out))}"
    if split.entries in (published * CAPTIONS, published // CAPTIONS):
        return "a factor of 5: captions were counted as images, or the reverse (source.captions_per_image)"
    if missing:
        return f"left out: {'; '.join(skipped_lines(left_out))}; the raw files hold another number, too"
    return "the raw files hold another number: they were cut, or are of another copy"


def _region_lines(manifest: Manifest, split: str, settings: ScanSource | KarpathySource) -> Iterator[str]:
    if not isinstance(settings, ScanSource):
        return
    (entry,) = open_reader(manifest, split, ["regions"]).read([0])
    shape = entry.arrays["regions"].shape
    told = "as published" if shape == (REGIONS, 2048) else f"published features have ({REGIONS}, 2048)"
    yield f"{split}: regions {shape} in the first entry, {told}"


def _word_lines(name: str, coverage: SplitCoverage | None) -> Iterator[str]:
    if coverage is None or not coverage.tally.get("tokens"):
        return
    unknown, tokens = coverage.tally["unknown_tokens"], coverage.tally["tokens"]
    without = coverage.tally["captions_without_words"]
    yield (
        f"{name}: {unknown:,} of {tokens:,} words unknown ({unknown / tokens:.2%}), {without:,} captions "
        "without a known word"
    )


def _set_lines(manifest: Manifest, settings: ScanSource | KarpathySource) -> Iterator[str]:
    """What the splits together are good for."""
    if settings.data != "coco":
        return
    counts = {name: len(manifest.split(name)) for name in manifest.splits}
    whole = PUBLISHED["scan coco"]["testall"]
    if "testall" not in counts:
        known = "test has them: call it testall" if counts.get("test") == whole else "it is not in this set"
        yield f"testall is what 5K figures and the five folds of 1,000 need; {known} (source.splits)"
    elif "test" in counts:
        yield (
            "test of coco is the first 1,000 images of testall; published 1K figures are means over five "
            "folds of testall, and do not compare with figures on test"
        )
    if counts.get("train") == PUBLISHED["karpathy coco"]["train"]:
        yield "train is without restval, which is part of the published training images (source.splits)"


def _class_lines(manifest: Manifest) -> Iterator[str]:
    names = manifest.record.class_names
    if names is None:
        return
    kinds = {
        "words": "means of the vectors of the words of their names",
        "rows": "rows of a table of classes",
        "minilm": "sentence vectors of their names",
    }
    vectors = names.vectors
    told = "no vectors" if vectors is None else f"vectors of {vectors.dim} values: {kinds[vectors.kind]}"
    yield f"classes: {names.names:,} with names; {told}"


def _origin(manifest: Manifest) -> str:
    record = manifest.record.vocabulary
    assert record is not None
    if record.min_count is None:
        return "of a file"
    return f"that stand {record.min_count} times in the captions of {', '.join(record.splits)}"
