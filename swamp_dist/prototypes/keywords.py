"""Words that tell what a prototype is about: class-based tf-idf (Grootendorst, BERTopic, 2022, eq. 2).

The paper selects frequent words by hand (section 5.5). Here a word weighs tf * log(1 + A / f). tf texts of
the prototype hold it, f texts of all prototypes do, and A is the mean number of words in a prototype's texts.
A word is a run of letters, lower-case; it counts once per text, and those of `STOP_WORDS` never. Equal
weights are ordered by tf, the higher first, then by the alphabet.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

_STOPPED = (
    "a about above after again all also an and any are as at be because been before being below "
    "between both but by can could did do does doing down during each few for from further had has "
    "have having he her here hers him his how i if in into is it its itself just me more most my near "
    "next no nor not of off on once one only or other our out over own same she should so some such "
    "than that the their them then there these they this those three through to too two under until "
    "up upon very was we were what when where which while who whom why will with would you your "
)
STOP_WORDS = frozenset(_STOPPED.split())
"""Words of English that say nothing about a picture; counts and places ("two", "next to") among them."""
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


class Keyword(NamedTuple):
    """A word of a prototype."""

    word: str
    texts: int
    """Texts of the prototype that hold it."""
    weight: float
    """tf * log(1 + A / f)."""


def words_of(text: str) -> list[str]:
    """The distinct words of a text, in order, without stop words."""
    found = dict.fromkeys(_WORD.findall(text.lower()))
    return [word for word in found if word not in STOP_WORDS]


def keywords(texts: Mapping[int, Iterable[str]], most: int) -> dict[int, tuple[Keyword, ...]]:
    """The heaviest words of each prototype.

    Args:
        texts: of every prototype that has some.
        most: words per prototype.
    """
    counts = {number: _count(each) for number, each in texts.items()}
    everywhere: Counter[str] = Counter()
    for count in counts.values():
        everywhere.update(count)
    mean = sum(everywhere.values()) / max(1, len(counts))
    return {number: _heaviest(count, everywhere, mean, most) for number, count in counts.items()}


def title(number: int, words: Sequence[Keyword]) -> str:
    """`0405: pizza/oven`, as the paper names a cluster: four digits and at most three words."""
    named = "/".join(keyword.word for keyword in words[:3])
    return f"{number:04d}: {named}" if named else f"{number:04d}"


def _count(texts: Iterable[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for text in texts:
        found.update(words_of(text))
    return found


def _heaviest(count: Counter[str], everywhere: Counter[str], mean: float, most: int) -> tuple[Keyword, ...]:
    weighed = [Keyword(word, tf, tf * math.log1p(mean / everywhere[word])) for word, tf in count.items()]
    return tuple(sorted(weighed, key=lambda found: (-found.weight, -found.texts, found.word))[:most])
