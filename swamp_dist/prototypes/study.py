"""Everything that is told of the prototypes of a run on one split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import StageSettings
from swamp_dist.data.class_vectors import class_names
from swamp_dist.data.manifest import Manifest
from swamp_dist.errors import UserError
from swamp_dist.evaluate.embedding import Embedded
from swamp_dist.file_names import run_of
from swamp_dist.inference import TrainedModel, embed
from swamp_dist.loading import load_dumped
from swamp_dist.prototypes.assignment import Agreement, Assigned, agreement, assign, sizes
from swamp_dist.prototypes.classes import class_counts, normalized_mutual_information, purities, purity
from swamp_dist.prototypes.keywords import Keyword, keywords
from swamp_dist.prototypes.super_clusters import SuperCluster, default_groups, super_clusters
from swamp_dist.prototypes.texts import SplitTexts, read_texts, source_of_words, texts_by_prototype
from swamp_dist.runs.folder import RunDir
from swamp_dist.train.weights import Weights, load_weights

KEYWORDS = 8
"""Words that are kept of each prototype."""


@dataclass(frozen=True)
class Learned:
    """The classifier of a run: P and tau of the paper's eq. 2."""

    vectors: Tensor
    """(K, D) float32, as the forward pass has them."""
    temperature: float
    normalized: bool
    """Whether they have unit length, as the paper's do; else the stage trained them as they are."""
    weights: Weights


@dataclass(frozen=True)
class PrototypeFigures:
    """What is told of one prototype; shares from 0 to 1."""

    number: int
    sizes: tuple[int, int]
    """Items of a and of b."""
    agreement: float | None
    """See `Agreement.by_prototype`; None without a pair."""
    purity: float | None
    """Share of its items, of both modalities, that have the class `label`; None without classes."""
    label: int | None
    """Its most frequent class, of equal ones the lowest."""
    class_name: str | None
    """The name of that class, where the set has names."""
    keywords: tuple[Keyword, ...]
    super_cluster: int | None
    """Place in `Study.super_clusters`; None without items."""

    @property
    def items(self) -> int:
        """Of both modalities."""
        return sum(self.sizes)


@dataclass(frozen=True)
class ClassFigures:
    """How prototypes match the classes of the set."""

    purity: float
    nmi: float


@dataclass(frozen=True)
class Study:
    """The prototypes of a run and the items of a split that belong to them."""

    model: TrainedModel
    manifest: Manifest
    split: str
    learned: Learned
    keys: tuple[str, ...]
    """Of every entry."""
    sides: tuple[Assigned, Assigned]
    texts: SplitTexts
    words_from: str | None
    agreement: Agreement
    classes: dict[str, ClassFigures]
    """By `a`, `b` and `both`; empty where the set has no classes."""
    prototypes: tuple[PrototypeFigures, ...]
    """All K, by number."""
    super_clusters: tuple[SuperCluster, ...]
    class_names: tuple[str, ...] = ()
    """By label; empty where classes have no names."""

    @property
    def used(self) -> list[PrototypeFigures]:
        """Prototypes with items."""
        return [each for each in self.prototypes if each.items]


def read_prototypes(model: TrainedModel) -> Learned:
    """P and tau of a trained model.

    Raises:
        UserError: it was trained without the SwAMP term, and has none.
    """
    weights = load_weights(model.weights)
    vectors = weights.tensors.get("prototypes.weight")
    if vectors is None:
        raise UserError(
            f"{model.weights} holds no prototypes: its stage trained without the SwAMP term.\n"
            "Fix: name a run that was trained with objective.swamp.weight above 0."
        )
    settings = _trained_as(model).objective.swamp
    rows = vectors.float()
    if settings.normalize_prototypes:
        rows = functional.normalize(rows, dim=1)
    return Learned(rows, settings.temperature, settings.normalize_prototypes, weights)


