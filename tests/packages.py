"""Wheels and sdists, built without network and without touching the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]


def copy_of_the_checkout(folder: Path) -> Path:
    """What a build reads, with files that must not make a package of the other folders."""
    folder.mkdir(exist_ok=True)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder)
    for name in ("swamp_dist", "jobs", "shards", "tools", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / name / "__init__.py").touch()
    return folder


def build(what: Literal["wheel", "sdist", "editable"], source: Path) -> Path:
    """The archive that is built from a folder with setup.py."""
    command = f"from setuptools import build_meta; build_meta.build_{what}('built')"
    subprocess.run([sys.executable, "-c", command], cwd=source, check=True, capture_output=True)
    (archive,) = (source / "built").iterdir()
    return archive
