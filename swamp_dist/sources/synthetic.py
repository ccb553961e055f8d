"""The paper's synthetic pairs (Appendix E): x_a = f_a(z), x_b = f_b(z), z from one Gaussian a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from swamp_dist.config import SyntheticSource
from swamp_dist.errors import UserError
from swamp_dist.explaining import nearest
from swamp_dist.records import RawSplit, Sample

SIDES = ("a", "b")


@dataclass(frozen=True)
class Pairs:
    """All generated pairs before they are split."""

    a: np.ndarray
    """(N, dim) float64"""
    b: np.ndarray
    """(N, dim) float64"""
    labels: np.ndarray
    """(N,) class numbers, sorted"""


def samples(settings: SyntheticSource) -> Mapping[str, Sequence[Sample]]:
    """All samples of every split."""
    return {
        name: [split.read(i) for i in range(len(split.keys))] for name, split in open_splits(settings).items()
    }


def open_splits(settings: SyntheticSource) -> Mapping[str, RawSplit]:
    """The splits by name; fields `a` and `b`, float32 (dim,), or (items, dim) where an entry has several.

    Everything follows from the settings; a pair is in at most one split.

    Raises:
        UserError: a split asks for classes or pairs that are not there, or `fit_on` names no split.
    """
    chosen = choose_splits(settings)
    pairs = generate(settings)
    sides = {"a": pairs.a, "b": pairs.b}
    if settings.standardize:
        fit = chosen[settings.fit_on]
        sides = {name: _standardize(x, x[fit]) for name, x in sides.items()}
    return {name: _raw_split(indices, pairs.labels, sides, settings) for name, indices in chosen.items()}


def item_fields(settings: SyntheticSource) -> frozenset[str]:
    """Fields whose arrays have a leading axis of several items."""
    counts = zip(SIDES, settings.items_per_entry, strict=True)
    return frozenset(name for name, count in counts if count > 1)


def generate(settings: SyntheticSource) -> Pairs:
    """classes * per_class pairs: z = class_scale * mu_c + noise_scale * eps, mu_c and eps ~ N(0, I)."""
    labels = np.repeat(np.arange(settings.classes), settings.per_class)
    centres = _random(settings, "centres").standard_normal((settings.classes, settings.latent_dim))
    noise = _random(settings, "latent").standard_normal((len(labels), settings.latent_dim))
    z = settings.class_scale * centres[labels] + settings.noise_scale * noise
    return Pairs(_map(z, settings, "map a"), _map(z, settings, "map b"), labels)


def choose_splits(settings: SyntheticSource) -> dict[str, np.ndarray]:
    """Numbers of the pairs of each split. Splits with `per_class` are served before those with `total`,
    which draw at random from what is left of their classes.

    Raises:
        UserError: as `samples`.
    """
    _check_splits(settings)
    random = _random(settings, "splits")
    shape = (settings.classes, settings.per_class)
    pool = random.permuted(np.arange(shape[0] * shape[1]).reshape(shape), axis=1)
    left = [list(row) for row in pool]
    chosen: dict[str, np.ndarray] = {}
    for name, split in sorted(settings.splits.items(), key=lambda item: item[1].per_class is None):
        rows = left[slice(*split.classes)]
        if split.per_class is not None:
            _check_enough(name, split.per_class, min(len(row) for row in rows), "pairs per class")
            taken = [row.pop() for row in rows for _ in range(split.per_class)]
        else:
            total = split.total or 0
            _check_enough(name, total, sum(len(row) for row in rows), "pairs")
            taken = random.permutation(np.concatenate(rows))[:total].tolist()
            used = set(taken)
            left = [[i for i in row if i not in used] for row in left]
        chosen[name] = np.sort(np.asarray(taken, dtype=np.int64))
    return {name: chosen[name] for name in settings.splits}


def _check_splits(settings: SyntheticSource) -> None:
    for name, split in settings.splits.items():
        low, high = split.classes
        if not low < high <= settings.classes:
            raise UserError(
                f"source.splits.{name}.classes = [{low}, {high}]: expected a range within [0, "
                f"{settings.classes}]"
            )
        if (split.per_class is None) == (split.total is None):
            raise UserError(f"source.splits.{name}: give either per_class or total, and not both")
    if settings.standardize and settings.fit_on not in settings.splits:
        close = nearest(settings.fit_on, settings.splits)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"source.fit_on = {settings.fit_on!r} is not a split.{hint} Splits: {', '.join(settings.splits)}."
        )


def _check_enough(name: str, wanted: int, left: int, unit: str) -> None:
    if wanted > left:
        raise UserError(
            f"source.splits.{name} asks for {wanted} {unit}, but {left} are left by the other splits: "
            "raise source.per_class or shrink a split"
        )


def _map(z: np.ndarray, settings: SyntheticSource, purpose: str) -> np.ndarray:
    """A random fully connected network on (N, latent_dim): (N, dim)."""
    random = _random(settings, purpose)
    widths = (settings.latent_dim, *settings.hidden, settings.dim)
    activation: Callable[[np.ndarray], np.ndarray] = np.tanh if settings.activation == "tanh" else _relu
    x = z
    for layer in range(len(widths) - 1):
        weight, bias = _linear(widths[layer], widths[layer + 1], settings, random)
        x = x @ weight + bias
        if layer < len(widths) - 2:
            x = activation(x)
    return x


def _linear(
    fan_in: int, fan_out: int, settings: SyntheticSource, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    if settings.init == "he_normal":
        return random.standard_normal((fan_in, fan_out)) * np.sqrt(2 / fan_in), np.zeros(fan_out)
    bound = 1 / np.sqrt(fan_in)  # torch.nn.Linear draws weight and bias from U(-bound, bound)
    return random.uniform(-bound, bound, (fan_in, fan_out)), random.uniform(-bound, bound, fan_out)


def _relu(x: np.ndarray) -> np.ndarray:
    positive: np.ndarray = np.maximum(x, 0)
    return positive


def _standardize(x: np.ndarray, fit: np.ndarray) -> np.ndarray:
    deviation = fit.std(axis=0)
    scale = np.where(deviation == 0, 1, deviation)  # a dead ReLU dimension stays 0
    standardized: np.ndarray = (x - fit.mean(axis=0)) / scale
    return standardized


def _raw_split(
    indices: np.ndarray, labels: np.ndarray, sides: Mapping[str, np.ndarray], settings: SyntheticSource
) -> RawSplit:
    def read(i: int) -> Sample:
        number = int(indices[i])
        return _sample(number, int(labels[number]), sides, settings)

    return RawSplit([_key(int(i), int(labels[i])) for i in indices], read)


def _key(number: int, label: int) -> str:
    return f"class{label:02d}-{number:06d}"


def _sample(number: int, label: int, sides: Mapping[str, np.ndarray], settings: SyntheticSource) -> Sample:
    random = _random(settings, "items", number) if max(settings.items_per_entry) > 1 else None
    fields = {}
    for name, count in zip(SIDES, settings.items_per_entry, strict=True):
        x = sides[name][number]
        if count > 1 and random is not None:
            x = x + settings.item_noise * random.standard_normal((count, len(x)))
        fields[name] = x.astype(np.float32)
    return Sample(_key(number, label), fields, label)


_PURPOSES = ("centres", "latent", "map a", "map b", "splits", "items")


def _random(settings: SyntheticSource, purpose: str, number: int = 0) -> np.random.Generator:
    """A generator of its own for each purpose, so that adding a split does not move the data."""
    seed = np.random.SeedSequence([settings.seed, _PURPOSES.index(purpose), number])
    return np.random.Generator(np.random.Philox(seed))
