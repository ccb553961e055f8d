"""Prototypes that start as k-means centres of embeddings (`objective.swamp.prototypes_start: kmeans`)."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from swamp_dist.config import DataSettings, StageSettings
from swamp_dist.data.blend import Blend, BlendedSplit
from swamp_dist.data.field_inputs import tokenizers
from swamp_dist.data.lanes import permutation
from swamp_dist.data.pairs import PairMaker, pair_maker
from swamp_dist.data.reader import EntryReader, open_reader
from swamp_dist.distributed import World, on_main, sum_over_ranks
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import DualEncoder, unit_length
from swamp_dist.model.kmeans import Clusters, inertia, spherical_kmeans
from swamp_dist.records import map_tensors

logger = logging.getLogger(__name__)
_CHUNK = 256
"""Entries that are embedded at a time, whatever the number of ranks: rounding knows their number."""


def start_prototypes(model: DualEncoder, settings: StageSettings, blend: Blend, world: World) -> None:
    """Set the prototypes of a model, before the engine takes it, to k-means centres of what its encoders make
    of a part of the training data; each set of a blend gives its share, or all that it has. All ranks call
    it; nothing happens where the settings do not ask.

    Which entries, and which pair of each (the first that epoch 0 draws), depends on the seed alone. Rank r of
    W embeds every W-th chunk of them in float32, dropout off, and rank 0 finds the centres of the embeddings
    of both modalities in float64. So the same kind of device gives the same prototypes for any number of
    ranks; another kind rounds embeddings otherwise, which k-means may magnify.

    Raises:
        UserError: embeddings that are not finite, on all ranks.
    """
    swamp, weight = settings.objective.swamp, None if model.prototypes is None else model.prototypes.weight
    if weight is None or swamp.prototypes_start == "random":
        return
    model.to(world.device)
    wanted = blend.slots.drawn(swamp.kmeans.items).tolist()
    parts = [
        _embed(model, settings, each, count, world) for each, count in zip(blend.sets, wanted, strict=True)
    ]
    rows, rounds = torch.cat(parts, dim=1).flatten(0, 1), swamp.kmeans.iterations

    def find() -> tuple[Clusters, float]:
        try:
            clusters = spherical_kmeans(rows, len(weight), settings.seed, rounds)
        except ValueError as error:
            raise UserError(
                f"objective.swamp.prototypes_start = kmeans: {error}.\n"
                "Fix: look at the weights and data of the encoders, or set it to random"
            ) from error
        return replace(clusters, centres=clusters.centres.cpu()), inertia(rows, weight.detach())

    found, before = on_main(world, find)
    weight.data.copy_(found.centres)
    logger.info(
        "prototypes start as k-means centres of %d embeddings of %d entries: %d iterations (at most %d), "
        "mean 1 - cosine to the nearest %.4f, of the random ones before %.4f; centres without a row moved "
        "%d times",
        len(rows), len(rows) // 2, found.iterations, rounds, found.inertia, before, found.refilled,
    )  # fmt: skip


def _embed(
    model: DualEncoder,
    settings: StageSettings,
    each: BlendedSplit,
    count: int,
    world: World,
) -> Tensor:
    """(2, entries, D) embeddings of both modalities of `count` entries of a set, on all ranks: each adds its
    rows to zeros."""
    data: DataSettings = settings.data
    manifest, split, seed = each.manifest, each.split, each.seed(settings.seed)
    chosen = np.sort(permutation(len(split), "prototypes", seed)[:count])
    once = data.model_copy(update={"cache": "none"})  # a part of the entries is read, and once
    maker = pair_maker(manifest, once, seed, tokenizers(settings.model))
    dim = settings.model.embedding_dim
    assert dim is not None, "a stage takes it from the weights before it builds the model"
    rows = torch.zeros(2, len(chosen), dim, device=world.device)
    was_training = model.training
    model.eval()
    with (
        contextlib.closing(maker),
        contextlib.closing(open_reader(manifest, split.name, maker.fields, data.reading)) as reader,
        torch.no_grad(),
    ):
        for first in range(world.rank * _CHUNK, len(chosen), world.size * _CHUNK):
            part = chosen[first : first + _CHUNK]
            rows[:, first : first + len(part)] = _embed_chunk(model, maker, reader, part, world)
    model.train(was_training)
    return sum_over_ranks(rows, world)


def _embed_chunk(
    model: DualEncoder, maker: PairMaker, reader: EntryReader, part: np.ndarray, world: World
) -> Tensor:
    """(2, entries, D) embeddings of one pair of each entry."""
    made = maker.make(reader, part, 0, 1)
    a, b = (map_tensors(inputs, lambda rows: _on(rows, world)) for inputs in (made.a, made.b))
    sides = model(a, None), model(None, b)
    return unit_length(torch.stack(sides).float()) if model.is_free else torch.stack(sides).float()


def _on(rows: Tensor, world: World) -> Tensor:
    """A tensor of inputs on the device, in float32 where it is stored as halves."""
    moved = rows.to(world.device)
    return moved.float() if moved.dtype in (torch.float16, torch.bfloat16) else moved
