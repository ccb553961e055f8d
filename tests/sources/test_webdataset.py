"""Tars in webdataset's layout: which members become an entry, and what is refused, hostile tars included."""

import gzip
import io
import logging
import struct
import tarfile

import numpy as np
import pytest
from pydantic import ValidationError

from swamp_dist.config import ShardSettings, WebDatasetSource
from swamp_dist.data.manifest import read_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.verify import verify_shards
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.loading import load
from swamp_dist.prepare.build import BuildWorkers, build_shards, read_coverage
from swamp_dist.prepare.raw_data import pin_source
from swamp_dist.sources import webdataset
from swamp_dist.sources.webdataset import open_splits, safe_key
from tests.data.image_sets import FORMATS, encode, smooth

IMAGE = encode(smooth(0))


def info(name: str, size: int = 0, **changes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    for attribute, value in changes.items():
        setattr(member, attribute, value)
    return member


def write(path, *members: tuple[str, bytes] | tarfile.TarInfo, form: int = tarfile.USTAR_FORMAT):
    """A tar of files and, as they stand, of headers."""
    with tarfile.open(path, "w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                tar.addfile(info(member[0], len(member[1])), io.BytesIO(member[1]))
    return path


def pair(key: str, text: str = "a cat", image: bytes = IMAGE) -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", image), (f"{key}.txt", text.encode())]


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def source(**changes) -> WebDatasetSource:
    default = {} if "tars" in changes or "splits" in changes else {"splits": {"train": "0.tar"}}
    return WebDatasetSource.model_validate({**default, **changes})


def read_all(settings, split: str = "train"):
    opened = open_splits(settings)[split]
    return [opened.read(i) for i in range(len(opened.keys))]


def fault_of(settings, entry: int = 0) -> BadEntry:
    with pytest.raises(BadEntry) as caught:
        open_splits(settings)["train"].read(entry)
    return caught.value


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_become_fields_by_their_suffix(folder, form):
    long = "a" * 90 + "/" + "b" * 40
    write(
        folder / "0.tar", info("./", type=tarfile.DIRTYPE), ("./x/00.PNG", IMAGE),
        ("./x/00.clip.npy", npy([1.5])), ("x/00.cls", b"3\n"),
        ("x/00.json", b'{"c": {"en": ["A dog", null, "two"], "id": 4}}'), (".hidden.jpg", b""),
        ("README", b""), *pair(f"{long}.v1"), (f"{long}.json", b'{"c": {"en": "one"}}'),
        (f"{long}.clip.npy", npy(np.array([2.5], ">f8"))), form=form,
    )  # fmt: skip
    fields = {"image": ["jpg", "png", "v1.jpg"], "text": "json", "clip": "clip.npy"}
    one, other = read_all(source(fields=fields, json_key="c.en"))
    assert (one.key, one.label, one.text) == ("x_x-2f00", 3, {"key": "x/00"})
    assert (one.captions, other.captions) == (("A dog", "two"), ("one",))
    assert one.fields["image"] == other.fields["image"] == IMAGE
    assert (one.fields["clip"].tolist(), other.fields["clip"].tolist()) == ([1.5], [2.5])
    assert other.fields["clip"].dtype == np.dtype("=f8")
    assert other.label == -1
    assert other.text == {"key": long}
    assert len(f"{other.key}.clip.webp") <= 100


def test_patterns_name_tars_and_shares_divide_their_entries(folder):
    for number in range(8, 11):
        write(folder / f"s-{number:03d}.tar", *(m for i in range(20) for m in pair(f"{number}_{i}")))
    whole = open_splits(source(splits={"train": "s-{008..009}.tar", "test": ["s-01?.tar"]}))
    assert {name: len(split.keys) for name, split in whole.items()} == {"train": 40, "test": 20}
    shares = {"shares": {"train": 0.8, "test": 0.2}}
    drawn = open_splits(source(tars="s-*.tar", **shares))
    assert {name: len(split.keys) for name, split in drawn.items()} == {"train": 48, "test": 12}
    backwards = open_splits(source(tars=["s-010.tar", "s-{008,009}.tar"], **shares))
    assert set(backwards["test"].keys) == set(drawn["test"].keys)
    other = open_splits(source(tars="s-*.tar", seed=1, **shares))
    assert set(other["test"].keys) != set(drawn["test"].keys)
    with pytest.raises(UserError, match=r"no such file: s-011.tar \(1 of 4"):
        open_splits(source(splits={"train": "s-{008..011}.tar"}))
    with pytest.raises(UserError, match="no such file: t-"):
        open_splits(source(splits={"train": "t-*.tar"}))
    with pytest.raises(UserError, match="s-008.tar is in train and in test"):
        open_splits(source(splits={"train": "s-*.tar", "test": "s-008.tar"}))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"splits": {}}, "give either splits"),
        ({"tars": "a.tar"}, "give either splits"),
        ({"splits": {"train": []}}, "at least one tar"),
        ({"splits": {"train": "a{1.tar"}}, "braces in pairs"),
        ({"splits": {"train": "a{1}.tar"}}, "expected {000..009} or {a,b}"),
        ({"splits": {"train": "a{0..999}{0..999}.tar"}}, "1,000,000 names"),
        ({"splits": {"train": "a{5..1}.tar"}}, "stands for 0 names"),
        ({"fields": {"image": ["jpg", "txt"]}}, "members of one kind"),
        ({"fields": {"image": "gif"}}, "members of one kind"),
        ({"fields": {"a": "txt", "b": "title.txt"}}, "all captions"),
        ({"fields": {"a": "json"}}, "json_key: give it where"),
        ({"fields": {"a": "json"}, "json_key": "a..b"}, "names with dots between"),
        ({"fields": {"image": "JPG"}}, "in lower case"),
        ({"tars": "a.tar", "shares": {"train": 0.5}}, "add up to 1"),
    ],
)
def test_settings_that_fit_nothing_are_refused(settings, says):
    with pytest.raises(ValidationError) as caught:
        source(**settings)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ([("a.txt", b"a cat"), *pair("b")], "no image"),
        ([("a.jpg", IMAGE), *pair("b")], "no text"),
        (pair("a", "..."), "caption without words"),
        ([("a.jpg", IMAGE), ("a.txt", b"caf\xe9")], "text is no UTF-8"),
        ([("a.jpg", IMAGE), ("a.txt", b"a" * (2**20 + 1))], "member too large"),
        ([*pair("a"), ("a.cls", b"1.5")], "no class number"),
        ([*pair("a"), ("a.cls", b"cat" * 1000)], "no class number"),
        ([*pair("a"), ("a.jpg", IMAGE)], "duplicate member"),
        (pair("../a"), "unsafe member name"),
        (pair("/etc/a"), "unsafe member name"),
    ],
)  # fmt: skip
def test_bad_members_are_bad_entries_of_a_kind(folder, members, kind):
    write(folder / "0.tar", *members, form=tarfile.PAX_FORMAT)
    assert fault_of(source()).kind == kind


