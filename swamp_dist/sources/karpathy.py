"""Flickr30K and MS-COCO from photos, by the splits of Karpathy & Fei-Fei (2015): dataset_NAME.json.

An entry of the file has `filename` (of COCO below `filepath`), `split` and `sentences`, each with its `raw`
text. The first five count; some images of COCO have six or seven.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from swamp_dist.config import KarpathySource
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.plain_files import NotPlainError, parse_json, read_plain_file
from swamp_dist.records import RawSplit, Sample
from swamp_dist.sources.captions import Caption, kept_texts
from swamp_dist.sources.entry_keys import entry_key, placed_keys
from swamp_dist.sources.image_files import image_path, read_image
from swamp_dist.sources.raw_files import check_files

IMAGE = "image"
"""Field of the photos."""
_MOST_BYTES = 2**30
"""dataset_coco.json has 144 MB."""


@dataclass(frozen=True)
class Photo:
    """An image of the file."""

    key: str
    path: str
    captions: tuple[Caption, ...]


@dataclass(frozen=True)
class Photos:
    """The images of one split: makes samples one by one."""

    settings: KarpathySource
    photos: Sequence[Photo]

    def read(self, number: int) -> Sample:
        """Image number `number`; raises BadEntry where its file or its captions cannot be had."""
        photo = self.photos[number]
        texts = self.texts(photo)
        image = read_image(self.settings.root, photo.path, photo.key)
        return Sample(photo.key, {IMAGE: image}, text={"image": photo.path}, captions=texts)

    def texts(self, photo: Photo) -> tuple[str, ...]:
        """Captions of an image that are kept; raises BadEntry where they are refused."""
        place = f"{self.settings.file}, {photo.path}"
        return kept_texts(photo.captions, photo.key, self.settings.wordless, place)

    def all_texts(self) -> Iterator[Sequence[str]]:
        """Captions of every image in turn; none where `read` would refuse them."""
        for photo in self.photos:
            try:
                yield self.texts(photo)
            except BadEntry:
                yield ()


def open_splits(settings: KarpathySource) -> Mapping[str, RawSplit]:
    """The splits by the names of the recipe; the file is in memory, photos are read one by one.

    Raises:
        UserError: the file is absent or malformed, has a split that the recipe does not name, lacks all
            images of one that it does, or names an image twice in a split.
    """
    check_files(settings.files(), settings.sha256)
    wanted = [name for name in dict.fromkeys(settings.splits.values()) if name is not None]
    found: dict[str, dict[str, Photo]] = {name: {} for name in wanted}
    for number, image in enumerate(_read_images(settings)):
        place = f"{settings.file}, image {number}"
        name = _split_of(image, settings, place)
        if name is None:
            continue
        photo = _photo(image, settings, place)
        if photo.key in found[name]:
            raise UserError(f"{place}: split {name!r} has an image {photo.path} already")
        found[name][photo.key] = photo
    if empty := [name for name in wanted if not found[name]]:
        raise UserError(f"{settings.file}: no image in split {', '.join(empty)}.\nFix: source.splits")
    splits = {name: Photos(settings, _placed(photos.values())) for name, photos in found.items()}
    return {
        name: RawSplit([photo.key for photo in each.photos], each.read, each.all_texts)
        for name, each in splits.items()
    }


def _placed(photos: Collection[Photo]) -> list[Photo]:
    """With keys that sort as the file does: the folds of a protocol are blocks of it."""
    keys = placed_keys([photo.key for photo in photos])
    return [replace(photo, key=key) for photo, key in zip(photos, keys, strict=True)]


def item_fields(settings: KarpathySource) -> frozenset[str]:
    """No field of the samples has several items; that of the captions, which a build adds, has."""
    return frozenset()


def _read_images(settings: KarpathySource) -> Sequence[object]:
    expected = "expected dataset_flickr30k.json or dataset_coco.json of Karpathy's splits"
    try:
        content = parse_json(read_plain_file(settings.file, _MOST_BYTES))
    except FileNotFoundError:
        raise UserError(f"{settings.file}: no such file; {expected}") from None
    except (NotPlainError, ValueError) as error:
        raise UserError(f"{settings.file}: {error}; {expected}") from None
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise UserError(f"{settings.file}: no list `images` in it; {expected}")
    return images


def _split_of(image: object, settings: KarpathySource, place: str) -> str | None:
    split = image.get("split") if isinstance(image, dict) else None
    if not isinstance(split, str) or split not in settings.splits:
        raise UserError(
            f"{place}: split {split!r}; source.splits names {', '.join(settings.splits)}.\n"
            "Fix: name it there, with null to leave its images out."
        )
    return settings.splits[split]


def _photo(image: object, settings: KarpathySource, place: str) -> Photo:
    assert isinstance(image, dict)
    folder, name, sentences = image.get("filepath", ""), image.get("filename"), image.get("sentences")
    if (
        not isinstance(name, str)
        or not name
        or not isinstance(folder, str)
        or not isinstance(sentences, list)
    ):
        raise UserError(
            f"{place}: expected filename, sentences and at most a filepath; found {sorted(image)[:8]}"
        )
    path = image_path(f"{folder}/{name}" if folder else name, place)
    chosen = sentences[: settings.captions_per_image]
    captions = tuple(
        Caption(each.get("raw") if isinstance(each, dict) else each, f"{place}, sentence {i}")
        for i, each in enumerate(chosen)
    )
    return Photo(entry_key(name.rpartition(".")[0] or name), path, captions)
