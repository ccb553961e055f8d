from __future__ import annotations

import math

from swamp_dist.prototypes.keywords import Keyword, keywords, title, words_of


def test_words_are_runs_of_letters_once_per_text() -> None:
    assert words_of("The Cat, 2 cats & a CAT's cat_nap o\u2019clock") == [
        "cat", "cats", "cat's", "nap", "o\u2019clock",
    ]  # fmt: skip
    assert words_of("Ein Fl\u00fcgel \u2014 \u732b \u0441\u043e\u0431\u0430\u043a\u0430") == [
        "ein", "fl\u00fcgel", "\u732b", "\u0441\u043e\u0431\u0430\u043a\u0430",
    ]  # fmt: skip
    assert words_of("the of 42") == []


def test_weights_are_those_of_the_rule() -> None:
    texts = {3: ["a red cat", "cat and dog", "red cat cat"], 7: ["a dog", "red"], 9: []}
    found = keywords(texts, 2)
    mean = (6 + 2 + 0) / 3  # words per prototype: cat 3, red 2, dog 1; dog 1, red 1; none
    assert found[3] == (
        Keyword("cat", 3, 3 * math.log1p(mean / 3)),
        Keyword("red", 2, 2 * math.log1p(mean / 3)),
    )
    assert found[7] == (Keyword("dog", 1, math.log1p(mean / 2)), Keyword("red", 1, math.log1p(mean / 3)))
    assert found[9] == ()


def test_equal_weights_are_ordered_by_the_alphabet() -> None:
    assert [word.word for word in keywords({0: ["zebra apple mango"]}, 3)[0]] == ["apple", "mango", "zebra"]


def test_a_word_of_all_prototypes_stands_behind_one_of_few() -> None:
    texts = {number: [f"photo {name}", f"photo {name}"] for number, name in enumerate(["cat", "dog", "bus"])}
    assert [found[0].word for found in keywords(texts, 2).values()] == ["cat", "dog", "bus"]


def test_titles_are_the_papers() -> None:
    words = keywords({405: ["pizza oven"] * 2 + ["pizza"]}, 8)[405]
    assert title(405, words) == "0405: pizza/oven"
    assert title(5, ()) == "0005"
