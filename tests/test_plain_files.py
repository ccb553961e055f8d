from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from swamp_dist.plain_files import NotPlainError, parse_json, read_plain_file, read_plain_tail


def test_files_are_read_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    assert read_plain_file(path, 10) == b"0123456789"
    assert read_plain_tail(path, 3) == b"789"
    assert read_plain_tail(path, 30) == b"0123456789"
    with pytest.raises(NotPlainError, match="at most 9 bytes"):
        read_plain_file(path, 9)
    with pytest.raises(FileNotFoundError):
        read_plain_file(tmp_path / "absent", 9)


def test_nothing_waits_for_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name, said in (("pipe", "a pipe"), ("zero", "a device"), (".", "a folder"), ("a\0b", "null")):
        with pytest.raises(NotPlainError, match=said):
            read_plain_file(tmp_path / name, 100)
    for name in ("socket", "loop"):
        with pytest.raises(OSError):  # noqa: PT011 (its words are the system's)
            read_plain_file(tmp_path / name, 100)
    listening.close()


def test_json_nested_too_deep_is_a_value_error() -> None:
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
    for content in (b"[" * 100_000, b"{", b"\xff", b'{"a":' * 100_000, b"9" * 10_000):
        with pytest.raises(ValueError):  # noqa: PT011 (its words are Python's)
            parse_json(content)
