"""Curves of a run: read from its rows, thinned without losing a spike."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.report.curves import mean_of, read_tags, thinned


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(4, 60))
def test_thinned_points_keep_the_ends_and_the_extremes(values: list[float], most: int) -> None:
    points = [(float(i), value) for i, value in enumerate(values)]
    kept = thinned(points, most)
    assert len(kept) <= most
    assert kept == sorted(kept, key=lambda point: point[0])
    assert set(kept) <= set(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert min(y for _, y in kept) == min(values)
    assert max(y for _, y in kept) == max(values)


def test_rows_that_are_no_figures_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 1, "loss/total": 2.5, "note": "text"}\n{"step": 2, "loss/total": NaN}\nrubbish\n'
        '{"step": 3, "loss/total": 1e400, "loss/swamp": true}\n[1]\n{"step": 4, "loss/total": 1.5}\n'
        '{"step": 5'
    )
    assert read_tags(file) == {"loss/total": [(1.0, 2.5), (4.0, 1.5)]}
    assert read_tags(tmp_path / "none") == {}
    os.mkfifo(tmp_path / "pipe")
    assert read_tags(tmp_path / "pipe") == {}


def test_a_mean_is_taken_where_all_tags_have_a_value() -> None:
    tags = {"a": [(1.0, 2.0), (2.0, 4.0)], "b": [(2.0, 6.0), (3.0, 9.0)]}
    assert mean_of(tags, ("a", "b")) == [(2.0, 5.0)]
    assert mean_of(tags, ("a",)) == tags["a"]
    assert mean_of(tags, ("c",)) == []