@pytest.mark.parametrize(
    "changes",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "b.jpg"},
        {"type": tarfile.CHRTYPE, "devmajor": 1},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.GNUTYPE_SPARSE},
        {"pax_headers": {"GNU.sparse.major": "1"}},
    ],
)
def test_links_devices_and_sparse_files_are_no_members(folder, changes):
    write(folder / "0.tar", info("a.jpg", **changes), ("a.txt", b"a"), *pair("b"), form=tarfile.PAX_FORMAT)
    assert fault_of(source()).kind == "member is no file"
    assert open_splits(source())["train"].read(1).captions == ("a cat",)


@pytest.mark.parametrize(
    "content", [npy(np.array([{}])), npy(np.array(["a"])), npy(np.zeros(9))[:-1], b"\x80\x04.", b""]
)
def test_arrays_are_plain(folder, content):
    write(folder / "0.tar", ("a.npy", content))
    assert fault_of(source(fields={"clip": "npy"})).kind == "array malformed"


@pytest.mark.parametrize("content", [b"[", b'{"c": 3}', b'"c"', b"[" * 10**5])
def test_json_holds_texts_at_its_key(folder, content):
    write(folder / "0.tar", ("a.jpg", IMAGE), ("a.json", content))
    assert fault_of(source(fields={"text": "json"}, json_key="c")).kind == "captions malformed"


def test_halves_of_two_entries_never_become_one(folder):
    write(folder / "0.tar", ("a.jpg", IMAGE), *pair("b"), ("a.txt", b"another"), ("c.jpg", IMAGE))
    write(folder / "1.tar", ("c.txt", b"another"), *pair("b", "another"))
    split = open_splits(source(splits={"train": "?.tar"}))["train"]
    found = []
    for i in range(len(split.keys)):
        try:
            found.append((split.keys[i], split.read(i).captions))
        except BadEntry as error:
            found.append((split.keys[i], error.kind))
    assert found == [
        ("v_a", "no text"), ("v_b", ("a cat",)), ("v1_a", "duplicate key"), ("v_c", "no text"),
        ("v1_c", "duplicate key"), ("v1_b", "duplicate key"),
    ]  # fmt: skip
    assert [list(texts) for texts in split.captions()] == [[], ["a cat"], [], [], [], []]


