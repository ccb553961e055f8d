import json
import re
import shutil

import numpy as np
import pytest

from swamp_dist.data.verify import verify_shards
from swamp_dist.errors import UserError
from tests.data.shard_sets import build, flip, members, rename, rewrite, swap


@pytest.fixture
def folder(tmp_path):
    build(tmp_path / "set", {"train": 37, "test": 12}, seed=None)
    return tmp_path / "set"


def _reasons(folder):
    return {problem.file: problem.reason for problem in verify_shards(folder)}


def _shard(folder, number=1):
    return folder / f"train-{number:06d}.tar"


def _cut(shard, byte):
    shard.write_bytes(shard.read_bytes()[:byte])


def test_a_sound_set_has_no_problems(folder):
    assert verify_shards(folder) == []


def _swap_json(shard):
    names = ["key-0014.entry.json", "key-0018.entry.json"]
    data = {name: shard.read_bytes()[slice(*members(shard)[name])] for name in names}
    rewrite(
        shard, lambda name, payload: (name, data[names[not names.index(name)]] if name in names else payload)
    )


def _drop_the_last_entry(shard):
    data, start = shard.read_bytes(), members(shard)["key-0019.entry.json"][0] - 512
    shard.write_bytes(data[:start] + bytes(len(data) - start))  # a sound tar of the right size


DAMAGES = {
    "dropped": (_drop_the_last_entry, "9 entries, the manifest says 10"),
    "renamed": (lambda s: rename(s, "key-0014.a.npy", "key-0015.a.npy"), "key, shard, offset, size"),
    "member boundary": (
        lambda s: _cut(s, members(s)["key-0014.a.npy"][0] - 512),
        "truncated: .* is cut at byte",
    ),
    "in a header": (lambda s: _cut(s, members(s)["key-0014.a.npy"][0] - 200), "truncated.*inside a header"),
    "in a field": (
        lambda s: _cut(s, members(s)["key-0014.a.npy"][0] + 9),
        "truncated.*inside key-0014.a.npy",
    ),
    "end blocks": (lambda s: _cut(s, s.stat().st_size - 5120), "truncated"),
    "empty": (lambda s: s.write_bytes(b""), "truncated: 0 bytes.*cut at byte 0"),
    "missing": (lambda s: s.unlink(), "missing"),
    "garbage": (
        lambda s: s.write_bytes(s.read_bytes() + b"x" * 99),
        "too long.*bytes that belong to no entry",
    ),
    "second archive": (lambda s: s.write_bytes(s.read_bytes() * 2), "too long.*belong to no entry"),
    "value": (lambda s: flip(s, members(s)["key-0014.b.npy"][1] - 1), "entry 'key-0014': field 'b'.*xxh3"),
    "name": (lambda s: flip(s, members(s)["key-0014.b.npy"][0] - 512 + 4), "damaged header at byte"),
    "checksum": (lambda s: flip(s, members(s)["key-0014.b.npy"][0] - 512 + 150), "damaged header at byte"),
    "padding": (lambda s: flip(s, members(s)["key-0014.b.npy"][1] + 3), "sha256 differs"),
    "text": (lambda s: flip(s, s.read_bytes().index(b"caption 14")), "sha256 differs"),
    "fields": (lambda s: swap(s, "key-0014.a.npy", "key-0015.a.npy"), "entry 'key-0014': field 'a' does not"),
    "json": (_swap_json, "entry 'key-0014': mispaired: entry.json says .'key-0018'"),
    "end": (lambda s: flip(s, s.stat().st_size - 100), "belong to no entry"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_a_reason(folder, damage):
    change, reason = DAMAGES[damage]
    change(_shard(folder))
    (problem,) = verify_shards(folder)
    assert (problem.split, problem.file) == ("train", "train-000001.tar")
    assert re.search(reason, problem.reason), problem.reason
    assert str(problem).startswith("train-000001.tar (split train): ")


def test_exchanged_shards_are_both_named(folder):
    spare = folder.parent / "spare"
    shutil.move(_shard(folder, 1), spare)
    shutil.move(_shard(folder, 2), _shard(folder, 1))
    shutil.move(spare, _shard(folder, 2))
    reasons = _reasons(folder)
    assert reasons.keys() == {"train-000001.tar", "train-000002.tar"}
    assert "entry 'key-0020'" in reasons["train-000001.tar"]
    assert "the index says (b'key-0010'" in reasons["train-000001.tar"]


def test_it_goes_on_after_the_first_problem(folder):
    for number, damage in enumerate(("missing", "empty", "value")):
        shard = _shard(folder, number)
        if damage == "value":
            flip(shard, members(shard)["key-0024.b.npy"][1] - 1)
        else:
            DAMAGES[damage][0](shard)
    flip(folder / "test-000001.tar", 700)
    found = [(p.split, p.file) for p in verify_shards(folder)]
    assert found == [("train", f"train-{i:06d}.tar") for i in range(3)] + [("test", "test-000001.tar")]


def test_every_flipped_bit_and_every_cut_is_found(folder):
    shard, random = _shard(folder, 3), np.random.default_rng(0)
    sound = shard.read_bytes()
    for byte in random.integers(len(sound), size=64).tolist():
        flip(shard, byte, byte % 8)
        assert _reasons(folder).keys() == {shard.name}
        _cut(shard, byte)
        assert _reasons(folder).keys() == {shard.name}
        shard.write_bytes(sound)


def test_a_damaged_index_is_named_and_the_shards_are_still_checked(folder):
    path = folder / "train.index.npy"
    rows = np.load(path)
    rows["offset"][3] += 512
    np.save(path, rows)
    flip(_shard(folder), members(_shard(folder))["key-0014.b.npy"][1] - 1)
    reasons = _reasons(folder)
    assert reasons["train.index.npy"].startswith("sha256 differs from the manifest; row 3 (entry 'key-0003')")
    assert "key-0014" in reasons["train-000001.tar"]
    assert len(reasons) == 2
    path.unlink()
    assert _reasons(folder)["train.index.npy"] == "missing"


def test_an_edited_manifest_is_refused_since_nothing_can_be_compared_with_it(folder):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["splits"]["train"]["shards"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not match its own hash"):
        verify_shards(folder)
