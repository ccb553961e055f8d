from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.file_names import name_problem

GOOD = [
    "a",
    "_",
    "7",
    "finetune-swamp-pretrained",
    "eta=0.5,tau=0.1",
    "run 2",
    "v1.0+x@home",
    "Müller",
    "실험1",
]
BAD = [
    "", " ", ".", "..", ".hidden", "../../x", "a/b", "/tmp/x", "a\\b", "-n", "a\0b", " a", "a ", "a  b",
    "a\n", "a\tb", "\x1b[31mred", "a\x7f", "a\x9b1m", "a\u202eb", "\u3164", "\ufeffa", "[bold]a", "a;b",
    "a`b`", "$(x)", "a'b", "a:b", "a*", "a\ud800", "x" * 300, "é" * 101,
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_names_that_folders_may_have(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_names_that_lead_elsewhere_or_show_as_something_else_are_refused(name: str) -> None:
    problem = name_problem(name)
    assert problem is not None
    assert problem.isascii()
    assert problem.isprintable()
    assert len(problem) < 500


@given(st.text(max_size=40))
def test_a_name_without_a_problem_is_one_part_of_a_path_and_shows_as_it_is(name: str) -> None:
    if name_problem(name) is None:
        assert name.isprintable()
        assert name not in ("", ".", "..")
        assert not set("/\\\0[]<>`$'\"|;&*?!{}()") & set(name)
        assert name == name.strip()
        assert not name.startswith("-")
