"""Which word vectors weights were trained with: an encoder of words fits no others, whatever their shape."""

from __future__ import annotations

import json
from pathlib import Path

from swamp_dist.records import UserError

WORD_SOURCE = "word_vectors_sha256"
"""Key of a weights file's metadata: sha256 of the file that the stage's word table was cut from."""


def check_word_source(weights: Path, key: str, expected: str | None) -> None:
    """Refuse weights that were trained with other word vectors. Vocabularies may differ.

    Weights or stages without words, and weights that do not say (written by other programs), pass.

    Args:
        weights: the .safetensors file. key: the setting that names it.
        expected: sha256 of the stage's own source vectors; None where it reads no words.

    Raises:
        UserError: both say which vectors they use, and they differ.
    """
    found = read_metadata(weights).get(WORD_SOURCE)
    if expected is not None and found is not None and found != expected:
        raise UserError(
            f"{key} = {weights}: these weights were trained with other word vectors than the shard set's.\n"
            f"Expected vectors with sha256 {expected}, found {found}.\n"
            "Fix: build the shard set with the file of vectors that the weights were trained with, or train anew."
        )


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file from its header alone; {} where there are none or it cannot be read.

    What is wrong with a damaged file is said where its tensors are loaded. The header is its length in 8
    bytes, then JSON; read by hand, because this is asked before torch is imported.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= path.stat().st_size else {}
    except (OSError, ValueError):
        return {}
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}
