"""Words of captions and their numbers, as SCAN (Lee et al. 2018), VSE++ and PCME number them.

Numbers 0 to 3 are marks: `<pad>` behind the shorter captions of a batch, `<start>` and `<end>` around every
caption, `<unk>` for each word that the vocabulary does not have. A caption is lower-cased and cut by the
rules of NLTK; its marks are words like others to an encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swamp_dist.atomic_files import write_atomically
from swamp_dist.encoders.nltk_words import nltk_words as nltk_words
from swamp_dist.errors import UserError
from swamp_dist.pickles.safe_pickle import read_pickle
from swamp_dist.plain_files import NotPlainError, parse_json, read_plain_file
from swamp_dist.records import Tokens

MARKS = ("<pad>", "<start>", "<end>", "<unk>")
"""The words with the numbers 0 to 3."""
PAD, START, END, UNKNOWN = range(len(MARKS))
_MOST_BYTES = 2**28
_PICKLED_CLASS = "Vocabulary"
"""VSE++ pickles an object of its class of this name, in whatever module the program had it."""


@dataclass(frozen=True)
class Vocabulary:
    """Words by number; the first four are `MARKS`."""

    words: tuple[str, ...]
    """Word i has the number i."""

    def __post_init__(self) -> None:
        if self.words[: len(MARKS)] != MARKS or len(set(self.words)) != len(self.words):
            raise ValueError(f"expected different words after {', '.join(MARKS)}")

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Number of each word."""
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def sha256(self) -> str:
        """Of the file that `write_vocabulary` writes: equal for equal words, wherever they were read from."""
        return hashlib.sha256(vocabulary_json(self).encode()).hexdigest()


def caption_words(caption: str) -> list[str]:
    """The words of a caption as a vocabulary holds them: in lower case, by NLTK's rules."""
    return nltk_words(caption.lower())


def build_vocabulary(captions: Iterable[str], min_count: int = 4) -> Vocabulary:
    """The words that stand at least `min_count` times in the captions, as SCAN and VSE++ choose theirs (with
    4), in the order of their first appearance."""
    counts = Counter(word for caption in captions for word in caption_words(caption))
    found = [word for word, count in counts.items() if count >= min_count and word not in MARKS]
    return Vocabulary((*MARKS, *found))


@dataclass(frozen=True)
class VocabularyTokenizer:
    """Captions -> `<start>`, the numbers of their words, `<end>`."""

    vocabulary: Vocabulary
    max_words: int | None = None
    """Words of a caption that count, the first ones, without the marks; None: all, as published."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """As `Tokenizer`: (b, W) ids and mask of b texts, `<pad>` behind the words of the shorter ones."""
        import torch

        rows = [self._row(text) for text in texts]
        width = max((len(row) for row in rows), default=1)
        ids = torch.full((len(rows), width), PAD, dtype=torch.int64)
        mask = torch.zeros((len(rows), width), dtype=torch.bool)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = True
        return Tokens(ids, mask)

    def _row(self, text: str) -> list[int]:
        ids, words = self.vocabulary.ids, caption_words(text)[: self.max_words]
        return [START, *(ids.get(word, UNKNOWN) for word in words), END]


# -- files -----------------------------------------------------------------------------------------


def vocabulary_json(vocabulary: Vocabulary) -> str:
    """The text of a vocabulary's file, in the form of SCAN's: word2idx, idx2word with texts for keys, idx."""
    content = {
        "word2idx": vocabulary.ids,
        "idx2word": {str(number): word for number, word in enumerate(vocabulary.words)},
        "idx": len(vocabulary),
    }
    return json.dumps(content, ensure_ascii=False)


def write_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Write the file that SCAN and `read_vocabulary` read; whole or not at all."""
    write_atomically(path, vocabulary_json(vocabulary).encode())


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a `.json` file of SCAN, or of a `.pkl` of VSE++ (an object) or PCME (a dictionary).

    A pickle is read without running any code of it.

    Raises:
        UserError: the file is absent, cannot be read, or is no vocabulary whose first words are `MARKS`.
    """
    pickled = path.suffix in (".pkl", ".pickle")
    content = read_pickle(path, "utf-8", (_PICKLED_CLASS,)) if pickled else _read_json(path)
    numbers = content.get("word2idx") if isinstance(content, dict) else None
    if not isinstance(numbers, dict):
        raise _refused(path, "no word2idx, a mapping of words to numbers, in it")
    words: list[str | None] = [None] * len(numbers)
    for word, number in numbers.items():
        if not isinstance(word, str) or type(number) is not int or not 0 <= number < len(words):
            raise _refused(path, f"{word!r} has the number {number!r}, of {len(words)} words")
        if words[number] is not None:
            raise _refused(path, f"{words[number]!r} and {word!r} both have the number {number}")
        words[number] = word
    found = tuple(word for word in words if word is not None)
    if found[: len(MARKS)] != MARKS:
        raise _refused(path, f"its first words are {', '.join(found[: len(MARKS)])}")
    return Vocabulary(found)


def _read_json(path: Path) -> Any:
    try:
        return parse_json(read_plain_file(path, _MOST_BYTES))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a vocabulary (.json or .pkl)") from None
    except (NotPlainError, ValueError) as error:
        raise _refused(path, str(error)) from None


def _refused(path: Path, finding: str) -> UserError:
    return UserError(
        f"{path} is no vocabulary: {finding}.\n"
        f"Expected SCAN's .json or VSE++'s .pkl: numbers from 0 without a gap, {', '.join(MARKS)} first."
    )
