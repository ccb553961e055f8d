import pytest

from tests.data.shard_sets import build, open_reader
from tests.data.test_reader import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_entries_one_after_the_other_are_the_same_entries(tmp_path, kind):
    manifest = build(tmp_path / "set")
    reader = open_reader(manifest, "train", ("a", "b"), **kind)
    order = [30, 2, 2, 17]
    found = [(e.key, e.arrays["a"].tolist(), e.arrays["b"].tolist()) for e in reader.each(order)]
    assert found == [(e.key, e.arrays["a"].tolist(), e.arrays["b"].tolist()) for e in reader.read(order)]
    kept = reader.read(order)
    list(reader.each([5, 6]))
    assert [e.arrays["a"][0] for e in kept] == [values[0] for _, values, _ in found]
