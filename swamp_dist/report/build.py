"""The report: what a run, pipeline or sweep has left in its folders, as one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swamp_dist.errors import UserError
from swamp_dist.evaluate.results import better, metric_names, metric_value
from swamp_dist.pages.page import MOST_BYTES, Page, read_part, sums_html
from swamp_dist.pages.pictures import PagePictures
from swamp_dist.pipelines.compare import RunComparison, compare_runs
from swamp_dist.printable import html_text
from swamp_dist.progress import duration
from swamp_dist.report.costs_part import alarms_part, cost_part, provenance_part
from swamp_dist.report.curves_part import curves_part
from swamp_dist.report.facts import RunFacts, read_run
from swamp_dist.report.parts import Section, notes, words
from swamp_dist.report.results_part import results_part
from swamp_dist.report.settings_part import settings_part
from swamp_dist.report.sheets_part import Sheet, found_sheets, sheets_part
from swamp_dist.report.subject import Subject

if TYPE_CHECKING:  # brings torch, which a report without examples does without
    from swamp_dist.report.beside import Beside
    from swamp_dist.report.examples import Examples


@dataclass(frozen=True)
class Asked:
    """What a report is to hold."""

    command: str
    """As it was typed, for the commands that the page tells."""
    metrics: tuple[str, ...] = ()
    examples: bool = False
    """Read data and weights, and show what queries find."""
    prototypes: bool = False
    """Read data and weights, and draw the sheet of prototypes."""
    split: str | None = None
    """Of examples and prototypes; None: that of the run's first evaluation."""
    beside: str | None = None
    """Another run: what the same queries find in it; reads data and weights."""


@dataclass(frozen=True)
class Report:
    """A page and what it had to leave out."""

    html: str
    left_out: tuple[tuple[str, str], ...]
    """What, and the command or remedy that adds it."""


@dataclass(frozen=True)
class _Detail:
    """How much a page shows."""

    points: int
    all_settings: bool
    sheets: bool


_DETAILS = (_Detail(200, True, True), _Detail(100, True, False), _Detail(40, False, False))


@dataclass(frozen=True)
class _Found:
    """Everything that was read."""

    subject: Subject
    asked: Asked
    runs: tuple[RunFacts, ...]
    compared: RunComparison | None
    sheets: tuple[Sheet, ...]
    examples: Examples | None
    beside: Beside | None = None
    left_out: list[tuple[str, str]] = field(default_factory=list)


def build_report(subject: Subject, asked: Asked, most_bytes: int = MOST_BYTES) -> Report:
    """The page, with as much detail as `most_bytes` has room for.

    Raises:
        UserError: no run can be read, a metric that none has, a run beside it that does not fit, or too many
            runs for a page.
    """
    found = _read(subject, asked)
    for detail in _DETAILS:
        left_out = [*found.left_out, *_of_detail(found, detail)]
        html = _page(found, detail, left_out)
        if len(html.encode()) <= most_bytes:
            return Report(html, tuple(left_out))
    raise UserError(
        f"{len(found.runs)} runs make a page of {len(html.encode()):,} bytes; expected at most "
        f"{most_bytes:,}.\nFix: name fewer runs, for example the folder of one seed"
    )


def _read(subject: Subject, asked: Asked) -> _Found:
    left_out: list[tuple[str, str]] = []
    runs = []
    for key, folder in subject.runs:
        try:
            runs.append(read_run(key, folder, asked.examples or asked.prototypes))
        except (UserError, OSError) as error:
            left_out.append((f"run {key}", " ".join(str(error).split())))
    if not runs:
        raise UserError("no run can be read:\n" + "\n".join(f"{what}: {why}" for what, why in left_out))
    compared = None
    if len(runs) > 1:
        compared = compare_runs([run.folder.path for run in runs], asked.metrics)
    sheets, not_shown = found_sheets(runs)
    left_out += [("a sheet of prototypes", why) for why in not_shown]
    examples = None
    if asked.examples or asked.prototypes:
        from swamp_dist.report.looked_up import look_up

        looked = look_up(best_run(runs, asked.metrics), asked.split, asked.examples, asked.prototypes)
        examples, left_out = looked.examples, left_out + looked.left_out
        sheets = [*([] if looked.sheet is None else [looked.sheet]), *sheets]
    beside = None
    if asked.beside is not None:
        from swamp_dist.report.looked_up import look_beside

        beside = look_beside(best_run(runs, asked.metrics), asked.beside, asked.split)
    left_out += _not_asked(asked, bool(sheets))
    return _Found(subject, asked, tuple(runs), compared, tuple(sheets), examples, beside, left_out)


