"""The files of a starting folder: from the installed package, or from the checkout that Python runs."""

from __future__ import annotations

import re
from pathlib import Path

from swamp_dist.errors import UserError

FOLDERS = ("jobs", "shards")
"""Folders of a checkout that setup.py copies into this package when it builds a wheel."""
_HERE = Path(__file__).parent
_README = "README.md"
_LINK_OUT = re.compile(r"\[([^\]]+)\]\(\.\./(?!jobs/|shards/)[^)]*\)")
"""A Markdown link to a file of the checkout that a starting folder does not have."""


def starting_files() -> dict[Path, bytes]:
    """What stands in each file, by its path below the new folder.

    Raises:
        UserError: this installation lacks them.
    """
    found = {Path(_README): (_HERE / _README).read_bytes()}
    for name in FOLDERS:
        folder = _folder(name)
        for path in sorted(folder.rglob("*")):
            if path.suffix == ".yaml":
                found[name / path.relative_to(folder)] = path.read_bytes()
            elif path.suffix == ".md":
                text = _LINK_OUT.sub(r"\1", path.read_text("utf-8"))
                found[name / path.relative_to(folder)] = text.encode()
    return found


def _folder(name: str) -> Path:
    checkout = _HERE.parents[1]
    if (_HERE / name).is_dir():
        return _HERE / name
    if (checkout / "setup.py").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise UserError(
        f"this installation of swamp_dist has no {name}/: expected it in {_HERE}.\n"
        "Fix: install it again, from a wheel, an sdist or a checkout."
    )
