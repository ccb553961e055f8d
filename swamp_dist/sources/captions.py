"""Captions as word ids, by the published rule of the video-text sets (Miech et al. 2019).

The words of a caption are the runs of `[\\w']+`, with their case, without stop words being removed. Words
that the table does not have are dropped first; then the first `max_words` are kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

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
