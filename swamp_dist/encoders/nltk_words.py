"""Words of a caption by the rules of NLTK's `word_tokenize`, which SCAN and VSE++ cut captions with.

The rules are those of `nltk.tokenize.NLTKWordTokenizer` (3.9), an extension of the Penn Treebank's; they need
no data file. `word_tokenize` cuts a text into sentences first (punkt, which has one). A caption is taken for
one sentence here, so a full stop in its middle stays with its word: `hat. He` is `hat.`, `He`.
"""

from __future__ import annotations

import re

_OPENING = (
    (r"[«“‘„]|`+", r" \g<0> "),
    (r'^"', "``"),
    (r"``", r" \g<0> "),
    (r"([ (\[{<])(?:\"|'')", r"\1 `` "),
    # A quote before a word, unless it begins a clitic: 'hello, but 's.
    (r"(?i)(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
)
_MARKS = (
    # The last full stop, behind which only brackets, quotes and blanks may stand; others belong to words.
    (r"([^.])\.([\])}>\"' »”’]*+)\s*$", r"\1 . \2 "),
    (r"([:,])([^\d])", r" \1 \2"),  # takes what follows with it: of two commas in a row the first is cut off
    (r"[:,]$", r" \g<0> "),
    (r"\.{2,}", r" \g<0> "),
    (r"[;@#$%&\u2012-\u2015]", r" \g<0> "),
    (r"([^.])\.([\])}>\"']*)\s*$", r"\1 .\2 "),
    (r"[?!]", r" \g<0> "),
    (r"([^'])' ", r"\1 ' "),
    (r"[*\]\[(){}<>]|--", r" \g<0> "),
)
_CLOSING = (
    (r"[»”’]", r" \g<0> "),
    (r"''|\"", " '' "),
    (r"\s+", " "),
    (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
)
_CONTRACTIONS = (
    *((rf"(?i)\b({first})({second})\b", r" \1 \2 ") for first, second in (
        ("can", "not"), ("d", "'ye"), ("gim", "me"), ("gon", "na"), ("got", "ta"), ("lem", "me"),
        ("more", "'n"),
    )),
    (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
    (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
)  # fmt: skip
_INSIDE = [(re.compile(pattern), new) for pattern, new in (*_OPENING, *_MARKS)]
_PADDED = [(re.compile(pattern), new) for pattern, new in (*_CLOSING, *_CONTRACTIONS)]


def nltk_words(text: str) -> list[str]:
    """Words and marks of one sentence, in order, case kept: `It's a hat.` -> It, 's, a, hat, ."""
    for pattern, new in _INSIDE:
        text = pattern.sub(new, text)
    text = f" {text} "  # so that the rules below find a blank at both ends
    for pattern, new in _PADDED:
        text = pattern.sub(new, text)
    return text.split()
