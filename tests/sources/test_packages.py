"""Fetching packages: what is refused, what is kept, what two processes do to each other. No network."""

import hashlib
import io
import json
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from swamp_dist.errors import UserError
from swamp_dist.sources import packages
from swamp_dist.sources.packages import MARKER, Package, fetch, unpack


def _tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def _file(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def _link(name: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def _serve(monkeypatch: pytest.MonkeyPatch, archive: Path) -> list[list[str]]:
    """Let package managers answer with `archive`; returns the commands they were asked."""
    asked: list[list[str]] = []

    def answer(command: list[str], cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        (Path(cwd) / archive.name).write_bytes(archive.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", answer)
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/bin/{name}")
    return asked


def _package(sha256: str | None) -> Package:
    return Package("npm", "@scope/icons", "1.2.3", sha256)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return _tar(
        tmp_path / "icons-1.2.3.tgz", _file("package/a.txt", b"one"), _file("package/b/c.txt", b"two")
    )


def test_a_package_is_unpacked_with_a_marker_and_fetched_once(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _serve(monkeypatch, archive)
    folder = fetch(_package(_hash(archive)), tmp_path / "downloads")
    assert (folder / "package" / "b" / "c.txt").read_bytes() == b"two"
    marker = json.loads((folder / MARKER).read_text())
    assert (marker["name"], marker["version"], marker["archive_sha256"]) == (
        "@scope/icons",
        "1.2.3",
        _hash(archive),
    )
    assert fetch(_package(_hash(archive)), tmp_path / "downloads") == folder
    assert len(asked) == 1
    assert asked[0][:3] == ["/bin/npm", "pack", "@scope/icons@1.2.3"]
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [folder.name]


def test_another_archive_than_the_pinned_one_is_refused_and_nothing_stays(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(monkeypatch, archive)
    with pytest.raises(UserError, match=f"expected sha256 {'0' * 64}\n  found    sha256 {_hash(archive)}"):
        fetch(_package("0" * 64), tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_present_copy_of_another_archive_is_refused_too(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(monkeypatch, archive)
    folder = fetch(_package(None), tmp_path)
    with pytest.raises(UserError, match=folder.name):
        fetch(_package("0" * 64), tmp_path)


def test_a_folder_without_marker_is_not_taken_for_a_package(tmp_path: Path) -> None:
    (tmp_path / _package(None).folder).mkdir()
    with pytest.raises(UserError, match="delete that folder"):
        fetch(_package(None), tmp_path)


def test_a_slower_process_keeps_the_copy_of_the_faster_one(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(monkeypatch, archive)
    target = tmp_path / "downloads" / _package(None).folder
    honest = packages.unpack

    def unpack_while_another_finishes(source: Path, inside: Path) -> None:
        honest(source, inside)
        honest(source, target)
        (target / MARKER).write_text(json.dumps({"archive_sha256": "of the faster"}))

    monkeypatch.setattr(packages, "unpack", unpack_while_another_finishes)
    assert fetch(_package(None), tmp_path / "downloads") == target
    assert packages.archive_sha256(target) == "of the faster"
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [target.name]


@pytest.mark.parametrize(
    "member",
    [
        _file("/etc/outside"),
        _file("../outside"),
        _file("package/../../outside"),
        _file("C:\\outside"),
        _link("package/link", "/etc/passwd", tarfile.SYMTYPE),
        _link("package/link", "package/a.txt", tarfile.LNKTYPE),
        _link("package/device", "", tarfile.CHRTYPE),
    ],
    ids=["absolute", "parent", "nested parent", "drive", "symlink", "hard link", "device"],
)
def test_a_tar_that_could_write_elsewhere_is_refused_before_anything_is_written(
    member: tuple[tarfile.TarInfo, bytes], tmp_path: Path
) -> None:
    archive = _tar(tmp_path / "evil.tgz", _file("package/a.txt"), member)
    with pytest.raises(UserError, match="archive refused"):
        unpack(archive, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tgz"]


@pytest.mark.parametrize(
    ("name", "mode"), [("../outside", stat.S_IFREG), ("/outside", 0), ("link", stat.S_IFLNK)]
)
def test_a_wheel_that_could_write_elsewhere_is_refused_before_anything_is_written(
    name: str, mode: int, tmp_path: Path
) -> None:
    archive = tmp_path / "evil.whl"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("model/a.txt", "x")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        opened.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="archive refused"):
        unpack(archive, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.whl"]


def test_a_wheel_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as opened:
        opened.mkdir("model")
        opened.writestr("model/weights.bin", b"\0\1")
    unpack(tmp_path / "a.whl", tmp_path / "target")
    assert (tmp_path / "target" / "model" / "weights.bin").read_bytes() == b"\0\1"


@pytest.mark.parametrize("version", ["", "latest", "file:../x", "1.0 --registry=x", "git+ssh://x"])
def test_a_version_that_is_not_a_plain_number_never_reaches_a_command(version: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a plain version"):
        fetch(Package("npm", "icons", version, None), tmp_path)


def test_a_missing_npm_is_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"(?s)npm is not on PATH.*install Node\.js"):
        fetch(_package(None), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_network_shows_what_the_package_manager_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: connection refused")

    monkeypatch.setattr(packages.subprocess, "run", fail)
    with pytest.raises(UserError, match=r"(?s)\| ERROR: connection refused.*check the network"):
        fetch(Package("pypi", "some-wheel", "0.1.0", None), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("installed", "expected"),
    [(("uv", "pip3"), ["/bin/uv", "tool", "run", "pip"]), (("pip3",), ["/bin/pip3"])],
)
def test_an_environment_without_pip_uses_that_of_uv_or_of_the_system(
    installed: tuple[str, ...], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/bin/{name}" if name in installed else None)
    command = packages._pip_command(Package("pypi", "some-wheel", "0.1.0", None))
    assert command[: len(expected) + 1] == [*expected, "download"]
    assert command[-1] == "some-wheel==0.1.0"
