"""The same queries in two runs, for example before and after a term was added. Reads data and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from swamp_dist.config import EvaluateSettings
from swamp_dist.errors import UserError
from swamp_dist.inference import TrainedModel
from swamp_dist.report.examples import ShownSide, score_items, sides_of, with_thumbnails
from swamp_dist.report.ranked import Chosen, Ranked, choose

QUERIES = 10
"""Of each direction."""


@dataclass(frozen=True)
class TwoAnswers:
    """One direction of retrieval: the same queries, drawn by their keys, in both runs."""

    queries: ShownSide
    gallery: ShownSide
    relevance: str
    first: tuple[Ranked, ...]
    second: tuple[Ranked, ...]


@dataclass(frozen=True)
class Beside:
    """What two runs find."""

    runs: tuple[str, str]
    """Their keys."""
    split: str
    directions: tuple[TwoAnswers, ...]


def find_beside(
    runs: tuple[str, str], models: tuple[TrainedModel, TrainedModel], settings: EvaluateSettings
) -> Beside:
    """Ten drawn queries of both directions, and the five items that come first in each run.

    Args:
        runs: keys of both runs, for the headings.
        models: of both runs; the second is given the set of the first.
        settings: the evaluation that tells split and relevance.

    Raises:
        UserError: the second model takes other fields, or as `find_examples`.
    """
    first, second = models
    manifest = first.open_shards()
    if second.fields != first.fields:
        raise UserError(
            f"run {runs[1]} has the fields {' and '.join(second.fields)}, run {runs[0]} has "
            f"{' and '.join(first.fields)}.\nFix: name a run over the same fields with --beside"
        )
    second.open_shards(manifest.folder)
    scored = [score_items(model, manifest, settings) for model in models]
    sides = sides_of(manifest, settings, first.fields, scored[0])
    is_pair = "pair" in settings.relevance and settings.gallery is None
    groups = [side.entry if is_pair else side.label for side in (scored[0].a, scored[0].b)]
    ways = []
    for query, gallery in ((0, 1), (1, 0)):
        side = sides[query]
        names = [side.key(item) for item in range(len(side.entry))]
        both = [
            choose(_by_query(each.scores, query), groups[query], groups[gallery], QUERIES, names)
            for each in scored
        ]
        ways.append((query, gallery, both))
    chosen = [(query, gallery, _drawn(both)) for query, gallery, both in ways]
    shown = with_thumbnails(first, manifest, settings, sides, chosen)
    relevance = "pair" if is_pair else "class"
    found = tuple(
        TwoAnswers(shown[query], shown[gallery], relevance, both[0].drawn, both[1].drawn)
        for query, gallery, both in ways
    )
    return Beside(runs, settings.split, found)


def _by_query(scores: Tensor, query: int) -> Tensor:
    return scores if query == 0 else scores.t()


def _drawn(both: Sequence[Chosen]) -> Chosen:
    """What both runs show of one direction: that alone needs pictures."""
    return Chosen((), (), tuple(each for chosen in both for each in chosen.drawn))
