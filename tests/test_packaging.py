"""The wheel holds the package and nothing else, and installs the `swamp` command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the checkout, without network and without touching the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for file in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / file, copy)
    for folder in ("swamp_dist", "jobs", "shards", "tools", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / folder / "__init__.py").touch()  # must not make a package of any of them
    command = "from setuptools import build_meta; build_meta.build_wheel('built')"
    subprocess.run([sys.executable, "-c", command], cwd=copy, check=True, capture_output=True)
    return next((copy / "built").glob("*.whl"))


def test_wheel_holds_the_package_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {n.split("/")[0] for n in names}
    assert {t for t in top if not t.endswith(".dist-info")} == {"swamp_dist"}
    assert "swamp_dist/py.typed" in names
    expected = {p.relative_to(ROOT).as_posix() for p in (ROOT / "swamp_dist").rglob("*.py")}
    assert expected <= set(names)


def test_wheel_installs_the_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    entry = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
    assert "swamp = swamp_dist.cli:main" in archive.read(entry).decode()
