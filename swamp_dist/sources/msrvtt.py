"""MSR-VTT: one entry a video. Training entries have all captions of their video, test entries one.

The layout is that of Miech et al. 2019: ids in csv files, the official MSRVTT_data.json, pooled features
saved by torch; the test list is that of JSFusion, called 1k-A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from swamp_dist.config import MsrVttSource
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit
from swamp_dist.sources.captions import Caption
from swamp_dist.sources.entry_keys import cut_validation, entry_key, numbered_keys
from swamp_dist.sources.id_lists import id_rows, json_member, read_csv
from swamp_dist.sources.pooled import Clip, open_tables, table_split


def open_splits(settings: MsrVttSource) -> Mapping[str, RawSplit]:
    """Splits `train` and `test`, and `validation` where `validation_share` is above 0.

    Raises:
        UserError: a file is missing or malformed, or a training list shares videos with the test list.
    """
    train, test = train_clips(settings), test_clips(settings.test_list)
    shared = sorted({clip.identity for clip in train} & {clip.identity for clip in test})
    if shared:
        place = next(clip.captions[0].place for clip in test if clip.identity == shared[0])
        raise UserError(
            f"{len(shared)} videos of train_lists are test videos, for example {shared[0]} ({place}). The "
            "test list 1k-A goes with the 7k and 9k training lists; the 6,656 ids of the 1k-B list share 453 "
            "videos with it.\nFix: set source.train_lists."
        )
    tables, test_tables = open_tables((settings.train_features, settings.test_features), settings)
    parts = cut_validation(train, lambda clip: clip.group, settings.validation_share)
    splits = {name: table_split(clips, tables, settings.wordless) for name, clips in parts.items()}
    return {**splits, "test": table_split(test, test_tables, settings.wordless)}


def item_fields(settings: MsrVttSource) -> frozenset[str]:
    """No field of the samples has several items; the word field that a build adds has."""
    return frozenset()


def train_clips(settings: MsrVttSource) -> list[Clip]:
    """Training videos in the order of their lists, each with all its sentences in the order of the file."""
    sentences = read_sentences(settings.captions)
    return [
        Clip(entry_key(name), name, tuple(sentences.get(name, ())), name, place)
        for name, place in id_rows(settings.train_lists)
    ]


def test_clips(path: Path) -> list[Clip]:
    """Test pairs in the order of the csv: one caption each; a repeated video gets numbered keys."""
    rows = read_csv(path, ["video_id", "sentence"])
    keys = numbered_keys([row["video_id"] for row in rows])
    return [
        Clip(key, row["video_id"], (Caption(row["sentence"], row.place),), row["video_id"], row.place)
        for key, row in zip(keys, rows, strict=True)
    ]


def read_sentences(path: Path) -> Mapping[str, Sequence[Caption]]:
    """Sentences of every video of MSRVTT_data.json; UserError where it is something else."""
    found: dict[str, list[Caption]] = {}
    for number, sentence in enumerate(json_member(path, "sentences", list)):
        if not isinstance(sentence, dict) or not {"video_id", "caption"} <= sentence.keys():
            raise UserError(f"{path}: sentence {number} has no video_id and caption")
        video = sentence["video_id"]
        if not isinstance(video, str) or not video:
            raise UserError(f"{path}: sentence {number}: expected a text as video_id, found {video!r:.60}")
        found.setdefault(video, []).append(Caption(sentence["caption"], f"{path}: sentence {number}"))
    return found
