"""Retrieval on one split: both directions under every relevance asked for, equal on all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from swamp_dist.config import EvaluateSettings, FoldSettings
from swamp_dist.data.field_inputs import FieldInputs, field_inputs
from swamp_dist.data.manifest import Manifest
from swamp_dist.distributed import World, sum_over_ranks
from swamp_dist.errors import UserError
from swamp_dist.evaluate import ranking
from swamp_dist.evaluate.chance import chance
from swamp_dist.evaluate.checks import check_evaluation, check_settings
from swamp_dist.evaluate.embedding import Embed, Embedded, EncodedSets, embed_split
from swamp_dist.evaluate.folds import blocks_of, entry_folds, mean_result
from swamp_dist.evaluate.gallery import group_items, open_gallery
from swamp_dist.evaluate.normalise import find_shifts
from swamp_dist.evaluate.protocol_notes import with_note
from swamp_dist.evaluate.readers import BankReader, Readers
from swamp_dist.evaluate.results import better, chance_value, from_json, metric_value, to_json
from swamp_dist.evaluate.scored import Encoders, Scored, score_split
from swamp_dist.evaluate.scores import nan_last
from swamp_dist.records import EvaluationResult, PairScores, RetrievalMetrics

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

_Rank = Callable[[str, Tensor, Tensor, ranking.Cutoffs | None], Tensor]
"""Side of the queries, groups of queries and gallery, cut-offs -> raw rows of `ranking.figures`."""
_KEY = {"a_to_b": ("a", "b"), "b_to_a": ("b", "a")}


def evaluate_split(
    embed_a: Embed,
    embed_b: Embed,
    manifest: Manifest,
    settings: EvaluateSettings,
    a: str,
    b: str,
    world: World,
    readers: Readers,
    inputs: tuple[FieldInputs, FieldInputs] | None = None,
    bank: BankReader | None = None,
) -> EvaluationResult:
    """Embed one field of a split and the other of it or of a gallery split, and rank each side by the other;
    the same result on all ranks.

    Items are taken in manifest order and ranks are integers, so the result does not depend on the
    world size. The caller puts the module into evaluation mode.

    Args:
        embed_a: encoder of modality A, (chunk, ...) -> (chunk, D), for cosines unit-length rows. embed_b: of
            B.
        manifest: the shard set.
        settings: split, relevances, rule of ties, cut-offs and chunk.
        a: display name of modality A. b: of modality B.
        readers: of the entries of A and of B (`open_readers`); the caller keeps them open, so that
            validations in a training loop read a cached split only once.
        inputs: what the encoders take of both fields (`stage_inputs`); None: arrays and words as they are, of
            the fields `a` and `b`.
        bank: what scores are normalised by (`open_bank`), where the settings ask for it.

    Raises:
        UserError: as `check_evaluation`, or several items per entry under `ties: miech`.
    """
    made = inputs or (field_inputs(manifest, a), field_inputs(manifest, b))
    check_evaluation(manifest, settings, made[0].field, made[1].field)
    sides, banks = [], []
    for embed, reader, each in zip((embed_a, embed_b), readers, made, strict=True):
        several, num_entries, chunk = manifest.field(each.field).items, len(reader.split), settings.chunk
        sides.append(embed_split(embed, reader, each, num_entries, several, chunk, world))
        if bank is not None:
            banks.append(embed_split(embed, bank, each, len(bank), several, chunk, world).rows)

    def evaluate(part_a: Tensor, part_b: Tensor) -> EvaluationResult:
        return evaluate_embedded(sides[0].take(part_a), sides[1].take(part_b), settings, a, b, world, banks)

    if settings.folds is None:
        result = evaluate_embedded(sides[0], sides[1], settings, a, b, world, banks)
    else:
        split = manifest.split(settings.split)
        result = _over_folds(evaluate, sides, split.keys(range(len(split))), settings.folds)
    return with_note(result, manifest.record.source)


def _over_folds(
    evaluate: Callable[[Tensor, Tensor], EvaluationResult],
    sides: Sequence[Embedded | EncodedSets],
    keys: Sequence[str],
    folds: FoldSettings,
) -> EvaluationResult:
    """The mean of what `evaluate` says of the items of a and of b in every block of entries."""
    block = entry_folds(keys, folds)
    parts = zip(*(blocks_of(block, side.entry, folds.count) for side in sides), strict=True)
    return mean_result([evaluate(part_a, part_b) for part_a, part_b in parts])


def evaluate_set_split(
    encoders: Encoders,
    score: PairScores,
    manifest: Manifest,
    settings: EvaluateSettings,
    a: str,
    b: str,
    world: World,
    readers: Readers,
    inputs: tuple[FieldInputs, FieldInputs],
) -> EvaluationResult:
    """`evaluate_split` of a model that embeds nothing: every item of `a` is scored with every item of `b`.

    Args:
        encoders: of a and b, which give sets.
        score: of pairs of sets.
    """
    check_evaluation(manifest, settings, inputs[0].field, inputs[1].field)
    scored = score_split(encoders, score, manifest, settings, world, readers, inputs)
    return with_note(evaluate_scored(scored, settings, a, b, world), manifest.record.source)


def evaluate_scored(
    scored: Scored, settings: EvaluateSettings, a: str, b: str, world: World
) -> EvaluationResult:
    """Rank each side of a split by given scores, by blocks of entries where the settings say so.

    Raises:
        UserError: as `evaluate_embedded`.
    """

    def evaluate(part_a: Tensor, part_b: Tensor) -> EvaluationResult:
        return evaluate_scores(scored.take(part_a, part_b), settings, a, b, world)

    if settings.folds is None:
        return evaluate_scores(scored, settings, a, b, world)
    return _over_folds(evaluate, (scored.a, scored.b), scored.keys, settings.folds)


def evaluate_scores(
    scored: Scored, settings: EvaluateSettings, a: str, b: str, world: World
) -> EvaluationResult:
    """Rank each side by given scores, whole; one that is not a number ranks last.

    Raises:
        UserError: as `evaluate_embedded`.
    """

    def rank(query: str, groups: Tensor, gallery_groups: Tensor, cutoffs: ranking.Cutoffs | None) -> Tensor:
        gallery = group_items(gallery_groups)
        of_queries = scored.scores if query == "a" else scored.scores.t()

        def tile(rows: slice) -> Tensor:
            own = nan_last(of_queries[rows].clone(memory_format=torch.contiguous_format))
            return ranking.rank_scores(own, groups[rows], gallery, cutoffs)

        return _rank_queries(tile, groups, cutoffs, world)

    return _evaluate({"a": scored.a, "b": scored.b}, rank, settings, a, b)


def evaluate_embedded(
    side_a: Embedded,
    side_b: Embedded,
    settings: EvaluateSettings,
    a: str,
    b: str,
    world: World,
    banks: Sequence[Tensor] = (),
) -> EvaluationResult:
    """Rank each side by the other; `evaluate_split` without the reading and embedding.

    Every entry has items on both sides, and with class relevance every label is >= 0.

    Args:
        banks: embeddings (N, D) of bank queries a and b, where scores are normalised.

    Raises:
        UserError: settings that contradict each other, or several items per entry under `ties: miech`.
        ValueError: scores are to be normalised and there are no banks, or the reverse.
    """
    sides = {"a": side_a, "b": side_b}
    shifts = find_shifts(settings.normalise, banks, (side_b.rows, side_a.rows), world)

    def rank(query: str, groups: Tensor, gallery_groups: Tensor, cutoffs: ranking.Cutoffs | None) -> Tensor:
        queries, shift = sides[query].rows, shifts["ab".index(query)]
        gallery = open_gallery(sides["b" if query == "a" else "a"].rows, gallery_groups)

        def tile(rows: slice) -> Tensor:
            if shift is not None:
                scores = shift.scores(queries[rows], gallery.rows)
                return ranking.rank_scores(scores, groups[rows], gallery, cutoffs)
            return ranking.rank_tile(queries[rows], groups[rows], gallery, cutoffs, settings.distance)

        return _rank_queries(tile, groups, cutoffs, world)

    return _evaluate(sides, rank, settings, a, b)


def _evaluate(
    sides: Mapping[str, Embedded | EncodedSets], rank: _Rank, settings: EvaluateSettings, a: str, b: str
) -> EvaluationResult:
    """All metrics that the settings ask for."""
    check_settings(settings)
    names = {"a": a, "b": b}
    for key, side in sides.items():
        _check_one_item_an_entry(side, names[key], settings)
    metrics, by_chance = {}, {}
    for relevance in settings.relevance:
        for key, (query, gallery) in _KEY.items():
            direction = f"{names[query]}->{names[gallery]}"
            found, expected = _figures(sides, query, gallery, relevance, rank, settings)
            sizes = len(sides[query].entry), len(sides[gallery].entry)
            metrics[f"{relevance}/{key}"] = _metrics(found, direction, relevance, *sizes)
            by_chance[f"{relevance}/{key}"] = _metrics(expected, direction, relevance, *sizes)
    normalised = "" if settings.normalise is None else settings.normalise.title
    return EvaluationResult(settings.split, metrics, by_chance, settings.gallery, normalised=normalised)


def _check_one_item_an_entry(side: Embedded | EncodedSets, field: str, settings: EvaluateSettings) -> None:
    if settings.ties == "miech" and int(torch.bincount(side.entry).max()) > 1:
        raise UserError(
            "evaluate: ties = miech needs one item per entry (the published code compares with the "
            f"diagonal), but {field!r} has several in split {settings.split!r}.\nFix: ties = pessimistic."
        )


def _figures(
    sides: Mapping[str, Embedded | EncodedSets],
    query: str,
    gallery: str,
    relevance: str,
    rank: _Rank,
    settings: EvaluateSettings,
) -> tuple[ranking.Figures, ranking.Figures]:
    """Measured figures of one direction, and those of a random ranking."""
    both = sides[query], sides[gallery]
    groups, gallery_groups = (x.entry if relevance == "pair" else x.label for x in both)
    asked = ranking.Cutoffs(settings.precision_at, settings.hit_at)
    cutoffs = asked if relevance == "class" else None
    raw = rank(query, groups, gallery_groups, cutoffs)
    num_items = len(gallery_groups)
    found = _published_median(ranking.figures(raw, num_items, settings.ties, asked), settings)
    return found, chance(num_items, ranking.relevant_counts(groups, gallery_groups).cpu(), cutoffs)


def _rank_queries(
    rank_tile: Callable[[slice], Tensor], groups: Tensor, cutoffs: ranking.Cutoffs | None, world: World
) -> Tensor:
    """Rows of `rank_tile` of all queries, whose groups are given, on all ranks; tile t is rank t mod W's.

    Every rank fills its rows of a table of zeros, and the sum puts them together without rounding.
    """
    columns = 2 if cutoffs is None else 2 + cutoffs.columns
    raw = torch.zeros((len(groups), columns), dtype=torch.float64, device=groups.device)
    step = ranking.QUERY_TILE
    for start in range(world.rank * step, len(groups), world.size * step):
        rows = slice(start, start + step)
        raw[rows] = rank_tile(rows)
    return sum_over_ranks(raw, world).cpu()


def _published_median(figures: ranking.Figures, settings: EvaluateSettings) -> ranking.Figures:
    if settings.median_rank == "exact":
        return figures
    return replace(figures, median_rank=float(math.floor(figures.median_rank)))


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
