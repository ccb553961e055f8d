"""Which word vectors weights were trained with: an encoder of words fits no others, whatever their shape."""

from __future__ import annotations

from pathlib import Path

from swamp_dist.errors import UserError
from swamp_dist.safetensors_header import read_header

WORD_SOURCE = "word_vectors_sha256"
"""Key of a weights file's metadata: sha256 of the file that the stage's word table was cut from."""


def check_word_source(weights: Path, key: str, expected: str | None) -> None:
    """Refuse weights that were trained with other word vectors. Vocabularies may differ.

    Weights or stages without words, and weights that do not say (written by other programs), pass.

    Args:
        weights: the .safetensors file. key: the setting that names it.
        expected: sha256 of the stage's own source vectors; None where it reads no words.

    Raises:
        UserError: both say which vectors they use, and they differ; or the file is absent or damaged.
    """
    found = read_header(weights).metadata.get(WORD_SOURCE)
    if expected is not None and found is not None and found != expected:
        raise UserError(
            f"{key} = {weights}: these weights were trained with other word vectors than the shard set's.\n"
            f"Expected vectors with sha256 {expected}, found {found}.\n"
            "Fix: build the shard set with the file of vectors that the weights were trained with, "
            "or train anew."
        )
