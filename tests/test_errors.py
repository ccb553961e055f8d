"""What a user is told of an error of the system: path, the system's words, and what helps."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from swamp_dist.errors import system_error

EXPECTED = {
    errno.ENOSPC: "ulimit -f", errno.EDQUOT: "quota", errno.EACCES: "permissions", errno.EPERM: "permissions",
    errno.EROFS: "read-only", errno.ENOENT: "moved or removed", errno.ESTALE: "moved or removed",
    errno.ENOTDIR: "the path", errno.ELOOP: "the path", errno.ENAMETOOLONG: "the path",
    errno.EIO: "dmesg", errno.EMFILE: "ulimit -n",
}  # fmt: skip


@pytest.mark.parametrize("number", EXPECTED, ids=errno.errorcode.get)
def test_path_words_and_fix_are_told(number: int) -> None:
    told = system_error(OSError(number, os.strerror(number), "some/file"))
    assert told.startswith(f"some/file: {os.strerror(number)}")
    assert EXPECTED[number] in told


def test_both_paths_of_a_rename_are_told() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Path("/none/a").rename("/none/b")
    assert system_error(caught.value).startswith("/none/a and /none/b: No such file")


def test_an_error_without_number_is_told_in_its_own_words() -> None:
    assert system_error(OSError("the folder is not shared")) == "the folder is not shared"
    assert system_error(OSError(9999, "strange", "x")) == "x: strange"


def test_when_it_came_stands_first_and_names_of_bytes_are_names() -> None:
    error = OSError(errno.EIO, "bad", b"some/file")
    error.add_note("after step 7")
    assert system_error(error).startswith("after step 7: some/file: bad.")
