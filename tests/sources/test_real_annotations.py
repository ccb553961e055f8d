"""The lists of the real sets, where their annotation files are at hand; none of them is kept here."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from swamp_dist.config import MsrVttSource, YouCook2Source
from swamp_dist.sources.id_lists import read_csv, read_ids
from swamp_dist.sources.msrvtt import test_clips as msrvtt_test_clips
from swamp_dist.sources.published import published_counts
from swamp_dist.sources.youcook2_segments import Segment, read_segments
from swamp_dist.sources.youcook2_segments import test_segments as youcook2_test_segments

VARIABLE = "SWAMP_REAL_ANNOTATIONS"
FOLDER = Path(os.environ.get(VARIABLE) or Path(__file__).parents[3] / "shared" / "data")
ANNOTATIONS = FOLDER / "yc2_annotations_trainval.json"
PUBLIC_LIST = FOLDER / "milnce_validation_youcook.csv"
JSFUSION = FOLDER / "MSRVTT_JSFUSION_test.csv"
LISTS = FOLDER / "msrvtt_ce_lists"

pytestmark = pytest.mark.skipif(
    not ANNOTATIONS.is_file(), reason=f"no real annotation files in {FOLDER}: set {VARIABLE} to their folder"
)


def counted(segments: list[Segment]) -> Counter[tuple[str, float, float, str]]:
    return Counter((s.video, s.start, s.end, s.sentence) for s in segments)


@pytest.fixture(scope="module")
def segments() -> list[Segment]:
    return read_segments(ANNOTATIONS)


def test_youcook2_test_list_is_rebuilt_from_the_official_annotations(segments: list[Segment]) -> None:
    settings = YouCook2Source(annotations=ANNOTATIONS)
    rebuilt = youcook2_test_segments(segments, settings)
    rows = read_csv(PUBLIC_LIST, ["video_id", "start", "end", "text"])
    public = Counter((r["video_id"], float(r["start"]), float(r["end"]), r["text"]) for r in rows)
    assert len(rebuilt) == len(rows) == published_counts(settings)["test"] == 3350
    assert len({s.video for s in rebuilt}) == 436
    assert counted(rebuilt) == public  # texts too; two segments share one span
    assert sum(s.subset == "training" for s in segments) == published_counts(settings)["train"]


def test_youcook2_public_list_can_be_given_as_a_file(segments: list[Segment]) -> None:
    every = YouCook2Source(annotations=ANNOTATIONS, test="all")
    assert len(youcook2_test_segments(segments, every)) == published_counts(every)["test"]
    listed = youcook2_test_segments(segments, YouCook2Source(annotations=ANNOTATIONS, test_list=PUBLIC_LIST))
    texts = [row["text"] for row in read_csv(PUBLIC_LIST, ["text"])]
    assert [s.sentence for s in listed] == texts
    assert len({s.key for s in listed}) == 3350


def test_msrvtt_training_ids_of_7k_are_the_official_lists_joined() -> None:
    ids = read_ids([LISTS / "ce_train_list_full.txt", LISTS / "ce_val_list_full.txt"])
    assert len(ids) == published_counts(MsrVttSource(training="7k"))["train"] == 7010
    test = {clip.identity for clip in msrvtt_test_clips(JSFUSION)}
    assert not test & set(ids)
    assert test <= set(read_ids([LISTS / "ce_test_list_full.txt"]))
    nine = read_ids([LISTS / "ce_train_list_jsfusion.txt"])
    assert len(nine) == published_counts(MsrVttSource(training="9k"))["train"]
    assert not test & set(nine)
    assert len(test & set(read_ids([LISTS / "ce_train_list_miech.txt"]))) == 453  # why it is refused


def test_msrvtt_test_list_has_995_distinct_sentences() -> None:
    clips = msrvtt_test_clips(JSFUSION)
    assert len(clips) == len({clip.key for clip in clips}) == 1000
    assert len({clip.captions[0].value for clip in clips}) == 995
