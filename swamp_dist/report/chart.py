"""A chart as inline SVG: lines with their colour from the page's style, so that it follows dark and light.

Only presentation attributes and classes are used; the page's policy allows no style of an element's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from swamp_dist.printable import html_text
from swamp_dist.report.axes import Scale, is_wide, scale_of, tick_text

_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 22, 10, 40
COLOURS, DASHES = 8, 3
"""Distinct colours, and kinds of lines of each."""
_HALF_LETTER = 4.2
"""Half the width of a letter where letters are largest, on a phone."""
_FEW = 12
"""Points up to which a line has dots too."""


@dataclass(frozen=True)
class Line:
    """One curve."""

    points: Sequence[tuple[float, float]]
    """At least one, by x."""
    style: int
    """Number of its colour and dash; lines of one number belong together."""
    label: str


@dataclass(frozen=True)
class Marks:
    """What a chart of a sweep shows besides its line of means."""

    dots: Sequence[tuple[float, float]] = ()
    bars: Sequence[tuple[float, float, float]] = ()
    """x, lowest and highest value of an interval."""
    best: tuple[float, float] | None = None
    level: tuple[float, str] | None = None
    """A value across the whole width, and what it is."""
    x_ticks: Sequence[tuple[float, str]] = ()
    """In place of numbers along the x axis."""

    @property
    def values(self) -> list[float]:
        """All values on the y axis."""
        found = [y for _, y in self.dots] + [y for _, *ends in self.bars for y in ends]
        return found + ([] if self.level is None else [self.level[0]])


@dataclass(frozen=True)
class Chart:
    """Lines over one x axis."""

    title: str
    x_label: str
    lines: Sequence[Line]
    marks: Marks = Marks()
    has_legend: bool = False
    """Whether the lines are named below the drawing, with their last values."""


def chart_svg(chart: Chart) -> str:
    """A `figure` with a heading and a drawing that a screen reader tells in one sentence."""
    values = [y for line in chart.lines for _, y in line.points] + chart.marks.values
    places = [x for line in chart.lines for x, _ in line.points] + [x for x, _ in chart.marks.x_ticks]
    y = scale_of(values, is_wide(values))
    x = _x_scale(places, chart.marks.x_ticks)
    frame = _Frame(x, y)
    title = chart.title + (", logarithmic" if y.is_log else "")
    told = (
        f"{chart.title}: {len(chart.lines)} line{'s' if len(chart.lines) > 1 else ''}, "
        f"from {tick_text(min(values))} to {tick_text(max(values))}"
    )
    return (
        f'<figure class="chart"><figcaption>{html_text(title)}</figcaption>\n'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html_text(told)}">\n'
        f"{''.join(_axes(frame, chart.x_label))}{''.join(_level(frame, chart.marks))}"
        f"{''.join(_line(frame, line) for line in chart.lines)}{''.join(_marks(frame, chart.marks))}"
        f"</svg>{_legend(chart.lines) if chart.has_legend else ''}</figure>\n"
    )


def _legend(lines: Sequence[Line]) -> str:
    named = "".join(
        f"<li>{key_svg(line.style)} {html_text(f'{line.label}: {tick_text(line.points[-1][1])}')}</li>"
        for line in lines
    )
    return f'<ul class="legend">{named}</ul>'


def key_svg(style: int) -> str:
    """A piece of a line, for a legend."""
    return (
        f'<svg class="key" viewBox="0 0 26 10" aria-hidden="true"><path class="{style_class(style)}" '
        'd="M1 5H25"/></svg>'
    )


def style_class(style: int) -> str:
    """The classes of a line of this number."""
    return f"c{style % COLOURS} d{style // COLOURS % DASHES}"


@dataclass(frozen=True)
class _Frame:
    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point stands in the drawing."""
        wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + self.x.place(x) * wide, _TOP + (1 - self.y.place(y)) * high


def _x_scale(places: Sequence[float], ticks: Sequence[tuple[float, str]]) -> Scale:
    if not ticks:
        return scale_of(places)
    low, high = min(places), max(places)
    room = (high - low) * 0.06 or 1.0
    return Scale(low - room, high + room, False, tuple(ticks))


def _axes(frame: _Frame, x_label: str) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value, text in frame.y.ticks:
        _, y = frame.at(frame.x.low, value)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{html_text(text)}</text>'
    shown = _that_fit(frame)
    for value, text in shown:
        x, _ = frame.at(value, frame.y.low)
        yield f'<path class="grid" d="M{x:.1f} {bottom}v4"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{html_text(text)}</text>'
    yield f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>'
    yield f'<text class="soft" x="{right}" y="{_HEIGHT - 6}" text-anchor="end">{html_text(x_label)}</text>\n'


def _that_fit(frame: _Frame) -> list[tuple[float, str]]:
    """Ticks of the x axis that do not run into the one before them."""
    shown: list[tuple[float, str]] = []
    free = float("-inf")
    for value, text in frame.x.ticks:
        x, _ = frame.at(value, frame.y.low)
        half = _HALF_LETTER * len(text)
        if x - half >= free:
            shown.append((value, text))
            free = x + half + 6
    return shown


def _line(frame: _Frame, line: Line) -> str:
    places = [frame.at(x, y) for x, y in line.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = places if len(places) <= _FEW else []
    drawn = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in dots)
    name = style_class(line.style)
    return (
        f'<g class="{name}" data-line="{line.style}"><title>{html_text(line.label)}</title>'
        f'<path class="{name}" d="M{path}"/>{drawn}</g>\n'
    )


def _level(frame: _Frame, marks: Marks) -> Iterator[str]:
    if marks.level is not None:
        value, told = marks.level
        _, y = frame.at(frame.x.low, value)
        yield (
            f'<g><title>{html_text(told)}</title><path class="level" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
            "</g>\n"
        )


def _marks(frame: _Frame, marks: Marks) -> Iterator[str]:
    for x, low, high in marks.bars:
        (at, bottom), (_, top) = frame.at(x, low), frame.at(x, high)
        yield (
            f'<path class="bar-mark" d="M{at:.1f} {bottom:.1f}V{top:.1f}M{at - 4:.1f} {top:.1f}h8'
            f'M{at - 4:.1f} {bottom:.1f}h8"/>'
        )
    for x, y in marks.dots:
        left, top = frame.at(x, y)
        yield f'<circle class="run" cx="{left:.1f}" cy="{top:.1f}" r="2.6"/>'
    if marks.best is not None:
        left, top = frame.at(*marks.best)
        yield f'<g><title>best mean</title><circle class="best" cx="{left:.1f}" cy="{top:.1f}" r="7"/></g>'