def damaged_header(name: str, size_field: bytes) -> bytes:
    block = bytearray(info(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size_field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (gzip.compress, "it is compressed.*gunzip -k 0.tar"),
        (lambda tar: tar[:700], "it is cut.*'a.jpg'"),
        (lambda tar: tar[:1000], "it is cut"),
        (lambda tar: tar.rstrip(b"\0"), "it is cut"),
        (lambda tar: tar[:512].replace(b"a.jpg", b"b.jpg") + tar[512:], "no header of a tar at byte 0"),
        (lambda tar: tar + tar, "several tars in one file"),
        (lambda tar: b"", "it is cut at byte 0"),
        (lambda tar: damaged_header("a.jpg", b"\xff" * 11 + b"\x00") + tar, "claims -256 bytes"),
        (lambda tar: damaged_header("a.jpg", struct.pack(">IQ", 2**31, 2**62)) + tar, "it is cut"),
        (lambda tar: damaged_header("a.jpg", b"77777777777\0") + tar, "it is cut"),
        (lambda tar: info("L", 2**17, type=b"L").tobuf(tarfile.GNU_FORMAT) + tar, "a name of 131,072 bytes"),
        (lambda tar: pax(b"99 path=a\n") + tar, "damaged pax records"),
        (lambda tar: pax(b"12 size=-99\n") + tar, "claim a size of b'-99'"),
    ],
)  # fmt: skip
def test_damaged_and_hostile_tars_are_refused_by_name(folder, change, says):
    path = write(folder / "0.tar", *pair("a"))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=f"(?s)^0.tar: .*{says}"):
        open_splits(source())


def pax(records: bytes) -> bytes:
    return info("x", len(records), type=b"x").tobuf() + records.ljust(512, b"\0")


def test_nothing_is_extracted_and_no_pipe_is_waited_for(folder):
    write(folder / "0.tar", *pair("../escaped"), *pair("b"))
    read = open_splits(source())["train"].read
    assert read(1).key == "v_b"
    assert [path.name for path in folder.iterdir()] == ["0.tar"]
    assert not (folder.parent / "escaped.jpg").exists()


def test_tars_without_entries_or_fields_are_refused(folder):
    write(folder / "0.tar", ("README", b"x"))
    with pytest.raises(UserError, match="the tars hold no entries"):
        open_splits(source())
    write(folder / "0.tar", ("a.gif", b"x"), ("a.txt", b"x"))
    with pytest.raises(UserError, match=r"source.fields.image: split 'train': no entry has .* jpg or jpeg"):
        open_splits(source())


def test_a_tar_that_changes_during_the_build_is_refused(folder):
    write(folder / "0.tar", *pair("a"))
    split = open_splits(source())["train"]
    write(folder / "0.tar", *pair("a", "other"), *pair("b"))
    with pytest.raises(UserError, match="0.tar was changed since the build began"):
        split.read(0)


def test_a_tar_that_goes_over_to_another_split_makes_another_set(folder):
    for name in ("a-0", "b-0", "b-1"):
        write(folder / f"{name}.tar", *pair(name))
    settings = source(splits={"train": "a-*.tar", "test": "b-*.tar"})
    before = pin_source(settings)
    assert pin_source(settings) == before
    (folder / "b-0.tar").rename(folder / "a-9.tar")
    assert pin_source(settings) != before
    with pytest.raises(UserError, match=r"source.sha256: expected .* a-0.tar"):
        open_splits(before)


def test_class_names_are_numbered_over_all_splits(folder):
    apples = ("b.cls", "Äpfel".encode())
    write(folder / "0.tar", *pair("a"), ("a.cls", b"dog\n"), *pair("b"), apples, *pair("c"), ("c.cls", b"-1"))
    write(folder / "1.tar", *pair("a"), ("a.cls", b"cat"), *pair("b"), *pair("c"), ("c.cls", b"?"))
    settings = source(splits={"train": "0.tar", "test": "1.tar"})
    train = read_all(settings)
    assert [(each.label, each.text.get("label")) for each in train] == [(1, "dog"), (2, "Äpfel"), (-1, None)]
    test = open_splits(settings)["test"]
    assert [(test.read(i).label, test.read(i).text.get("label")) for i in range(2)] == [
        (0, "cat"),
        (-1, None),
    ]
    with pytest.raises(BadEntry, match="expected a name of at most 200 letters"):
        test.read(2)
    assert open_splits(source(splits={"a": "1.tar", "b": "0.tar"}))["b"].read(0).label == 1
    write(folder / "2.tar", *pair("x"), ("x.cls", b"7"))
    with pytest.raises(UserError, match=r"2.tar, 'x' has the number 7, 0.tar, 'a' the name 'dog'"):
        open_splits(source(splits={"train": ["0.tar", "2.tar"]}))
    assert read_all(source(splits={"train": ["0.tar", "2.tar"]}, label=None))[3].label == -1


