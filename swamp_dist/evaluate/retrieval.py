"""Retrieval on one split: both directions under every relevance asked for, equal on all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from swamp_dist.config import EvaluateSettings
from swamp_dist.data.field_inputs import FieldInputs, field_inputs
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.reader import EntryReader
from swamp_dist.distributed import World, sum_over_ranks
from swamp_dist.errors import UserError
from swamp_dist.evaluate import ranking
from swamp_dist.evaluate.chance import chance
from swamp_dist.evaluate.checks import check_evaluation, check_settings
from swamp_dist.evaluate.embedding import Embed, Embedded, embed_split
from swamp_dist.evaluate.gallery import Gallery, open_gallery
from swamp_dist.evaluate.results import better, chance_value, from_json, metric_value, to_json
from swamp_dist.records import EvaluationResult, RetrievalMetrics

__all__ = [
    "better",
    "chance_value",
    "check_evaluation",
    "evaluate_embedded",
    "evaluate_split",
    "from_json",
    "metric_value",
    "to_json",
]

_KEY = {"a_to_b": ("a", "b"), "b_to_a": ("b", "a")}


def evaluate_split(
    embed_a: Embed,
    embed_b: Embed,
    manifest: Manifest,
    settings: EvaluateSettings,
    a: str,
    b: str,
    world: World,
    reader: EntryReader,
    inputs: tuple[FieldInputs, FieldInputs] | None = None,
) -> EvaluationResult:
    """Embed both fields of a split and rank each side by the other; the same result on all ranks.

    Items are taken in manifest order and ranks are integers, so the result does not depend on the
    world size. The caller puts the module into evaluation mode.

    Args:
        embed_a: encoder of field `a`, (chunk, ...) -> (chunk, D) unit-length rows. embed_b: of `b`.
        manifest: the shard set.
        settings: split, relevances, rule of ties, cut-offs and chunk.
        a: field name and display name of modality A. b: of modality B.
        reader: of both fields of the split; the caller keeps it open, so that validations in a training
            loop read a cached split only once.
        inputs: what the encoders take of both fields (`stage_inputs`); None: arrays and words as they are.

    Raises:
        UserError: as `check_evaluation`, or several items per entry under `ties: miech`.
    """
    check_evaluation(manifest, settings, a, b)
    num_entries = len(manifest.split(settings.split))
    sides = []
    made = inputs or (field_inputs(manifest, a), field_inputs(manifest, b))
    for embed, each in zip((embed_a, embed_b), made, strict=True):
        several = manifest.field(each.field).items
        sides.append(embed_split(embed, reader, each, num_entries, several, settings.chunk, world))
    return evaluate_embedded(sides[0], sides[1], settings, a, b, world)


def evaluate_embedded(
    side_a: Embedded, side_b: Embedded, settings: EvaluateSettings, a: str, b: str, world: World
) -> EvaluationResult:
    """Rank each side by the other; `evaluate_split` without the reading and embedding.

    Every entry has items on both sides, and with class relevance every label is >= 0.

    Raises:
        UserError: settings that contradict each other, or several items per entry under `ties: miech`.
    """
    check_settings(settings)
    sides, names = {"a": side_a, "b": side_b}, {"a": a, "b": b}
    for key, side in sides.items():
        _check_one_item_an_entry(side, names[key], settings)
    metrics, by_chance = {}, {}
    for relevance in settings.relevance:
        for key, (query, gallery) in _KEY.items():
            direction = f"{names[query]}->{names[gallery]}"
            found, expected = _figures(sides[query], sides[gallery], relevance, settings, world)
            sizes = len(sides[query].entry), len(sides[gallery].entry)
            metrics[f"{relevance}/{key}"] = _metrics(found, direction, relevance, *sizes)
            by_chance[f"{relevance}/{key}"] = _metrics(expected, direction, relevance, *sizes)
    return EvaluationResult(settings.split, metrics, by_chance)


def _check_one_item_an_entry(side: Embedded, field: str, settings: EvaluateSettings) -> None:
    if settings.ties == "miech" and int(torch.bincount(side.entry).max()) > 1:
        raise UserError(
            "evaluate: ties = miech needs one item per entry (the published code compares with the "
            f"diagonal), but {field!r} has several in split {settings.split!r}.\nFix: ties = pessimistic."
        )


def _figures(
    query: Embedded, gallery: Embedded, relevance: str, settings: EvaluateSettings, world: World
) -> tuple[ranking.Figures, ranking.Figures]:
    """Measured figures of one direction, and those of a random ranking."""
    groups, gallery_groups = (x.entry if relevance == "pair" else x.label for x in (query, gallery))
    cutoffs = settings.precision_at if relevance == "class" else None
    items = open_gallery(gallery.rows, gallery_groups)
    raw = _rank_queries(query.rows, groups, items, cutoffs, world)
    num_items = len(gallery_groups)
    found = ranking.figures(raw, num_items, settings.ties, cutoffs or ())
    return found, chance(num_items, ranking.relevant_counts(groups, gallery_groups).cpu(), cutoffs)


def _rank_queries(
    queries: Tensor, groups: Tensor, gallery: Gallery, cutoffs: tuple[int, ...] | None, world: World
) -> Tensor:
    """Rows of `ranking.rank_tile` of all queries on all ranks; tile t is ranked by rank t mod W.

    Every rank fills its rows of a table of zeros, and the sum puts them together without rounding.
    """
    columns = 2 if cutoffs is None else 3 + 2 * len(cutoffs)
    raw = torch.zeros((len(queries), columns), dtype=torch.float64, device=queries.device)
    step = ranking.QUERY_TILE
    for start in range(world.rank * step, len(queries), world.size * step):
        rows = slice(start, start + step)
        raw[rows] = ranking.rank_tile(queries[rows], groups[rows], gallery, cutoffs)
    return sum_over_ranks(raw, world).cpu()


def _metrics(
    figures: ranking.Figures, direction: str, relevance: str, num_queries: int, num_items: int
) -> RetrievalMetrics:
    return RetrievalMetrics(
        direction=direction,
        relevance=relevance,
        num_queries=num_queries,
        num_items=num_items,
        **vars(figures),
    )
