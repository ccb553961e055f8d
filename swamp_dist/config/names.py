"""Names in settings that become names of folders and files."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from swamp_dist.file_names import name_problem

_SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FIELD = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")


def _folder_name(name: str) -> str:
    problem = name_problem(name)
    if problem is not None:
        raise ValueError(problem)
    return name


def _split_name(name: str) -> str:
    if not _SPLIT.fullmatch(name):
        shown = ascii(name) if len(name) <= 64 else f"{ascii(name[:20])}... of {len(name)} characters"
        raise ValueError(
            "expected a name of at most 64 letters a to z, digits, _ and -, that begins with a letter or a "
            f"digit; found {shown}"
        )
    return name


def _field_name(name: str) -> str:
    if not _FIELD.fullmatch(name):
        raise ValueError(
            "expected a name of at most 64 letters a to z, digits and _, that begins with a letter or a "
            f"digit; found {name[:64]!a}"
        )
    return name


FolderName = Annotated[str, AfterValidator(_folder_name)]
"""The name of a stage, pipeline, sweep or shard set; `file_names.NAME_RULE` says what it may be."""
SplitName = Annotated[str, AfterValidator(_split_name)]
"""The name of a split that a recipe makes; its shards are called by it."""
FieldName = Annotated[str, AfterValidator(_field_name)]
"""The name of a field of a shard set; the files of an entry end in it."""
