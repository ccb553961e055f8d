"""A data set through a module of the user: where it is found, what the manifest keeps, how errors read."""

import hashlib
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from swamp_dist.config import PythonSource, ShardSettings, WordsBuildSettings
from swamp_dist.data.manifest import ManifestRecord, load_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.shard_plan import plan_build
from swamp_dist.data.staging import Staging
from swamp_dist.data.words import open_words
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.loading import load
from swamp_dist.prepare import ray_tasks
from swamp_dist.prepare.build import BuildWorkers, build_part, build_shards, open_build_source
from swamp_dist.prepare.raw_data import open_raw_data, source_record
from swamp_dist.sources.python import item_fields, module_sha256, open_splits, ragged_fields
from tests.data.image_sets import encode, smooth
from tests.data.raw_sets import content

GOOD = """
import numpy as np
from my_own_constants import SCALE
from swamp_dist import BadEntry, RawSplit, Sample

def open_splits(entries, captions=False):
    return {name: _split(name, count, captions) for name, count in entries.items()}

def item_fields(entries, captions=False):
    return {"b"}

def _split(name, count, captions):
    keys = [f"{name}{i}" for i in range(count)]
    texts = [(f"red {name}", "a cat") for _ in keys]
    def read(i):
        import my_own_lazy
        values = SCALE * np.full(my_own_lazy.WIDTH, i, np.float32)
        fields = {"a": values, "b": np.stack([values, -values])}
        return Sample(keys[i], fields, captions=texts[i] if captions else ())
    return RawSplit(keys, read, (lambda: iter(texts)) if captions else None)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, without a trace of its modules in other tests."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_constants.py").write_text("SCALE = 2")
    (tmp_path / "my_own_lazy.py").write_text("WIDTH = 3")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("my_own", "my_package")):
            del sys.modules[name]


def write(folder: Path, text: str, name: str = "my_package/my_module.py") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def source(options=None, target: str = "my_package.my_module", sha256: str | None = None) -> PythonSource:
    return PythonSource(target=target, options=options or {}, sha256=sha256)


OPTIONS = {"entries": {"train": 23, "test": 5}}


def recipe(**changes) -> ShardSettings:
    return ShardSettings(name="mine", source=source(OPTIONS), entries_per_shard=4).model_copy(update=changes)


# -- what works ------------------------------------------------------------------------------------


def test_a_module_is_found_below_the_working_folder_and_the_path_is_as_before(folder):
    write(folder, GOOD)
    before = list(sys.path)
    splits = open_splits(source(OPTIONS))
    assert {name: len(split.keys) for name, split in splits.items()} == OPTIONS["entries"]
    assert splits["train"].read(2).fields["a"].tolist() == [4, 4, 4]  # imports inside a function work too
    assert item_fields(source(OPTIONS)) == {"b"}
    assert sys.path == before
    assert str(folder) not in sys.path


def test_the_manifest_records_module_options_and_hash(folder):
    path = write(folder, GOOD)
    manifest = build_shards(recipe(), folder / "set")
    wanted = {"kind": "python", "target": "my_package.my_module", "options": OPTIONS}
    assert manifest.record.source == wanted | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert manifest.field("b").items
    assert len(manifest.split("train")) == 23


@pytest.mark.parametrize(
    "workers", [BuildWorkers(2), pytest.param(BuildWorkers(ray=True), marks=pytest.mark.slow)]
)
def test_child_processes_and_ray_tasks_give_the_same_set(folder, workers):
    write(folder, GOOD)
    build_shards(recipe(), folder / "alone")
    build_shards(recipe(), folder / "set", workers=workers)
    assert content(folder / "set") == content(folder / "alone")


def test_parts_give_the_same_set(folder):
    write(folder, GOOD)
    build_shards(recipe(), folder / "alone")
    for i in (0, 1):
        build_part(recipe(), folder / "set", (i, 2))
    build_shards(recipe(), folder / "set")
    assert content(folder / "set") == content(folder / "alone")


def test_captions_become_words(folder):
    write(folder, GOOD)
    (folder / "vectors.txt").write_text("3 2\nred 1 2\ncat 3 4\ndog 5 6\n")
    words = WordsBuildSettings(vectors=folder / "vectors.txt", max_words=4)
    options = OPTIONS | {"captions": True}
    manifest = build_shards(recipe(source=source(options), words=words), folder / "set")
    table = open_words(manifest)
    assert table is not None
    assert table.words == ("", "red", "cat")


def test_an_edited_module_is_another_recipe(folder):
    path = write(folder, GOOD)
    build_shards(recipe(), folder / "set")
    path.write_text(GOOD + "# another\n")
    with pytest.raises(UserError, match=r"source.sha256: found '\w+', wanted '\w+'"):
        build_shards(recipe(), folder / "set")


def test_a_pinned_module_need_not_be_there_where_its_set_is_used(folder):
    path = write(folder, GOOD)
    pinned = recipe(source=source(OPTIONS, sha256=module_sha256(source())))
    made = build_shards(pinned, folder / "set")
    path.unlink()
    assert build_shards(pinned, folder / "set").hash == made.hash
    with pytest.raises(UserError, match="there is no module"):
        build_shards(recipe(), folder / "set")


def test_a_child_refuses_a_module_that_was_edited_since_the_build_began(folder):
    path = write(folder, GOOD)
    settings = recipe(source=source(OPTIONS, sha256=module_sha256(source())))
    assert open_build_source(settings, None).splits.keys() == {"train", "test"}
    path.write_text(GOOD + "# another\n")
    with pytest.raises(
        UserError, match=r"source.sha256: expected \w+ .*\nIt was edited since the build began"
    ):
        open_build_source(settings, None)


def test_a_recipe_file_gives_the_options(folder):
    write(folder, GOOD)
    (folder / "recipe.yaml").write_text(
        "name: mine\nsource: {kind: python, target: my_package.my_module, options: {entries: {train: 2}}}\n"
    )
    settings = load(folder / "recipe.yaml", ShardSettings, ["source.options.entries.test=3"])
    assert len(open_raw_data(settings.source).splits["test"].keys) == 3
    assert source_record(settings.source)["options"] == {"entries": {"train": 2, "test": 3}}
    with pytest.raises(
        UserError, match=r"expected the name of a module with dots.*'my_package/my_module.py'"
    ):
        load(folder / "recipe.yaml", ShardSettings, ["source.target=my_package/my_module.py"])


RAGGED = """
import numpy as np
from swamp_dist import RawSplit, Sample

