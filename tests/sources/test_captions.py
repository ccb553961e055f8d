import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.sources.captions import caption_ids, vocabulary, words_of

LETTERS = "aAb\u00e9'_ ,.-9\n"
captions = st.text(st.sampled_from(LETTERS), max_size=60)


def vector_of(row):
    return np.random.default_rng(row).standard_normal(300, dtype=np.float32)


def published_array(caption, vector_by_word, max_words):
    """(max_words, 300), the slow way: look every word up, then cut, then pad."""
    present = [vector_by_word[w] for w in re.findall(r"[\w']+", str(caption)) if w in vector_by_word]
    out = np.zeros((max_words, 300), np.float32)
    for place, vector in enumerate(present[:max_words]):
        out[place] = vector
    return out


@given(
    st.lists(captions, max_size=4), st.sets(st.text(st.sampled_from("aAb\u00e9'_9"), min_size=1, max_size=2))
)
def test_ids_of_a_table_are_the_published_arrays(texts, known):
    index = {word: i for i, word in enumerate(sorted(known), 1)}
    table = np.stack([np.zeros(300, np.float32), *(vector_of(i) for i in index.values())])
    by_word = {word: table[i] for word, i in index.items()}
    for max_words in (3, 20):
        ids = caption_ids(texts, index, max_words)
        assert (ids.dtype, ids.shape) == (np.int32, (len(texts), max_words))
        for row, text in zip(ids, texts, strict=True):
            assert np.array_equal(table[row], published_array(text, by_word, max_words))


def test_unknown_words_go_before_the_cut_and_case_counts():
    index = {"Add": 1, "the": 2, "don't": 3}
    assert caption_ids(["xx add Add, yy the-don't the"], index, 3).tolist() == [[1, 2, 3]]
    assert caption_ids(["", "??", "zz"], index).tolist() == [[0] * 20] * 3
    assert caption_ids([], index).shape == (0, 20)


def test_the_vocabulary_counts_words_and_refuses_a_nested_list():
    assert vocabulary(iter(["a b a", "B"])) == {"a": 2, "b": 1, "B": 1}
    assert words_of("it's a_b, Z\u00fcrich") == ["it's", "a_b", "Z\u00fcrich"]
    with pytest.raises(TypeError):
        vocabulary([("a b", "c")])
