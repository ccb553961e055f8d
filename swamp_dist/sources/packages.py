"""Fetch a registry package at a pinned version, check its sha256 and unpack it safely, once.

The package managers find the registry (npm, pip), so proxies and mirrors configured for them work
here too and no host is named in this code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from swamp_dist.errors import UserError
from swamp_dist.long_work import told_while

log = logging.getLogger(__name__)

MARKER = "package.marker.json"
TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Package:
    """One archive of a registry: an npm tarball or a PyPI wheel."""

    registry: Literal["npm", "pypi"]
    name: str
    version: str
    sha256: str | None
    """Hash the archive must have; None accepts any and logs what came."""

    @property
    def folder(self) -> str:
        """Folder name of the unpacked package: registry, name and version."""
        return "-".join((self.registry, re.sub(r"[^\w.]+", "_", self.name), self.version))


def fetch(package: Package, downloads: Path) -> Path:
    """The folder of the unpacked package, below `downloads`; nothing is fetched when it is there.

    The archive is unpacked in a temporary folder that is renamed when complete, so processes that
    fetch at the same time, or are killed, never leave half a package behind.
    """
    _check_names(package)
    target = downloads / package.folder
    if not target.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=downloads))
        try:
            _publish(_unpack(package, temporary), target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    _check_hash(package, archive_sha256(target), f"the copy in {target}")
    return target


def archive_sha256(folder: Path) -> str:
    """sha256 of the archive that `folder` was unpacked from, as its marker says."""
    try:
        return str(json.loads((folder / MARKER).read_text())["archive_sha256"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} has no valid {MARKER}, so it was not unpacked by this program or was changed.\n"
            "Fix: delete that folder; the next build fetches the package again."
        ) from error


def unpack(archive: Path, target: Path) -> None:
    """Write the files of a .tgz or .whl below `target`, or refuse the archive before writing any.

    Links, devices, absolute names and names with `..` are refused.
    """
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as opened:
            for item in _zip_files(opened):
                _write(target / item.filename, opened.read(item))
    else:
        with tarfile.open(archive) as tar:
            for member in _tar_files(tar):
                content = tar.extractfile(member)
                assert content is not None, "a regular file has content"
                _write(target / member.name, content.read())


def _unpack(package: Package, temporary: Path) -> Path:
    log.info("fetching %s %s %s", package.registry, package.name, package.version)
    archive = _download(package, temporary)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    _check_hash(package, found, f"the file {archive.name} that the registry served")
    unpacked = temporary / "unpacked"
    unpack(archive, unpacked)
    marker = asdict(package) | {"archive": archive.name, "archive_sha256": found}
    (unpacked / MARKER).write_text(json.dumps(marker, indent=1))
    log.info("unpacked %s, sha256 %s", archive.name, found)
    return unpacked


def _publish(unpacked: Path, target: Path) -> None:
    try:
        unpacked.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another process was faster and its copy is as good
            raise


def _check_names(package: Package) -> None:
    # A version from a recipe becomes part of a command: `@file:...` or an option must not get through.
    if not re.fullmatch(r"\d[\w.+-]*", package.version):
        raise UserError(
            f"version of {package.registry} package {package.name!r}: expected a plain version such as "
            f"1.2.3, found {package.version!r}"
        )
    if not re.fullmatch(r"(@[\w.-]+/)?[A-Za-z0-9][\w.-]*", package.name):
        raise UserError(f"{package.name!r} is not a {package.registry} package name")


def _check_hash(package: Package, found: str, what: str) -> None:
    if package.sha256 is not None and found != package.sha256:
        raise UserError(
            f"{package.registry} package {package.name} {package.version}: {what} is not the pinned "
            "archive.\n"
            f"  expected sha256 {package.sha256}\n  found    sha256 {found}\n"
            "Fix: if you changed the version, change its sha256 in the recipe too; otherwise delete the copy "
            "and check which registry or mirror your package manager uses."
        )


def _download(package: Package, folder: Path) -> Path:
    inbox = folder / "archive"
    inbox.mkdir()
    command = _npm_command(package, folder.parent) if package.registry == "npm" else _pip_command(package)
    with told_while(log, f"fetching {package.registry} {package.name} {package.version}"):
        _run(package, command, inbox, folder.parent)
    archives = [path for path in inbox.iterdir() if path.suffix in (".tgz", ".whl")]
    if len(archives) != 1:
        found = sorted(path.name for path in inbox.iterdir())
        raise UserError(f"{' '.join(command)} left {found} instead of one archive")
    return archives[0]


def _npm_command(package: Package, downloads: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"npm is not on PATH, and package {package.name!r} comes from its registry.\n"
            f"Fix: install Node.js (which brings npm), or copy {downloads} from a machine that has built "
            "these shards."
        )
    # npm waits up to a minute before each of two tries more; without a network that is long
    options = ["--loglevel=error", "--ignore-scripts", "--fetch-retry-maxtimeout=10000"]
    return [npm, "pack", f"{package.name}@{package.version}", *options]


def _pip_command(package: Package) -> list[str]:
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--disable-pip-version-check"]
    return [*_pip(), "download", *options, f"{package.name}=={package.version}"]


def _pip() -> list[str]:
    """The pip of this environment, or of uv or the system where the environment was made without one."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if (uv := shutil.which("uv")) is not None:
        return [uv, "tool", "run", "pip"]
    if (pip := shutil.which("pip3")) is not None:
        return [pip]
    raise UserError("pip is needed to fetch a PyPI package and is absent.\nFix: python -m ensurepip")


def _run(package: Package, command: list[str], folder: Path, downloads: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        said = done.stderr.strip() or done.stdout.strip()
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        said, failed = f"no end after {TIMEOUT_SECONDS} s", True
    if failed:
        raise UserError(
            f"could not fetch {package.registry} package {package.name} {package.version}:\n"
            f"  {' '.join(command)}\n" + "".join(f"  | {line}\n" for line in _telling(said)) + "Fix: check "
            f"the network and the registry settings of the package manager,\nor copy {downloads} from a "
            "machine that has built these shards."
        )


def _telling(said: str) -> list[str]:
    """At most four lines of what a package manager said last, without stack traces and places of logs."""
    lines = [re.sub(r"^npm (error|ERR!) ?", "", line) for line in said.splitlines()]
    return [line for line in lines if re.match(r"[^\s{}]", line) and "complete log of this run" not in line][
        -4:
    ]


def _tar_files(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    members = tar.getmembers()
    for member in members:
        _check_member(member.name, plain=member.isfile() or member.isdir())
    return [member for member in members if member.isfile()]


def _zip_files(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    items = opened.infolist()
    for item in items:
        kind = stat.S_IFMT(item.external_attr >> 16)
        _check_member(item.filename, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
    return [item for item in items if not item.is_dir()]


def _check_member(name: str, plain: bool) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise UserError(f"archive refused: member {name!r} would be written outside its folder")
    if not plain:
        raise UserError(f"archive refused: member {name!r} is a link or device, not a plain file")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
