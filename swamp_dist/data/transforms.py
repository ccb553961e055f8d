"""From an encoded image to (3, S, S) pixels: a crop keyed by what it belongs to, or the centre.

The crop is drawn in coordinates of the whole, upright image, so that it is the same whatever the decoder
leaves out: a JPEG of at least twice the size that is needed is decoded at half, a quarter or an eighth of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from swamp_dist.config.images import ImageSettings, JitterSettings
from swamp_dist.data.images import Limits, load_rgb, open_image, orientation
from swamp_dist.data.lanes import random_words

if TYPE_CHECKING:
    from PIL.Image import Image

_TRIES = 10
_WORDS = 64
"""Random words of an image; more than any setting uses."""


class Box(NamedTuple):
    """A part of an image in pixels, from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


def image_limits(settings: ImageSettings) -> Limits:
    """The limits that a job sets, and the settings that raise them."""
    return Limits(settings.max_bytes, settings.max_pixels, "data.images.max_bytes", "data.images.max_pixels")


def make_pixels(data: bytes, settings: ImageSettings, draw: tuple[object, ...] | None) -> np.ndarray:
    """(S, S, 3) uint8: an image as its encoder takes it.

    Args:
        data: the encoded file.
        settings: size, limits and random changes.
        draw: what the random changes depend on, nothing else; None: the deterministic form of an evaluation.

    Raises:
        ImageFault: the image is too large, animated, cut short or damaged.
    """
    image = open_image(data, image_limits(settings))
    turned = orientation(image) >= 5  # sides change places
    width, height = (image.height, image.width) if turned else image.size
    uniform = None if draw is None else uniform_numbers(*draw)
    if uniform is None or settings.crop == "none":
        box = centre_box(width, height, settings.size, settings.short_side)
    else:
        box = random_box(width, height, settings, uniform)
    _decode_small(image, box, settings.size, width * height)
    pixels = _resize(load_rgb(image), box, width, height, settings)
    if uniform is not None:
        pixels = _recolour(pixels, settings.jitter, uniform)
    values = np.asarray(pixels)
    return values[:, ::-1] if uniform is not None and next(uniform) < settings.flip else values


def uniform_numbers(*key: object) -> Iterator[float]:
    """Numbers in [0, 1) that depend on nothing but `key`."""
    return iter((random_words(_WORDS, "image", *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def random_box(width: int, height: int, settings: ImageSettings, uniform: Iterator[float]) -> Box:
    """A part whose share of the area is uniform in `scale`, its ratio uniform in its logarithm.

    Inception's crop (Szegedy et al. 2015) as torchvision draws it: of ten tries the first that fits, else the
    centre at the nearest ratio that is allowed. Whole pixels.
    """
    logs = math.log(settings.ratio[0]), math.log(settings.ratio[1])
    least, largest = settings.scale
    found = None
    for _ in range(_TRIES):  # all are drawn, so that what follows does not depend on the image's size
        area = width * height * (least + (largest - least) * next(uniform))
        ratio = math.exp(logs[0] + (logs[1] - logs[0]) * next(uniform))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if found is None and 0 < w <= width and 0 < h <= height:
            found = w, h
    across, down = next(uniform), next(uniform)
    if found is not None:
        w, h = found
        left, top = math.floor(across * (width - w + 1)), math.floor(down * (height - h + 1))
        return Box(left, top, left + w, top + h)
    ratio = min(max(width / height, settings.ratio[0]), settings.ratio[1])
    w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + w, top + h)


def centre_box(width: int, height: int, size: int, short_side: int) -> Box:
    """The part that is left of an image whose shorter side is brought to `short_side` after its middle of
    `size` x `size` is cut out, in pixels of the image."""
    side = min(width, height) * size / short_side
    return Box((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)


def _decode_small(image: Image, box: Box, size: int, pixels: int) -> None:
    """Let a JPEG be decoded at a fraction of its size where twice the needed one is left."""
    share = 2 * size / min(box.right - box.left, box.bottom - box.top)
    if share < 1:
        image.draft("RGB", (math.ceil(image.width * share), math.ceil(image.height * share)))


def _resize(image: Image, box: Box, width: int, height: int, settings: ImageSettings) -> Image:
    """The part of the decoded image, which may be smaller than width x height, at the encoder's size."""
    from PIL.Image import Resampling

    across, down = image.width / width, image.height / height
    part = (box.left * across, box.top * down, box.right * across, box.bottom * down)
    part = (part[0], part[1], min(part[2], image.width), min(part[3], image.height))
    method = Resampling.BICUBIC if settings.interpolation == "bicubic" else Resampling.BILINEAR
    return image.resize((settings.size, settings.size), method, box=part)


def _recolour(image: Image, jitter: JitterSettings, uniform: Iterator[float]) -> Image:
    """Brightness, contrast, saturation and hue in an order that is drawn, as torchvision's ColorJitter."""
    from PIL import ImageEnhance

    order = np.argsort([next(uniform) for _ in range(4)], kind="stable").tolist()
    drawn = [2 * next(uniform) - 1 for _ in range(4)]
    if not jitter.is_on:
        return image
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for number in order:
        change = strengths[number] * drawn[number]
        if not change:
            continue
        image = turn_hue(image, change) if number == 3 else enhancers[number](image).enhance(1 + change)
    return image


def turn_hue(image: Image, share: float) -> Image:
    """The image with its hues turned by a share of the colour circle."""
    from PIL import Image as pillow

    hue, saturation, value = image.convert("HSV").split()
    shifted = (np.asarray(hue).astype(np.int16) + round(share * 255)) % 256
    turned = pillow.fromarray(shifted.astype(np.uint8))
    return pillow.merge("HSV", (turned, saturation, value)).convert("RGB")
