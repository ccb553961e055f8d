"""Words of a text found by their hashes, without a vocabulary; nothing is downloaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from swamp_dist.bounds import Width
from swamp_dist.encoders.encoder import Encoder, Tokenizer, text_problem
from swamp_dist.records import InputSpec, Tokens

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class HashedWords:
    """Words of lower-cased texts, each as 1 + xxh3(word) mod `buckets`; 0 is padding."""

    buckets: int
    max_words: int

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """As `Tokenizer`: the first `max_words` words of every text."""
        import torch

        rows = [self._row(text) for text in texts]
        width = max(1, *(len(row) for row in rows)) if rows else 1
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64)
        ids = ids.view(len(rows), width)
        return Tokens(ids, ids > 0)

    def _row(self, text: str) -> list[int]:
        from xxhash import xxh3_64_intdigest

        words = _WORD.findall(text.lower())[: self.max_words]
        return [1 + xxh3_64_intdigest(word.encode()) % self.buckets for word in words]


class HashedWordsEncoder(Encoder):
    """Settings that encoders of hashed words share."""

    buckets: Annotated[int, Field(ge=1, le=2**24)] = 2**15
    """Vectors; words whose hashes fall together share one."""
    width: Width = 256
    """Length of a word's vector."""
    max_words: Annotated[int, Field(ge=1, le=4096)] = 64
    """Words of a text that count, the first ones."""

    def input_problem(self, spec: InputSpec) -> str | None:
        """Takes texts."""
        return text_problem(self.kind, spec)

    def tokenizer(self) -> Tokenizer:
        """`HashedWords`."""
        return HashedWords(self.buckets, self.max_words)

    def configured_input(self) -> InputSpec | None:
        """Texts, whose length the settings bound."""
        return InputSpec((), kind="text")