def test_recipes_give_one_or_several(folder):
    recipe = folder / "recipes" / "r.yaml"
    recipe.parent.mkdir()
    recipe.write_text(
        "name: r\nsource:\n  kind: webdataset\n  tars: [a.tar, 'b-*.tar']\n  shares: {train: 1.0}\n"
        "  fields: {image: [jpg, png], text: json}\n  json_key: c\n"
    )
    write(folder / "recipes" / "b-1.tar", ("0.png", IMAGE), ("0.json", b'{"c": "a cat"}'))
    write(folder / "recipes" / "a.tar", ("1.jpg", IMAGE), ("1.json", b'{"c": ["a dog"]}'))
    found = read_all(load(recipe, ShardSettings).source)
    assert [(each.key, each.captions) for each in found] == [("v_1", ("a dog",)), ("v_0", ("a cat",))]


def test_long_and_strange_keys_are_safe_and_distinct():
    names = ["a" * 200, "a" * 201, "é" * 60, "x/y", "x_y", "x-2fy", "a b"]
    keys = [safe_key(name, repeat, "image.webp") for name in names for repeat in (0, 1)]
    assert len(set(keys)) == len(keys)
    assert all(len(f"{key}.image.webp") <= 100 and key.isascii() for key in keys)
    assert keys == [safe_key(name, repeat, "image.webp") for name in names for repeat in (0, 1)]


def write_shards_of_others(folder, count: int = 30):
    for number in range(3):
        members = []
        for i in range(number, count, 3):
            image = encode(smooth(i), FORMATS[i % 3])
            members += [
                (f"{i:05d}.{FORMATS[i % 3].lower()}", image),
                (f"{i:05d}.txt", f"picture {i}".encode()),
            ]
        write(folder / f"part-{number}.tar", *members)


RECIPE = {
    "name": "mine",
    "source": {"kind": "webdataset", "splits": {"train": "part-{0..1}.tar", "validation": "part-2.tar"}},
    "entries_per_shard": 8,
    "on_missing": "skip",
    "max_missing_share": 0.2,
}


def test_a_set_is_built_and_what_is_bad_is_counted(folder, caplog):
    write_shards_of_others(folder)
    with tarfile.open("part-0.tar", "a", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (*pair("00001", "a repeated key"), *pair("bad", "x", IMAGE[:200]), *pair("ä ö")):
            tar.addfile(info(name, len(data)), io.BytesIO(data))
    settings = ShardSettings.model_validate(RECIPE)
    with caplog.at_level(logging.INFO):
        manifest = build_shards(settings, folder / "one")
    assert {name: len(manifest.split(name)) for name in manifest.splits} == {"train": 21, "validation": 10}
    coverage, _ = read_coverage(folder / "one")
    assert coverage is not None
    counts = {kind: found.count for kind, found in coverage.splits["train"].skipped.items()}
    assert counts == {"duplicate key": 1, "image cannot be decoded": 1}
    assert "tars of webdataset: 3, " in caplog.text
    assert "entries: 33, " in caplog.text
    assert "reading all entries takes about" in caplog.text
    entries = open_reader(manifest, "train", ("text",)).read(range(21))
    assert {entry.key: entry.arrays["text"].item(0) for entry in entries}["v_00004"] == "picture 4"
    assert build_shards(settings, folder / "one").hash == manifest.hash
    with pytest.raises(UserError, match="max_missing_share=0"):
        build_shards(settings.model_copy(update={"max_missing_share": 0.0}), folder / "three")


@pytest.mark.slow
def test_processes_build_the_same_set(folder):
    write_shards_of_others(folder)
    settings = ShardSettings.model_validate(RECIPE)
    one = build_shards(settings, folder / "one")
    assert build_shards(settings, folder / "two", workers=BuildWorkers(2)).hash == one.hash


def test_a_folder_of_tars_without_a_manifest_is_told_how_to_import_them(folder):
    write_shards_of_others(folder)
    for look in (read_manifest, verify_shards):
        with pytest.raises(UserError, match=r"no manifest.json in it.\nIt holds 3 tars.*kind: webdataset"):
            look(folder)
    build_shards(ShardSettings.model_validate(RECIPE), folder / "set")
    (folder / "set" / "manifest.json").unlink()
    with pytest.raises(UserError, match="Build it with: swamp shards build"):
        read_manifest(folder / "set")


def test_members_may_have_the_size_that_shards_take_and_no_more(folder, monkeypatch):
    monkeypatch.setattr(webdataset, "MOST_BYTES", len(IMAGE) - 1)
    write(folder / "0.tar", *pair("a"))
    assert fault_of(source()).kind == "member too large"
