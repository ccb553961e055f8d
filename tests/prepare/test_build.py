"""Builds from recipes: the same bytes whoever builds them, word tables, and what the user is told."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from webdataset.writer import TarWriter

from swamp_dist.cli.shards import parse_part
from swamp_dist.config import Settings, ShardSettings, SyntheticSource, SyntheticSplit, WordsBuildSettings
from swamp_dist.data.build import MissingPolicy
from swamp_dist.data.coverage import Coverage, SplitCoverage, coverage_text
from swamp_dist.data.entry import decode_npy, encode_entry
from swamp_dist.data.lanes import permutation
from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.verify import verify_shards
from swamp_dist.data.words import open_words
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.prepare import build as shards
from swamp_dist.prepare.build import BuildWorkers, build_part, build_shards, read_coverage
from swamp_dist.prepare.raw_data import RawData, open_raw_data, source_record
from swamp_dist.prepare.workers import build_in_processes
from swamp_dist.records import RawSplit, Sample
from tests.data.raw_sets import build_raw, content, open_raw, prepared, reads
from tests.data.shard_sets import members

SETTINGS = ShardSettings(
    name="tiny",
    source=SyntheticSource(
        classes=4,
        per_class=30,
        dim=6,
        hidden=(8,),
        splits={
            "train": SyntheticSplit(classes=(0, 4), total=75),
            "test": SyntheticSplit(classes=(0, 4), total=21),
        },
    ),
    entries_per_shard=10,
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "set"
    build_shards(SETTINGS, folder)
    return content(folder)


def test_shards_are_the_splits_samples_in_shuffled_order_written_by_webdataset(tmp_path, alone):
    for name, split in open_raw_data(SETTINGS.source).splits.items():
        order = permutation(len(split.keys), "write", 0, name).tolist()
        for number, start in enumerate(range(0, len(order), 10)):
            path = tmp_path / "oracle.tar"
            with path.open("wb") as file:
                tar = TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False)
                for i in order[start : start + 10]:
                    for suffix, payload in encode_entry(split.read(i)):
                        tar.write({"__key__": split.keys[i], suffix: payload})
                tar.close()
            assert alone[f"{name}-{number:06d}.tar"] == path.read_bytes()


def test_child_processes_give_the_same_set(tmp_path, alone):
    build_shards(SETTINGS, tmp_path / "set", workers=BuildWorkers(3))
    assert content(tmp_path / "set") == alone


def test_parts_that_run_at_once_give_the_same_set_with_nothing_left_to_build(tmp_path, alone, caplog):
    caplog.set_level("INFO")
    parts = [
        get_context("fork").Process(target=build_part, args=(SETTINGS, tmp_path / "set", (i, 3)))
        for i in range(3)
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join(60)
    assert [part.exitcode for part in parts] == [0, 0, 0]
    assert not (tmp_path / "set").exists()
    build_shards(SETTINGS, tmp_path / "set")
    assert "going on from 11 of 11 shards" in caplog.text
    assert content(tmp_path / "set") == alone


def test_a_part_builds_its_shards_only_and_the_command_the_rest(tmp_path, alone):
    build_part(SETTINGS, tmp_path / "set", (1, 4))
    finished = sorted(path.stem for path in (tmp_path / ".set.building").glob("*/finished/*"))
    assert finished == ["test-000001", "train-000001", "train-000005"]
    build_shards(SETTINGS, tmp_path / "set")
    assert content(tmp_path / "set") == alone


def test_a_part_whose_set_another_process_closes_ends_well(tmp_path, alone, caplog):
    caplog.set_level("INFO")

    def close_it(done: int, total: int) -> None:
        if done == 1:
            build_shards(SETTINGS, tmp_path / "set")

    build_part(SETTINGS, tmp_path / "set", (0, 2), report=close_it)
    assert "was finished by another process meanwhile" in caplog.text
    assert content(tmp_path / "set") == alone


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/3", "1/0", "0/3/4"])
def test_a_part_that_is_none_is_refused(text):
    assert parse_part("2/3") == (2, 3)
    with pytest.raises(UserError, match=r"expected I/N with 0 <= I < N"):
        parse_part(text)


def keys_of(unit):
    """Keys of the entries that a shard of `open_raw` holds."""
    keys = open_raw(Path("log")).splits[unit.split].keys
    order = permutation(len(keys), "write", 0, unit.split).tolist()
    return [keys[i] for i in order[unit.start : unit.stop]]


@pytest.mark.slow
def test_ray_tasks_give_the_same_set_and_say_what_is_wrong(tmp_path, alone):
    build_shards(SETTINGS, tmp_path / "set", workers=BuildWorkers(ray=True))
    assert content(tmp_path / "set") == alone
    from swamp_dist.prepare.ray_tasks import on_ray

    log = tmp_path / "log"
    opener = partial(open_raw, log, bad=("key-0003",))
    staging, plan = prepared(tmp_path / "bad", opener())
    with pytest.raises(UserError, match=r"entry key-0003: /raw/key-0003.npy is missing"):
        build_raw(tmp_path / "bad", opener(), builder=on_ray(staging, plan, opener, MissingPolicy()))
    opener = partial(open_raw, log, deadly="key-0003")
    with pytest.raises(
        UserError, match=r"shards \w+-00000\d to \w+-00000\d: the Ray worker was lost"
    ) as caught:
        build_raw(tmp_path / "bad", opener(), builder=on_ray(staging, plan, opener, MissingPolicy()))
    named = re.match(r"shards (\S+) to (\S+): ", str(caught.value))
    assert named is not None
    # Both splits hold that entry: whichever group of shards was tried to the end first is named.
    names = [unit.name for unit in plan.units]
    group = plan.units[names.index(named[1]) : names.index(named[2]) + 1]
    assert any("key-0003" in keys_of(unit) for unit in group)


def test_a_child_that_dies_is_named_with_its_shard_and_the_rest_is_kept(tmp_path):
    log = tmp_path / "log"
    opener = partial(open_raw, log, deadly="key-0003")
    staging, plan = prepared(tmp_path / "set", opener())
    builder = build_in_processes(staging, plan, opener, MissingPolicy(), 1)
    with pytest.raises(
        UserError, match=r"shard \w+-00000\d: child process \d+ died \(killed by SIGKILL\)(.|\n)*kept"
    ):
        build_raw(tmp_path / "set", opener(), builder=builder)
    finished = len(list(staging.sidecar(plan.units[0]).parent.glob("*")))
    log.unlink()
    assert len(build_raw(tmp_path / "set", open_raw(log)).split("train")) == 37
    assert len(reads(log)) == 49 - 10 * finished


def test_a_child_passes_on_what_the_user_can_mend_and_sees_changed_raw_data(tmp_path):
    log = tmp_path / "log"
    opener = partial(open_raw, log, bad=("key-0003",))
    staging, plan = prepared(tmp_path / "set", opener())
    with pytest.raises(UserError, match=r"entry key-0003: /raw/key-0003.npy is missing"):
        build_raw(
            tmp_path / "set", opener(), builder=build_in_processes(staging, plan, opener, MissingPolicy(), 1)
        )
    fewer = partial(open_raw, log, {"train": 36, "validation": 12})
    with pytest.raises(UserError, match="raw data list other entries than when the build began"):
        build_raw(
            tmp_path / "set", opener(), builder=build_in_processes(staging, plan, fewer, MissingPolicy(), 1)
        )


_PARENT = """
import signal, sys, time
from functools import partial
from pathlib import Path
from swamp_dist.data.build import MissingPolicy
from swamp_dist.prepare.workers import build_in_processes
from tests.data.raw_sets import build_raw, prepared
from tests.prepare.test_build import open_slowly

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    folder = Path(sys.argv[1])
    opener = partial(open_slowly, folder)
    staging, plan = prepared(folder / "set", opener())
    build_raw(folder / "set", opener(), builder=build_in_processes(staging, plan, opener, MissingPolicy(), 1))
