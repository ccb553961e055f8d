"""Objects, one per line, and what is wrong with others, by line."""

import pytest

from swamp_dist.errors import UserError
from swamp_dist.sources.columns.json_lines import read_json_lines


def test_members_of_every_line_with_their_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes('\ufeff{"i": "a", "c": ["x", null], "o": 1}\r\n\r\n{"c": "ö\\ny", "i": 7}'.encode())
    found, lines = read_json_lines(path, ["i", "c"])
    assert found == {"i": ["a", 7], "c": [["x", None], "ö\ny"]}
    assert list(lines) == [1, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b'{"i": 1}\n{"i": \n', r"t.jsonl:2: not valid JSON"),
        (b'{"i": 1}\n[2]\n', r"t.jsonl:2: expected a JSON object, found list"),
        (b'{"image": 1}\n', r"no column 'i'"),
        (b'{"i": ' + b"[" * 100_000, r"t.jsonl:1: not valid JSON: nested too deep"),
        (b'{"i": "\xff"}\n', "not UTF-8"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, content, message):
    (tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json_lines(tmp_path / "t.jsonl", ["i"])
