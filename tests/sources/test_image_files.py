"""Which image files a table may name: those below its root, of a bounded size."""

import os

import pytest

from swamp_dist.errors import BadEntry, UserError
from swamp_dist.sources import image_files
from swamp_dist.sources.image_files import image_path, read_image


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../a.jpg", "a/../../b.jpg", "..", "C:\\a.jpg"])
def test_paths_that_lead_out_of_the_root_are_refused(path):
    with pytest.raises(
        UserError, match=r"source.image: t.csv:2: expected the path of an image below source.root"
    ):
        image_path(path, "t.csv:2")
    assert image_path("./a//b c..jpg", "t.csv:2") == "a/b c..jpg"


def test_links_stay_below_the_root(tmp_path):
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (root / "inner" / "a.jpg").write_bytes(b"image")
    (root / "inside.jpg").symlink_to("inner/a.jpg")
    (root / "outside.jpg").symlink_to("../secret.jpg")
    (root / "folder").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(root)  # the root itself may be a link
    assert read_image(tmp_path / "linked", "inside.jpg", "k") == b"image"
    for path in ("outside.jpg", "folder/secret.jpg"):
        with pytest.raises(UserError, match=r"entry 'k': .* is a link to .*secret.jpg, out of") as refused:
            read_image(root, path, "k")
        assert not isinstance(refused.value, BadEntry)


def test_files_that_cannot_be_read_are_bad_entries(tmp_path, monkeypatch):
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "large.jpg").write_bytes(bytes(11))
    (tmp_path / "folder.jpg").mkdir()
    monkeypatch.setattr(image_files, "MOST_BYTES", 10)
    kinds = {}
    for name in (
        "absent.jpg",
        "large.jpg/a",
        "loop.jpg",
        "pipe.jpg",
        "large.jpg",
        "folder.jpg",
        "a\0.jpg",
        "a" * 300,
    ):
        with pytest.raises(BadEntry) as bad:
            read_image(tmp_path, name, "k")
        kinds[name[:12]] = bad.value.kind
    assert list(kinds.values()) == ["no image"] * 2 + ["image unreadable"] * 6
