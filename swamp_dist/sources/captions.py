"""Captions as files hold them, as texts, and as word ids by the published rule (Miech et al. 2019).

A caption of a file is a text. `null`, NaN and empty ones are captions without words; the published loaders
would take the first two for the words "None" and "nan". Anything else makes its entry a bad one.

The words of a caption are the runs of `[\\w']+`, with their case, without stop words being removed. Words
that the table does not have are dropped first; then the first `max_words` are kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from swamp_dist.errors import BadEntry

NO_CAPTIONS, MALFORMED, WORDLESS = "no captions", "captions malformed", "caption without words"
"""Kinds of BadEntry raised for captions."""
Wordless = Literal["refuse", "keep", "drop"]
"""What becomes of captions without words: the setting `wordless` of the video sets."""


class Caption(NamedTuple):
    """A caption as a file holds it."""

    value: object
    place: str
    """File and line or row, for messages."""


def caption_texts(captions: Iterable[Caption], key: str) -> tuple[str, ...]:
    """Every caption as a text without blanks around it; "" for `null` and NaN.

    Raises:
        BadEntry: kind MALFORMED; one is anything else.
    """
    return tuple(_text(caption, key) for caption in captions)


def kept_texts(captions: Sequence[Caption], key: str, wordless: Wordless, place: str) -> tuple[str, ...]:
    """The captions that an entry gets; `place` is the row that lists it.

    One without words among others stays, in the published loaders all padding, unless `wordless` is drop. An
    entry without a word in any stays if it is keep.

    Raises:
        BadEntry: kind NO_CAPTIONS, MALFORMED or WORDLESS.
    """
    if not captions:
        raise BadEntry(key, NO_CAPTIONS, f"{place} lists it, but there is no sentence for it")
    texts = caption_texts(captions, key)
    check_words(texts, key, wordless, captions[0].place)
    return tuple(filter(has_words, texts)) if wordless == "drop" else texts


def check_words(texts: Sequence[str], key: str, wordless: Wordless, place: str) -> None:
    """Refuse an entry without a word in any caption, which nothing could retrieve, unless it is kept.

    Raises:
        BadEntry: kind WORDLESS.
    """
    if wordless != "keep" and not any(map(has_words, texts)):
        what = "none of its captions has a word" if len(texts) > 1 else "the caption has no word"
        advice = "source.wordless: keep takes it as padding alone, as the published loaders do"
        raise BadEntry(key, WORDLESS, f"{place}: {what}; {advice}")


def has_words(text: str) -> bool:
    """Whether a caption has a word at all, in a vocabulary or not."""
    return _WORD.search(text) is not None


def _text(caption: Caption, key: str) -> str:
    value = caption.value
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if not isinstance(value, str):
        shown = f" {value}" if isinstance(value, bool | float) else ""
        finding = f"{caption.place}: expected a text, found {type(value).__name__}{shown}"
        raise BadEntry(key, MALFORMED, finding)
    return str(value).strip()


_WORD = re.compile(r"[\w']+")


def words_of(caption: str) -> list[str]:
    """The words of one caption, in order, case kept."""
    return _WORD.findall(caption)


def vocabulary(captions: Iterable[str]) -> Counter[str]:
    """How often each word stands in `captions` (flat: chain the captions of several entries)."""
    found: Counter[str] = Counter()
    for caption in captions:
        found.update(words_of(caption))
    return found


def caption_ids(captions: Sequence[str], index: Mapping[str, int], max_words: int = 20) -> NDArray[np.int32]:
    """Captions -> ids (n, max_words) int32; 0 where a caption has fewer known words.

    Args:
        captions: n captions.
        index: row of each known word in the word table, from 1.
        max_words: known words kept of each caption, the first ones.
    """
    ids = np.zeros((len(captions), max_words), np.int32)
    for row, caption in zip(ids, captions, strict=True):
        known = [index[word] for word in words_of(caption) if word in index][:max_words]
        row[: len(known)] = known
    return ids