def study(
    model: TrainedModel, split: str, shards: Path | None = None, groups: int | None = None, chunk: int = 256
) -> Study:
    """Assign every item of a split to its prototype, and say what the prototypes hold.

    Args:
        model: from `load_model`.
        split: name of the split.
        shards: folder of another shard set with the same fields; default: the stage's own.
        groups: super-clusters at most; default: the root of the number of prototypes with items.
        chunk: items embedded at a time.

    Raises:
        UserError: a run without prototypes, no such split, or a model that makes no embeddings.
    """
    try:
        learned = read_prototypes(model)
    except UserError as error:
        raise UserError(f"{error}{_split_problem(model, split, shards)}") from None
    manifest = model.open_shards(shards)
    manifest.split(split)
    texts = read_texts(manifest, split, model.fields)
    embedded = embed(model, split, shards, chunk)
    sides = _assigned(embedded.a, learned), _assigned(embedded.b, learned)
    count, classes = len(learned.vectors), 1 + max(int(side.label.max()) for side in sides)
    agreed = agreement(*sides, count)
    words = keywords(texts_by_prototype(sides, texts), KEYWORDS)
    figures = _figures(sides, count, agreed, classes, words)
    used = [each.number for each in figures if each.items]
    found = super_clusters(learned.vectors.numpy(), used, groups or default_groups(len(used)))
    place = {number: i for i, group in enumerate(found) for number in group.members}
    names = class_names(manifest) or ()
    figures = [
        replace(each, super_cluster=place.get(each.number), class_name=_name_of(each.label, names))
        for each in figures
    ]
    words_from = source_of_words(texts, model.fields)
    return Study(
        model, manifest, split, learned, embedded.keys, sides, texts, words_from, agreed,
        _class_figures(sides, count, classes), tuple(figures), tuple(found), tuple(names),
    )  # fmt: skip


def _split_problem(model: TrainedModel, split: str, shards: Path | None) -> str:
    """What is wrong with a split, to be told after another mistake; empty where nothing is."""
    try:
        model.open_shards(shards).split(split)
    except UserError as error:
        return f"\n{error}"
    return ""


def _assigned(items: Embedded, learned: Learned) -> Assigned:
    with torch.no_grad():
        return assign(items, learned.vectors, learned.temperature)


def _trained_as(model: TrainedModel) -> StageSettings:
    """The stage that trained the weights, where it is beside them: one that only evaluates does not say."""
    beside = RunDir(run_of(model.weights)).stage_yaml
    return load_dumped(beside, StageSettings) if beside.is_file() else model.settings


def _figures(
    sides: tuple[Assigned, Assigned],
    count: int,
    agreed: Agreement,
    classes: int,
    words: dict[int, tuple[Keyword, ...]],
) -> list[PrototypeFigures]:
    of_a, of_b = (sizes(side, count).tolist() for side in sides)
    counts = class_counts(sides, count, max(1, classes))
    pure, labels = purities(counts).tolist(), np.argmax(counts, axis=1).tolist()
    same = agreed.by_prototype.tolist()
    return [
        PrototypeFigures(
            number, (of_a[number], of_b[number]), _known(same[number]), _known(pure[number]),
            None if math.isnan(pure[number]) else labels[number], None, words.get(number, ()), None,
        )
        for number in range(count)
    ]  # fmt: skip


def _class_figures(sides: tuple[Assigned, Assigned], count: int, classes: int) -> dict[str, ClassFigures]:
    if not classes:
        return {}
    found = {
        name: class_counts(chosen, count, classes)
        for name, chosen in (("a", sides[:1]), ("b", sides[1:]), ("both", sides))
    }
    return {
        name: ClassFigures(purity(counts), normalized_mutual_information(counts))
        for name, counts in found.items()
        if counts.sum()
    }


def _name_of(label: int | None, names: Sequence[str]) -> str | None:
    return names[label] if label is not None and label < len(names) else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