def open_splits():
    keys = [f"k{i}" for i in range(9)]
    return {"train": RawSplit(keys, lambda i: Sample(keys[i], {"r": np.full((1 + i % 3, 2), i, np.float32)}))}

def item_fields():
    return ()
"""


def test_a_module_tells_its_ragged_fields_where_it_has_any(folder):
    write(folder, GOOD)
    assert ragged_fields(source(OPTIONS)) == frozenset()
    write(folder, RAGGED + "def ragged_fields(): return {'r'}\n", "my_own_sets.py")
    named = source(target="my_own_sets")
    assert ragged_fields(named) == {"r"}
    wanted = recipe(source=named)
    manifest = build_shards(wanted, folder / "set", workers=BuildWorkers(2))
    assert manifest.field("r").ragged
    lengths = {k: len(v) for k, v in zip(manifest.split("train").keys(range(9)),
               open_reader(manifest, "train", ("r",)).stack("r", range(9)), strict=True)}  # fmt: skip
    assert lengths == {f"k{i}": 1 + i % 3 for i in range(9)}
    write(folder, RAGGED + "def ragged_fields(): return 'r'\n", "my_own_wrong.py")
    with pytest.raises(UserError, match=r"ragged_fields: expected a set of names, .*found str 'r'"):
        ragged_fields(source(target="my_own_wrong"))


# -- what is wrong ---------------------------------------------------------------------------------

RETURNS = "def item_fields(): return ()\ndef open_splits(): return {}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"there is no module 'my_package.my_module'.\nExpected .*my_package/my_module.py"),
        (
            "def item_fields(): return ()",
            r"my_module.py\) has no function open_splits\.\nA module of a data set",
        ),
        ("def open_splits(): return {}", r"my_module.py\) has no function item_fields\."),
        (RETURNS.replace("open_splits()", "open_splits(folder)"), r"missing a required argument: 'folder'"),
        (RETURNS.replace("{}", "[1]"), r"open_splits: expected a mapping of split names .* found list \[1\]"),
        (
            RETURNS.replace("{}", "{'train': 3}"),
            r"split 'train': expected a name with a RawSplit, found int 3",
        ),
        (RETURNS.replace("()\n", "'text'\n"), r"item_fields: expected a set of names, .*found str 'text'"),
        (
            RETURNS.replace("{}", "1 / 0"),
            r"my_module.open_splits: ZeroDivisionError: .*my_module.py:2, in open_splits\)",
        ),
        (
            "import no_such_library",
            r"importing my_package.my_module failed: ModuleNotFoundError: .*no_such_library",
        ),
        (
            "def open_splits(:",
            r"importing my_package.my_module failed: SyntaxError: .*my_module.py, line 1\)",
        ),
        (
            "raise RuntimeError",
            r"importing my_package.my_module failed: RuntimeError \(.*my_module.py:1, in <module>\)",
        ),
    ],
)
def test_a_module_that_cannot_be_used_is_named_with_the_fix(folder, text, words):
    (folder / "my_package").mkdir()
    if text is not None:
        write(folder, text)
    with pytest.raises(UserError, match=words):
        build_shards(recipe(source=source()), folder / "set")
    assert not (folder / "set").exists()


def test_options_that_the_function_does_not_take_are_named(folder):
    write(folder, GOOD)
    with pytest.raises(
        UserError,
        match=r"got an unexpected keyword argument 'entrys'\.\nGiven: entries, entrys; its parameters",
    ):
        open_splits(source({"entries": {}, "entrys": {}}))


@pytest.mark.parametrize("target", ["my_package", "my_own_constants.inner", "__main__", "sys"])
def test_what_is_no_module_with_a_file_is_no_target(folder, target):
    (folder / "my_package").mkdir()  # a folder without __init__.py
    with pytest.raises(UserError, match=f"there is no module '{target}'"):
        open_splits(source(target=target))


READS = """
import numpy as np
from swamp_dist import BadEntry, RawSplit, Sample, UserError
def item_fields(): return ()
def good(i): return Sample(f"k{i}", {"a": np.zeros(2, np.float32)})
def raises(i): return helper(i)
def helper(i): raise ValueError("row is short")
def bad(i): raise BadEntry(f"k{i}", "no features", "file is missing")
def nothing(i): return None
def listed(i): return Sample(f"k{i}", {"a": [1.0, 2.0]})
def text(i): return Sample(f"k{i}", {"a": np.zeros(2, np.float32)}, captions="a cat")
def open_splits(): return {"train": RawSplit(["k0"], READ)}
"""


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (
            "raises",
            r"split 'train', entry 'k0': ValueError: row is short \(.*my_module.py:7, in helper\)\.\nMend "
            r"the module my_p",
        ),
        ("bad", r"split 'train', entry k0: file is missing\n"),
        (
            "nothing",
            r"my_module.*: split 'train', entry 'k0': expected a Sample from RawSplit.read, found NoneType",
        ),
        ("listed", r"entry 'k0', field 'a': expected a numpy array, .*found list"),
        ("text", r"entry 'k0': captions: expected a tuple of texts .*\('a cat',\)\), found str 'a cat'"),
    ],
)
def test_what_goes_wrong_in_an_entry_names_entry_and_module(folder, read, words):
    write(folder, READS.replace("READ", read))
    with pytest.raises(UserError, match=words):
        build_shards(recipe(source=source()), folder / "set")


def test_a_child_process_says_the_same(folder):
    write(folder, READS.replace("READ", "raises"))
    with pytest.raises(UserError, match=r"split 'train', entry 'k0': ValueError: row is short"):
        build_shards(recipe(source=source()), folder / "set", workers=BuildWorkers(2))


def test_a_bad_entry_stays_one_so_that_a_build_may_skip_it(folder):
    write(folder, READS.replace("READ", "bad"))
    with pytest.raises(BadEntry):
        open_splits(source())["train"].read(0)


def test_captions_that_fail_are_named(folder):
    text = READS.replace('["k0"], READ', '["k0"], good, CAPTIONS')
    write(folder, text.replace("CAPTIONS", "lambda: iter(['a cat'])"))
    captions = open_splits(source())["train"].captions
    assert captions is not None
    with pytest.raises(
        UserError, match=r"split 'train', captions: expected a tuple of texts .* found str 'a cat'"
    ):
        list(captions())
    write(folder, text.replace("CAPTIONS", "lambda: 1 / 0"), "my_package/other.py")
    captions = open_splits(source(target="my_package.other"))["train"].captions
    assert captions is not None
    with pytest.raises(
        UserError, match=r"split 'train', captions: ZeroDivisionError(.|\n)*Mend the module my_package.other"
    ):
        list(captions())


def test_a_built_set_needs_no_module_to_be_read(folder):
    path = write(folder, GOOD)
    build_shards(recipe(), folder / "set")
    path.unlink()
    assert np.array_equal(load_manifest(folder / "set").split("test").labels, np.full(5, -1))


RAW = """
from swamp_dist import RawSplit, Sample
def item_fields(): return {"texts"}
def read(i):
    from my_own_lazy import IMAGE  # found where the module is, wherever the build runs
    fields = {"image": IMAGE, "title": f"no. {i}", "texts": ("a", f"b {i}")}
    return Sample(f"k{i}", fields, captions=(f"cat {i}",))
