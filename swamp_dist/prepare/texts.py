"""Captions of a set become a field of texts where its recipe makes no word ids of them."""

from __future__ import annotations

from dataclasses import replace

from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import RawSplit, Sample


def with_texts(split: RawSplit) -> RawSplit:
    """The split with the captions of each entry as several texts in the field of captions."""

    def read(i: int) -> Sample:
        sample, field = split.read(i), split.caption_field
        if not sample.captions:
            raise BadEntry(
                sample.key, "no captions", "it has no captions; every entry of a set with captions has some"
            )
        if field in sample.fields:
            raise UserError(
                f"entry {sample.key!r}: Sample.fields has {field!r}, the field of the captions; give "
                "RawSplit.caption_field another name"
            )
        return replace(sample, fields={field: sample.captions, **sample.fields})

    return replace(split, read=read)


def count_captions(sample: Sample) -> dict[str, int]:
    """What the coverage report sums of one entry whose captions stay texts."""
    return {"captions": len(sample.captions)}
