"""What is installed and what the environment says: versions, compiled extensions, switches."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from swamp_dist.doctor.finding import Subject
from swamp_dist.records import Finding

PACKAGE = "swamp-dist"
TORCH_FLOORS = {"2.6": "CVE-2025-32434", "2.10": "CVE-2026-24747"}
"""Versions from which torch.load(weights_only=True) no longer runs code, or writes over memory, of a
malicious file."""
TESTED_TORCH = "2.13.0"
"""The version that the tests run with, and that tools/install.sh takes."""
_FALSE = {"", "0", "n", "no", "false"}


def versions(_subject: Subject) -> Iterator[Finding]:
    """Python and every library against what setup.py asks for, torch also against its security floors."""
    wanted = [Requirement(text) for text in importlib.metadata.requires(PACKAGE) or ()]
    wrong = list(_wrong(wanted))
    yield from wrong
    torch = Version(installed_version("torch") or "0")
    for floor, advisory in TORCH_FLOORS.items():
        if torch.release < Version(floor).release:
            yield Finding(
                "versions",
                "problem",
                f"torch {torch} is older than {floor}: {advisory}",
                "pip install 'torch>=2.10'",
            )
    if not wrong and torch.release != Version(TESTED_TORCH).release:
        yield Finding(
            "versions",
            "warning",
            f"torch {torch} is untested with this version, whose tests run with {TESTED_TORCH}",
            f"pip install torch=={TESTED_TORCH}; or `make test` in a checkout, with this torch",
        )
    elif not wrong:
        yield Finding(
            "versions",
            "ok",
            f"python {platform.python_version()}, torch {torch}, deepspeed {installed_version('deepspeed')}",
        )


def _wrong(wanted: list[Requirement]) -> Iterator[Finding]:
    python = importlib.metadata.metadata(PACKAGE)["Requires-Python"] or ""
    needs: list[tuple[Requirement, str | None]] = [
        (Requirement(f"python{python}"), platform.python_version())
    ]
    needs += [
        (r, installed_version(r.name)) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})
    ]
    for requirement, version in needs:
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            found = "not installed" if version is None else f"version {version}"
            fix = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Finding(
                "versions", "problem", f"{requirement.name}: {found}, expected {requirement.specifier}", fix
            )


def installed_version(name: str) -> str | None:
    """Version of an installed package; None where it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def extensions(_subject: Subject) -> Iterator[Finding]:
    """Extensions that a start would compile, and locks of compilations that were killed."""
    stale = list(_locks(extensions_folder()))
    yield from stale
    spec = importlib.util.find_spec("deepspeed")
    origin = Path(spec.origin).parent / "ops" / "__init__.py" if spec and spec.origin else None
    if origin is not None and "__compatible_ops__" not in origin.read_text():
        yield Finding(
            "extensions",
            "warning",
            "this DeepSpeed compiles deepspeed_shm_comm at its first start on a CPU: a minute, c++ and "
            "ninja needed",
            "install the deepspeed version that setup.py asks for",
        )
    elif not stale:
        yield Finding("extensions", "ok", "no DeepSpeed extension has to be compiled; no lock is left behind")


def extensions_folder() -> Path:
    """Where torch compiles extensions."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(given) if given else Path.home() / ".cache" / "torch_extensions"


def _locks(folder: Path) -> Iterator[Finding]:
    """torch waits for ever, without a word, for the owner of a lock; it holds the file open while it
    lives."""
    for lock in sorted(folder.rglob("lock")):
        owner = holder(lock)
        if owner is None:
            yield Finding(
                "extensions",
                "problem",
                f"{lock} has no live owner: a start that compiles there would hang",
                f"rm {lock}",
            )
        else:
            yield Finding(
                "extensions", "warning", f"process {owner} compiles in {lock.parent}", "wait for it"
            )


def holder(path: Path) -> int | None:
    """A process of this host that has the file open, as far as its owner lets us see; else None."""
    wanted = str(path.resolve())
    for handles in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(entry.path) == wanted for entry in os.scandir(handles)):
                return int(handles.parent.name)
        except OSError:  # ended meanwhile, or not ours to look into
            continue
    return None


def environment(_subject: Subject) -> Iterator[Finding]:
    """Switches in the environment that slow imports down or let weights run code."""
    good = True
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        good = False
        yield Finding(
            "environment",
            "warning",
            "PYTHONDONTWRITEBYTECODE is set: every rank compiles torch's modules anew, many seconds a start",
            "unset PYTHONDONTWRITEBYTECODE",
        )
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "").lower() not in _FALSE:
        good = False
        yield Finding(
            "environment",
            "problem",
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set: loading a checkpoint may run code that stands in it",
            "unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        )
    forced = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "")
    if forced and forced.lower() in _FALSE:
        good = False
        yield Finding(
            "environment",
            "warning",
            f"TORCH_FORCE_WEIGHTS_ONLY_LOAD={forced}: ranks of your own launcher would load checkpoints "
            "unguarded",
            "export TORCH_FORCE_WEIGHTS_ONLY_LOAD=1",
        )
    if good:
        yield Finding("environment", "ok", "bytecode is kept; checkpoints are loaded as tensors only")
