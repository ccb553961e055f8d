"""LSMDC: one entry a row of the annotation file, so that a clip with two sentences is two entries.

The loader of Miech et al. 2019 counts rows too: an epoch has 101,079 training pairs. Files and features are
in its layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from swamp_dist.config import LsmdcSource
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources.captions import Caption
from swamp_dist.sources.entry_keys import cut_validation, numbered_keys
from swamp_dist.sources.id_lists import read_tsv
from swamp_dist.sources.pooled import Clip, open_tables, table_split

COLUMNS = 6
"""clip id, start and end aligned, start and end extracted, sentence"""
_TIMES = re.compile(r"_\d\d\.\d\d\.\d\d\.\d+-\d\d\.\d\d\.\d\d\.\d+$")


def open_splits(settings: LsmdcSource) -> Mapping[str, RawSplit]:
    """Splits `train` and `test`; `validation` from its own list, or from training by `validation_share`.

    Raises:
        UserError: a file is missing or malformed, or a training clip is a test clip.
    """
    train, test = read_clips(settings.train_list), read_clips(settings.test_list)
    shared = sorted({clip.identity for clip in train} & {clip.identity for clip in test})
    if shared:
        place = next(clip.captions[0].place for clip in test if clip.identity == shared[0])
        raise UserError(
            f"{len(shared)} clips are in train_list and in test_list, for example {shared[0]} ({place}).\n"
            f"Fix: check source.train_list ({settings.train_list}) and source.test_list "
            f"({settings.test_list})."
        )
    parts = dict(cut_validation(train, lambda clip: clip.group, settings.validation_share))
    files = dict.fromkeys(parts, settings.train_features)
    if settings.validation_list is not None:
        parts["validation"] = read_clips(settings.validation_list)
        files["validation"] = settings.validation_features or settings.train_features
    parts["test"], files["test"] = test, settings.test_features
    distinct = list(dict.fromkeys(files.values()))
    tables = dict(zip(distinct, open_tables(distinct, settings), strict=True))
    return {name: table_split(clips, tables[files[name]], settings.wordless) for name, clips in parts.items()}


def item_fields(settings: LsmdcSource) -> frozenset[str]:
    """No field of the samples has several items; the word field that a build adds has."""
    return frozenset()


def read_clips(path: Path) -> list[Clip]:
    """One clip a row of a tab-separated file of six columns; repeated ids get numbered keys."""
    rows = read_tsv(path, COLUMNS)
    keys = numbered_keys([row[0] for _, row in rows])
    return [
        Clip(key, row[0], (Caption(row[5], place),), movie_of(row[0]), place)
        for key, (place, row) in zip(keys, rows, strict=True)
    ]


def movie_of(clip: str) -> str:
    """The clip id without its times: `0001_American_Beauty_00.00.51.926-00.00.54.129` is of
    `0001_American_Beauty`.
    """
    return _TIMES.sub("", clip)
