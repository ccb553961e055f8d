"""Encoded images to RGB: limits first, then one rule for each kind of file.

| file | what becomes of it |
|---|---|
| grey, palette | its colours as RGB |
| 16 bits a channel | the high byte of each value |
| CMYK (JPEG) | RGB by the decoder's own formula, colour profiles left aside |
| transparent | laid over white |
| an orientation in its EXIF data | turned upright |
| animated | refused: which frame belongs to the other modality is not known |
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from swamp_dist.config.images import MAX_PIXELS
from swamp_dist.data.image_header import ImageFault, ImageHeader, read_image_header
from swamp_dist.data.tar import MAX_MEMBER_BYTES

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What turns an image of an EXIF orientation upright."""
_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_FAULTS = (
    OSError, ValueError, SyntaxError, LookupError, EOFError, TypeError, ArithmeticError, struct.error
)  # fmt: skip
"""What Pillow raises on files that are damaged or made to do harm."""


class Limits(NamedTuple):
    """What an image may be at most."""

    bytes: int
    pixels: int
    bytes_setting: str = ""
    """What raises the limit, empty where nothing does."""
    pixels_setting: str = ""


BUILD_LIMITS = Limits(MAX_MEMBER_BYTES, MAX_PIXELS)
"""Of an image that enters a shard set."""


def check_limits(data: bytes, limits: Limits) -> ImageHeader:
    """The header of an image that may be decoded.

    Raises:
        ImageFault: too many bytes or pixels, with the numbers and the setting to raise; animated; or as
            `read_image_header`.
    """
    if len(data) > limits.bytes:
        raise _too_large(f"{len(data)} bytes", limits.bytes, limits.bytes_setting)
    header = read_image_header(data)
    if header.pixels > limits.pixels:
        size = f"{header.width} x {header.height} = {header.pixels} pixels"
        raise _too_large(size, limits.pixels, limits.pixels_setting)
    if header.animated:
        found = f"{header.format} with several frames; store the one that is meant"
        raise ImageFault("animated image", found)
    return header


def _too_large(size: str, limit: int, setting: str) -> ImageFault:
    way_out = f"; raise {setting} if it is to be trusted" if setting else ""
    return ImageFault("image too large", f"an image of {size}, at most {limit} are taken{way_out}")


def open_image(data: bytes, limits: Limits) -> Image:
    """An image whose header is read and whose pixels are not: `size` and `draft` can be asked.

    Raises:
        ImageFault: as `check_limits`, or a header that the decoder does not take.
    """
    from PIL import Image as pillow

    header = check_limits(data, limits)
    with _decoding():
        image = pillow.open(io.BytesIO(data), formats=[_FORMATS[header.format]])
    if image.size != (header.width, header.height):
        raise ImageFault("image cannot be decoded", f"its header tells two sizes, {image.size} and {header}")
    return image


def load_rgb(image: Image) -> Image:
    """The pixels of an opened image as upright RGB.

    Raises:
        ImageFault: the file is cut short or damaged.
    """
    from PIL.Image import Transpose

    with _decoding():
        image.load()
        turn = _TURNS.get(orientation(image))
        rgb = _as_rgb(image)
        return rgb if turn is None else rgb.transpose(Transpose[turn])


def _as_rgb(image: Image) -> Image:
    from PIL import Image as pillow

    if image.mode.startswith("I"):
        return _high_bytes(image).convert("RGB")
    if image.mode in _ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = pillow.new("RGBA", rgba.size, "white")
        return pillow.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def orientation(image: Image) -> int:
    """EXIF orientation 1 .. 8 of an opened image; 1 is upright, also where nothing is said or is nonsense.

    Raises:
        ImageFault: a PNG or WebP, whose EXIF data may stand behind the pixels, is damaged.
    """
    if image.format == "JPEG" and "exif" not in image.info:
        return 1
    if image.format != "JPEG":
        with _decoding():
            image.load()
    try:
        with _decoding():
            found = image.getexif().get(_ORIENTATION, 1)
    except ImageFault:  # the pixels do not depend on it
        return 1
    return found if found in _TURNS else 1


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Pillow at work: what it raises on bad files becomes an ImageFault."""
    try:
        yield
    except ImageFault:
        raise
    except _FAULTS as error:
        raise _undecodable(error) from None


@contextlib.contextmanager
def hide_decoder_warnings() -> Iterator[None]:
    """Pillow's warnings of odd files are not shown. Filters are those of the process: threads that decode
    are started and waited for inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decoder_versions() -> dict[str, str]:
    """Versions of the libraries inside Pillow that decode: pixels are equal, bit by bit, for equal ones."""
    from PIL import features

    names = ("libjpeg_turbo", "jpg", "webp", "zlib")
    return {name: str(version) for name in names if (version := features.version(name)) is not None}


def check_image(data: bytes) -> None:
    """Refuse an image that could not be trained on: its pixels are decoded once, in full.

    Raises:
        ImageFault: too large for a shard set, of another format, animated, cut short or damaged.
    """
    with hide_decoder_warnings():
        image = open_image(data, BUILD_LIMITS)
        image.draft("RGB", (1, 1))  # of JPEG: reads the whole file, and spends a 64th of the pixels
        load_rgb(image)


def _high_bytes(image: Image) -> Image:
    """16-bit grey as 8-bit grey."""
    from PIL import Image as pillow

    return pillow.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def _undecodable(error: Exception) -> ImageFault:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    if said.startswith("cannot identify"):  # and then the name of an object in memory
        said = "the decoder cannot read its header"
    kind = "image cut short" if "truncated" in said else "image cannot be decoded"
    return ImageFault(kind, said[:200])
