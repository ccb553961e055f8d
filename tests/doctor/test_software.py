from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swamp_dist.doctor import software
from swamp_dist.doctor.finding import Subject
from swamp_dist.records import Finding

HERE = Subject()


def levels(found: list[Finding]) -> list[str]:
    return [finding.level for finding in found]


def test_what_is_installed_here_is_well() -> None:
    assert levels(list(software.versions(HERE))) == ["ok"]


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("torch", "2.9.1", ["torch: version 2.9.1, expected", "CVE-2026-24747"]),
        ("torch", "2.5.0", ["torch: version 2.5.0, expected", "CVE-2025-32434", "CVE-2026-24747"]),
        ("deepspeed", "0.20.1", ["deepspeed: version 0.20.1, expected"]),
        ("ray", None, ["ray: not installed, expected"]),
    ],
)
def test_a_wrong_version_is_a_problem_with_its_command(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str | None, said: list[str]
) -> None:
    really: Callable[[str], str | None] = software.installed_version
    monkeypatch.setattr(
        software, "installed_version", lambda name: version if name == package else really(name)
    )
    found = list(software.versions(HERE))
    assert levels(found) == ["problem"] * len(said)
    assert all(text in finding.message for text, finding in zip(said, found, strict=True))
    assert all(finding.fix.startswith(f"pip install '{package}") for finding in found)


@pytest.mark.parametrize(
    ("version", "level"),
    [("2.13.0+cpu", "ok"), ("2.13.0+cu128", "ok"), ("2.13.1", "warning"), ("2.10.0", "warning")],
)
def test_a_torch_that_no_test_ran_with_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, version: str, level: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: ["torch>=2.10,<3"])
    monkeypatch.setattr(software, "installed_version", lambda _name: version)
    (found,) = software.versions(HERE)
    assert (found.level, version in found.message) == (level, True)
    assert ("torch==2.13.0" in found.fix) == (level == "warning")


def test_an_old_python_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software.platform, "python_version", lambda: "3.10.4")
    assert "python: version 3.10.4" in next(iter(software.versions(HERE))).message


def test_an_optional_package_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ['resvg-py>=99; extra == "openmoji"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: wanted)
    assert levels(list(software.versions(HERE))) == ["ok"]


def test_a_lock_without_a_live_owner_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert levels(list(software.extensions(HERE))) == ["ok"]
    lock = tmp_path / "py311" / "op" / "lock"
    lock.parent.mkdir(parents=True)
    holds = f"import time; f = open({str(lock)!r}, 'w'); print('x', flush=True); time.sleep(60)"
    owner = subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"x\n"
        (found,) = software.extensions(HERE)
        assert found.level == "warning"
        assert f"process {owner.pid} compiles" in found.message
    finally:
        owner.kill()
        owner.wait()
    (found,) = software.extensions(HERE)
    assert (found.level, found.fix) == ("problem", f"rm {lock}")


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("PYTHONDONTWRITEBYTECODE", "1", "warning"),
        ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1", "problem"),
        ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0", "ok"),
        ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0", "warning"),
        ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1", "ok"),
    ],
)
def test_switches(monkeypatch: pytest.MonkeyPatch, name: str, value: str, level: str) -> None:
    for each in (
        "PYTHONDONTWRITEBYTECODE",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD",
    ):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, value)
    (found,) = software.environment(HERE)
    assert found.level == level
    assert bool(found.fix) == (level != "ok")
