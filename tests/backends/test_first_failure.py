from __future__ import annotations

import pytest

from swamp_dist.backends.first_failure import Ending, first_failure, is_echo, last_error, last_words

HEAD = "2026-01-02 03:04:05,6 rank 1"
WORKS = f"{HEAD} INFO swamp_dist.progress: step 3 of 9\n"
LOST = f"{HEAD} ERROR swamp_dist.stage.rank: rank 1 lost its connection to another rank and stopped\n"
CRASH = (
    f"{HEAD} ERROR swamp_dist.stage.rank: rank 1 stopped by KeyError: 'x'\nTraceback (most recent call):\n"
)
ABORTED = f"{WORKS}terminate called after throwing 'gloo::IoException'\n what(): Connection closed by peer\n"
UNMET = "error: rank 1 of 2 did not meet the others, who began at n1:4000: timed out\n"


@pytest.mark.parametrize(
    ("endings", "named"),
    [
        # what began it is a crash: by the others' words, however they end and in whatever order it is seen
        ([(0, 1, 0.00, CRASH), (1, 1, 0.00, LOST), (2, 1, 0.05, LOST)], 0),
        ([(0, 1, 0.05, CRASH), (1, 1, 0.00, LOST), (2, -6, 0.00, ABORTED)], 0),
        ([(0, 1, 3.00, CRASH), (1, 1, 0.00, UNMET)], 0),
        # by time: a peer that is killed later did not begin it
        ([(0, -9, 4.0, WORKS), (1, 1, 0.0, CRASH)], 1),
        ([(0, 2, 0.0, CRASH), (1, 1, 1.0, CRASH)], 0),
        # of one moment: killed, then a mistake of its own, then the highest rank
        ([(0, 1, 0.0, CRASH), (1, -9, 0.1, WORKS)], 1),
        ([(0, 2, 0.1, CRASH), (1, 1, 0.0, CRASH)], 0),
        ([(0, 1, 0.0, CRASH), (1, 1, 0.1, CRASH)], 1),
        # what all agreed on is nobody's fault
        ([(0, 75, 0.0, WORKS), (1, 1, 9.0, CRASH)], 1),
        # the network between them failed
        ([(0, 1, 0.5, LOST), (1, 1, 0.0, LOST)], 1),
    ],
)  # fmt: skip
def test_who_is_named(endings: list[tuple[int, int, float, str]], named: int) -> None:
    assert first_failure([Ending(*each) for each in endings]).rank == named
    assert first_failure([Ending(*each) for each in reversed(endings)]).rank == named


def test_only_the_last_words_make_an_echo() -> None:
    assert is_echo(WORKS + LOST)
    assert not is_echo(LOST + CRASH)
    assert not is_echo("")


def test_last_words_end_before_the_trace() -> None:
    assert last_words(WORKS + CRASH + "  File x\n") == CRASH.splitlines()[:1]
    assert last_words("a\nb\n") == ["a", "b"]
    assert last_error(WORKS + CRASH) == "rank 1 stopped by KeyError: 'x'"
    assert last_error(WORKS) == ""