"""


def open_slowly(folder):
    """Splits whose first read says which process reads, and never ends."""
    source = open_raw(folder / "log")

    def read(i):
        import time

        (folder / "pid.new").write_text(str(os.getpid()))
        (folder / "pid.new").rename(folder / "pid")
        time.sleep(600)

    return replace(source, splits={"train": RawSplit(source.splits["train"].keys, read)})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_children_end_with_a_parent_that_was_killed_or_interrupted(tmp_path, number):
    import time

    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path)], cwd=os.getcwd())
    while not (tmp_path / "pid").exists():
        assert parent.poll() is None
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    os.kill(child, 0)
    parent.send_signal(number)
    parent.wait(60)
    for _ in range(200):
        try:
            with open(f"/proc/{child}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    raise AssertionError(f"child {child} outlived its parent")


def test_where_files_lie_is_no_part_of_a_recipe_but_their_names_are():
    class Listed(Settings):
        kind: str = "listed"
        download: Path = Path("/anywhere")
        lists: tuple[Path, ...] = (Path("/raw/a.csv"), Path("b.csv"))
        features: Path | None = Path("/raw/features")
        share: float = 0.5

    wanted = {"kind": "listed", "lists": ["a.csv", "b.csv"], "features": "features", "share": 0.5}
    assert source_record(Listed()) == wanted  # type: ignore[arg-type]
    assert source_record(SETTINGS.source) == SETTINGS.source.model_dump(mode="json")


# -- words -----------------------------------------------------------------------------------------

CAPTIONS = {
    "train": [("Cut the onion", "stir the zzz soup"), ("zzz qqq",), ("the the the",)],
    "test": [("onion Soup",)],
}


def raw_captions(bad: tuple[str, ...] = ()) -> RawData:
    def split(entries):
        keys = [f"video{i}" for i in range(len(entries))]

        def read(i):
            if keys[i] in bad:
                raise BadEntry(keys[i], "no 3D features", "missing")
            return Sample(keys[i], {"video": np.full(2, i, np.float32)}, captions=entries[i])

        return RawSplit(keys, read, lambda: iter(entries))

    published = {"train": 5}
    return RawData({name: split(entries) for name, entries in CAPTIONS.items()}, frozenset(), published)


@pytest.fixture
def captioned(tmp_path, monkeypatch):
    words = {"onion": 1.0, "unused": 2.0, "the": 3.0, "soup": 4.0, "Cut": 5.0, "stir": 6.0}
    lines = [f"{word} {value} {-value}" for word, value in words.items()]
    (tmp_path / "vectors.txt").write_text("\n".join([f"{len(words)} 2", *lines]) + "\n")
    monkeypatch.setattr(shards, "open_raw_data", lambda source: raw_captions())
    words = WordsBuildSettings(vectors=tmp_path / "vectors.txt", max_words=4)
    return SETTINGS.model_copy(update={"words": words, "shuffle_seed": 0, "entries_per_shard": 2})


def test_captions_become_ids_of_the_sets_own_words(tmp_path, captioned):
    manifest = build_shards(captioned, tmp_path / "set")
    table = open_words(manifest)
    assert table is not None
    assert table.words == ("", "onion", "the", "soup", "Cut", "stir")
    assert table.rows.tolist()[1:3] == [[1, -1], [3, -3]]
    assert (table.record.max_words, table.record.fields) == (4, ("text",))
    field = manifest.field("text")
    assert (field.dtype, field.shape, field.items) == ("int32", (4,), True)
    path = tmp_path / "set" / "test-000000.tar"
    where = members(path)
    ids = decode_npy(path.read_bytes()[slice(*where["video0.text.npy"])])
    assert ids.tolist() == [[1, 0, 0, 0]]  # onion; Soup is not soup
    header = json.loads(path.read_bytes()[slice(*where["video0.entry.json"])])
    assert header["text"]["captions"] == "onion Soup"
    assert verify_shards(tmp_path / "set") == []
    (tmp_path / "set" / "words.txt").write_text("\nonion\nthe\nsoup\nCut\nspoon\n")
    assert [problem.file for problem in verify_shards(tmp_path / "set")] == ["words.txt"]


def test_the_report_counts_captions_words_and_what_was_published(tmp_path, captioned):
    build_shards(captioned, tmp_path / "set")
    coverage, text = read_coverage(tmp_path / "set")
    assert coverage is not None
    assert coverage.vocabulary == 5
    train = {"captions": 4, "captions_without_words": 1, "tokens": 12, "unknown_tokens": 3}
    assert coverage.splits["train"].tally == train
    assert coverage.splits["test"].tally["unknown_tokens"] == 1  # look-up minds case
    assert "entries: 3 of 3 listed; 5 published: -2 here" in text
    assert "entries: 1 of 1 listed\n" in text
    assert "captions: 4\n" in text
    assert "tokens outside the vocabulary: 3 of 12 (25.00%)" in text
    assert "vocabulary: 5 words" in text


def test_every_builder_of_a_set_with_words_gives_the_same_bytes(tmp_path, captioned):
    build_shards(captioned, tmp_path / "one")
    for i in (0, 1):
        build_part(captioned, tmp_path / "parts", (i, 2))
    build_shards(captioned, tmp_path / "parts")
    assert content(tmp_path / "one") == content(tmp_path / "parts")


def test_another_word_table_is_another_set(tmp_path, captioned):
    build_shards(captioned, tmp_path / "set")
    hash_before = load_manifest(tmp_path / "set").hash
    more = captioned.words.model_copy(update={"max_words": 5})
    with pytest.raises(UserError, match=r"words.max_words: found 4, wanted 5"):
        build_shards(captioned.model_copy(update={"words": more}), tmp_path / "set")
    with pytest.raises(UserError, match=r"words: found some, wanted none"):
        build_shards(captioned.model_copy(update={"words": None}), tmp_path / "set")
    captioned.words.vectors.write_text("1 2\nonion 7 8\n")
    with pytest.raises(UserError, match=r"words.vectors: .* is not the file whose vectors the set holds"):
        build_shards(captioned, tmp_path / "set")
    captioned.words.vectors.unlink()  # not there where the set is used
    assert build_shards(captioned, tmp_path / "set").hash == hash_before


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (None, r"words\.vectors: .*vectors\.txt: No such file"),
        ("1 2\nunused 7 8\n", r"none of the 8 words of the captions has a vector"),
    ],
)
def test_vectors_that_are_of_no_use_are_refused(tmp_path, captioned, vectors, words):
    if vectors is None:
        captioned.words.vectors.unlink()
    else:
        captioned.words.vectors.write_text(vectors)
    with pytest.raises(UserError, match=words):
        build_shards(captioned, tmp_path / "set")


def test_words_for_a_source_without_captions_are_refused(tmp_path, captioned):
    plain = SETTINGS.model_copy(update={"words": captioned.words})
    shards.open_raw_data = open_raw_data  # undone by the fixture's monkeypatch
    with pytest.raises(UserError, match="split 'train' of this source has no captions"):
        build_shards(plain, tmp_path / "set")


def test_captions_are_kept_as_texts_where_no_vectors_are_named(tmp_path, captioned, caplog):
    caplog.set_level(logging.INFO)
    manifest = build_shards(captioned.model_copy(update={"words": None}), tmp_path / "set")
    assert "captions are kept as texts, in field 'text'; words.vectors" in caplog.text
    assert str(manifest.field("text")) == "text (items)"
    split = raw_captions().splits["train"]
    written = {
        e.key: e.arrays["text"].tolist() for e in open_reader(manifest, "train", ("text",)).read(range(3))
    }
    assert written == {key: list(split.read(i).captions) for i, key in enumerate(split.keys)}


def test_a_set_built_with_gaps_says_so_to_a_recipe_that_wants_none(tmp_path, captioned, monkeypatch, caplog):
    monkeypatch.setattr(shards, "open_raw_data", lambda source: raw_captions(bad=("video1",)))
    gaps = captioned.model_copy(update={"on_missing": "skip", "max_missing_share": 0.5})
    build_shards(gaps, tmp_path / "set")
    assert json.loads((tmp_path / "set" / "coverage.json").read_text())["splits"]["train"]["written"] == 2
    assert len(build_shards(captioned, tmp_path / "set").split("train")) == 2
    assert "1 entries were left out when it was built" in caplog.text


# -- what is shown ---------------------------------------------------------------------------------


def test_the_report_names_the_first_entries_of_each_kind():
    kinds = {"no captions": {"count": 7, "first": ("a", "b")}}
    split = SplitCoverage(listed=10, written=3, skipped=kinds, tally={}, published=9)  # type: ignore[arg-type]
    text = coverage_text(Coverage(name="x", splits={"train": split}))
    assert "entries: 3 of 10 listed; 9 published: +1 here" in text
    assert "left out: 7 (70.000%)" in text
    assert "7 x no captions: a, b, ..." in text
    assert "captions:" not in text.replace("no captions:", "")
