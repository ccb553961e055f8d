"""Charts: what is drawn where, and that a name of a file stays text."""

from __future__ import annotations

import re

from swamp_dist.report.chart import Chart, Line, Marks, chart_svg, key_svg
from tests.pages.parsed import EVIL, Parsed


def test_a_line_goes_through_its_points_and_may_be_hidden_by_its_number() -> None:
    drawn = chart_svg(Chart("loss", "step", [Line([(0, 0.0), (10, 4.0)], 9, "a run")]))
    (group,) = Parsed(drawn).named("g")
    assert group["data-line"] == "9"
    (path,) = [p["d"] for p in Parsed(drawn).named("path") if p["class"] == "c1 d1"]
    assert path == "M52.0 230.0L458.0 10.0"
    assert 'aria-label="loss: 1 line, from 0 to 4"' in drawn


def test_values_that_are_spread_wide_stand_on_a_logarithmic_axis() -> None:
    wide = chart_svg(Chart("loss", "step", [Line([(0, 100.0), (5, 10.0), (10, 1.0)], 0, "run")]))
    assert "loss, logarithmic" in wide
    (middle,) = re.findall(r'd="M52\.0 10\.0L255\.0 ([\d.]+)L458\.0 230\.0"', wide)
    assert float(middle) == 120.0  # half the height: half of the decades
    assert "logarithmic" not in chart_svg(Chart("loss", "step", [Line([(0, 2.0), (9, 0.0)], 0, "run")]))


def test_marks_of_a_sweep_are_drawn() -> None:
    marks = Marks(
        dots=[(0, 1.0), (0, 3.0)], bars=[(0, 0.5, 3.5)], best=(1, 4.0), level=(2.0, "contrastive alone"),
        x_ticks=[(0, "soft"), (1, "hard")],
    )  # fmt: skip
    drawn = chart_svg(Chart("R@1", "assignment", [Line([(0, 2.0), (1, 4.0)], 0, "mean")], marks))
    parsed = Parsed(drawn)
    assert [c["class"] for c in parsed.named("circle") if "class" in c] == ["run", "run", "best"]
    assert {"bar-mark", "level"} <= {p["class"] for p in parsed.named("path")}
    assert ">soft</text>" in drawn
    assert "contrastive alone" in parsed.said


def test_names_are_text_and_lines_without_room_for_ticks_stay_apart() -> None:
    line = Line([(0, 1.0), (1, 2.0)], 0, EVIL)
    drawn = chart_svg(Chart(EVIL, EVIL, [line], Marks(x_ticks=[(0, EVIL), (1, EVIL)]), has_legend=True))
    parsed = Parsed(drawn)
    assert {tag for tag, _ in parsed.tags} <= {
        "figure", "figcaption", "svg", "path", "text", "g", "title", "circle", "ul", "li"
    }  # fmt: skip
    assert not [a for _, attributes in parsed.tags for a in attributes if a.startswith("on") or a == "style"]
    assert "style=" not in key_svg(3)