def best_run(runs: Sequence[RunFacts], metrics: Sequence[str]) -> RunFacts:
    """The run whose examples are shown: the only one, or the best by the first figure that all have."""
    evaluated = [run for run in runs if run.result is not None and run.result.evaluations]
    if len(runs) == 1 or not evaluated:
        return runs[0]
    first = evaluated[0].result
    assert first is not None
    known = metric_names(first.evaluations[0].metrics)
    named = [name for asked in metrics for name in known if name == asked or name.endswith(f"/{asked}")]
    metric, best, value = (named or known)[0], evaluated[0], None
    for run in evaluated:
        assert run.result is not None
        evaluation = run.result.evaluations[0]
        if metric in metric_names(evaluation.metrics):
            own = metric_value(evaluation, metric)
            if value is None or better(metric, own, value):
                best, value = run, own
    return best


def _not_asked(asked: Asked, has_sheets: bool) -> Iterator[tuple[str, str]]:
    if not asked.examples:
        yield "retrieval examples, which need the data and the weights", f"{asked.command} --examples"
    if not has_sheets and not asked.prototypes:
        yield (
            "the sheet of prototypes, which needs the data and the weights",
            f"{asked.command} --prototypes",
        )


def _of_detail(found: _Found, detail: _Detail) -> Iterator[tuple[str, str]]:
    if detail.points < _DETAILS[0].points:
        told = f"all but {detail.points} points of a curve, to keep the page below 5 MB"
        yield told, "metrics.jsonl has all"
    if found.sheets and not detail.sheets:
        yield "sheets of prototypes, to keep the page below 5 MB", "swamp prototypes RUN --split SPLIT"
    if len(found.runs) == 1 and not detail.all_settings:
        yield "settings at their default, to keep the page below 5 MB", "swamp show RUN/stage.yaml"


def _page(found: _Found, detail: _Detail, left_out: Sequence[tuple[str, str]]) -> str:
    pictures = PagePictures()
    sections = list(_sections(found, detail, pictures))
    if left_out:
        body = words("", ("what", "how to get it"), left_out)
        sections.append(Section("left-out", "Left out", body))
    style = read_part("report", "report.css") + pictures.rules()
    body = (
        f'<header class="head">\n<h1>{html_text(_title(found.subject))}</h1>\n{_head(found)}</header>\n'
        f"{_bar(sections)}<main>\n{''.join(section.html() for section in sections)}</main>"
    )
    return Page(_title(found.subject), style, read_part("report", "report.js"), body).html()


def _sections(found: _Found, detail: _Detail, pictures: PagePictures) -> Iterator[Section]:
    runs, compared = found.runs, found.compared
    yield results_part(found.subject, runs, compared, found.asked.metrics)
    curves = curves_part(runs, compared, detail.points)
    if curves is not None:
        yield curves
    if found.examples is not None:
        from swamp_dist.report.examples_part import examples_part

        yield examples_part(found.examples, pictures)
    if found.beside is not None:
        from swamp_dist.report.examples_part import beside_part

        yield beside_part(found.beside, pictures)
    sheets = sheets_part(found.sheets if detail.sheets else ())
    if sheets is not None:
        yield sheets
    yield settings_part(runs, compared, detail.all_settings)
    yield alarms_part(runs)
    yield cost_part(runs, found.asked.examples or found.asked.prototypes)
    yield provenance_part(runs)


def _title(subject: Subject) -> str:
    return f"{subject.name}: report" + ("" if subject.kind == "runs" else f" of a {subject.kind}")


def _head(found: _Found) -> str:
    runs, subject = found.runs, found.subject
    done = sum(run.result is not None for run in runs)
    standing = sum(alarm.cleared is None for run in runs for alarm in run.alarms)
    facts = [
        ("runs done", f"{done} of {subject.planned}"),
        ("training and evaluation", duration(sum(run.cost.seconds for run in runs))),
        ("pairs trained on", f"{sum(run.cost.pairs or 0 for run in runs):,}"),
        ("alarms that stand", str(standing)),
    ]
    return sums_html(facts) + notes([f"From {subject.folder}."])


def _bar(sections: Sequence[Section]) -> str:
    links = "".join(f'<a href="#{each.id}">{html_text(each.title)}</a>' for each in sections)
    return (
        f'<div class="bar"><form role="search"><nav aria-label="Sections">{links}</nav>'
        '<label class="find" hidden>Search <input id="find" type="search" autocomplete="off" '
        'placeholder="rows of tables ( / )"></label>'
        '<output id="count" for="find" aria-live="polite"></output></form></div>\n'
    )