def open_splits():
    keys = [f"k{i}" for i in range(4)]
    captions = [(f"cat {i}",) for i in range(4)]
    return {"train": RawSplit(keys, read, lambda: captions, caption_field="said")}
"""


def test_images_texts_and_captions_go_through_and_a_ray_worker_may_start_elsewhere(folder, monkeypatch):
    image = encode(smooth(0))
    (folder / "my_own_lazy.py").write_text(f"IMAGE = {image!r}")
    write(folder, RAW)
    settings = recipe(source=source())
    manifest = build_shards(settings, folder / "set")
    fields = {name: str(spec) for name, spec in manifest.record.fields.items()}
    assert fields == {"image": "image", "title": "text", "texts": "text (items)", "said": "text (items)"}
    entries = open_reader(manifest, "train", tuple(fields)).read(range(4))
    for entry in entries:
        i = entry.key.removeprefix("k")
        assert (entry.arrays["image"].item(), entry.arrays["title"].item()) == (image, f"no. {i}")
        assert entry.arrays["texts"].tolist() == ["a", f"b {i}"]
        assert entry.arrays["said"].tolist() == [f"cat {i}"]

    opener = partial(open_build_source, settings, None)
    raw = opener()
    plan = plan_build(ManifestRecord(
        name="mine", source={}, entries_per_shard=4, shuffle_seed=0, fields={}, classes=0, splits={}
    ), raw)  # fmt: skip
    staging = Staging(folder / "elsewhere", plan.hash)
    staging.prepare()
    for name in ("my_package.my_module", "my_package", "my_own_lazy"):
        sys.modules.pop(name, None)  # as in a process that was just started
    (folder / "other").mkdir()
    monkeypatch.chdir(folder / "other")
    records, refused, failed = ray_tasks._build_group(
        str(folder), staging, plan, opener, False, {}, list(plan.units)
    )
    assert (len(records), refused, failed) == (1, "", "")


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        (
            "('a', float('nan'))",
            r"captions: caption 1: expected a text \(\"\" for one without words, .*found float nan",
        ),
        (
            "None",
            r"captions: expected a tuple of texts for every entry \(\(\) where .*\), found NoneType",
        ),
    ],
)
def test_captions_that_are_no_texts_are_refused_with_what_to_give(folder, captions, words):
    write(folder, READS.replace("READ", "text").replace("'a cat'", captions).replace('"a cat"', captions))
    with pytest.raises(UserError, match=words):
        open_splits(source())["train"].read(0)
