"""The scores of all pairs of a split by one model, whether it embeds items or scores pairs of sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swamp_dist.config import EvaluateSettings, ModelSettings
from swamp_dist.data.field_inputs import FieldInputs
from swamp_dist.data.manifest import Manifest
from swamp_dist.distributed import World, sum_over_ranks
from swamp_dist.evaluate.distances import distance_scores
from swamp_dist.evaluate.embedding import Embedded, EncodedSets, embed_split, encode_split
from swamp_dist.evaluate.readers import Readers
from swamp_dist.evaluate.scores import float32_scores
from swamp_dist.evaluate.set_rows import TILE, score_all
from swamp_dist.model.dual_encoder import unit_length
from swamp_dist.records import Inputs, PairScores

Encoders = tuple[Callable[[Inputs], Any], Callable[[Inputs], Any]]
"""Of a and of b, (chunk, ...) -> (chunk, D), or `records.Sets` where pairs of sets are scored."""


@dataclass(frozen=True)
class Scored:
    """The scores of all pairs of a split; equal on all ranks."""

    scores: Tensor
    """(items of a, items of b) float32."""
    a: Embedded | EncodedSets
    b: Embedded | EncodedSets
    keys: Sequence[str]
    """Of all entries of the split, and behind them of those of a gallery split."""

    def take(self, a: Tensor, b: Tensor) -> Scored:
        """The items of a and of b at these positions."""
        return Scored(self.scores[a][:, b], self.a.take(a), self.b.take(b), self.keys)


def encoders_for(encoders: Encoders, model: ModelSettings, settings: EvaluateSettings) -> Encoders:
    """Encoders of what an evaluation compares: rows of unit length where cosines rank them, rows as the model
    gives them where distances do."""
    if model.length == "unit" or settings.distance == "euclidean" or not model.embeds:
        return encoders
    a, b = encoders
    return (lambda inputs: _unit(a(inputs))), (lambda inputs: _unit(b(inputs)))


def _unit(rows: Any) -> Tensor:
    return unit_length(rows)


def score_split(
    encoders: Encoders,
    score: PairScores | None,
    manifest: Manifest,
    settings: EvaluateSettings,
    world: World,
    readers: Readers,
    inputs: tuple[FieldInputs, FieldInputs],
) -> Scored:
    """Score every item of a with every item of b: 4 bytes each, held on every rank.

    Args:
        encoders: of a and b. score: of pairs of sets; None: cosines or distances of embeddings.
        manifest, settings, readers, inputs: as of `retrieval.evaluate_split`.
    """
    sides = [
        (encode, reader, each, len(reader.split), manifest.field(each.field).items, settings.chunk, world)
        for encode, reader, each in zip(encoders, readers, inputs, strict=True)
    ]
    splits = dict.fromkeys(settings.splits)
    keys = [key for name in splits for key in manifest.split(name).keys(range(len(manifest.split(name))))]
    if score is not None:
        sets_a, sets_b = (encode_split(*side) for side in sides)
        return Scored(score_all(sets_a.rows, sets_b.rows, score, world), sets_a, sets_b, keys)
    a, b = (embed_split(*side) for side in sides)
    scores = distance_scores if settings.distance == "euclidean" else float32_scores
    return Scored(_all_scores(a.rows, b.rows, scores, world), a, b, keys)


def _all_scores(a: Tensor, b: Tensor, scores: Callable[[Tensor, Tensor], Tensor], world: World) -> Tensor:
    """(n, D), (m, D) -> (n, m) float32 on all ranks; row i of tiles is rank i mod W's, so no number depends
    on the world size."""
    found = torch.zeros(len(a), len(b), device=a.device)
    for i in range(world.rank * TILE, len(a), world.size * TILE):
        found[i : i + TILE] = scores(a[i : i + TILE], b)
    return sum_over_ranks(found, world)
