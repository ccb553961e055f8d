"""Names of files that more than one part of the package knows, and which names a folder may get."""

from __future__ import annotations

import re
from pathlib import Path

WEIGHTS_FILE = "weights.safetensors"
"""The selected model in a run folder; the others of a run folder are `RunDir`'s."""
METRICS_FILE = "metrics.jsonl"
"""One row per logged step in a run folder."""
RESULT_FILE = "result.json"
"""What a stage leaves last in its run folder."""
MANIFEST_FILE = "manifest.json"
"""What a shard set is known by."""

VOCABULARY_FILE = "vocabulary.json"
"""The words of a shard set's captions and their numbers."""

NAME_RULE = (
    "a name of letters, digits, single blanks between them and . _ + - = , @, that begins with a letter, a "
    "digit or _"
)
"""What `name_problem` asks of a name."""
_NAME = re.compile(r"\w[\w.+=,@-]*( [\w.+=,@-]+)*")
_INVISIBLE = "\u115f\u1160\u3164\uffa0"
"""Letters to Unicode, and nothing on a screen."""
_NAME_BYTES = 200
"""File systems take 255; a part of them is left for what stands around a name."""


def weights_file(source: Path) -> Path:
    """The weights file that a setting names: `source` itself, or the one inside a run folder."""
    return source / WEIGHTS_FILE if source.is_dir() else source


def name_problem(name: str) -> str | None:
    """Why a folder cannot have this name, with what was expected; None where it can.

    Such a name is one part of a path that goes neither up nor elsewhere, is no option of a command, and shows
    on a screen as what it is.
    """
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > _NAME_BYTES:
        return f"expected a name of at most {_NAME_BYTES} bytes, found {size}: {name[:20]!a}..."
    strange = set(_INVISIBLE) & set(name)
    if strange or not _NAME.fullmatch(name):
        return f"expected {NAME_RULE}; found {name!a}"
    return None
