"""Size of an encoded image, read from its first bytes by hand: known before a decoder sees the file.

JPEG: ITU-T T.81, annex B; PNG: W3C PNG, sections 5 and 11; WebP: RFC 9649.
"""

from __future__ import annotations

from dataclasses import dataclass

from swamp_dist.data.raw_fields import image_format

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame and tell its size."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""JPEG markers without a length."""


REFUSED = frozenset({"image too large", "animated image"})
"""Kinds of faults of images that are whole."""


class ImageFault(ValueError):
    """An encoded image that cannot or must not be decoded; `kind` is the fault in a few fixed words."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes of an image say."""

    format: str
    """jpg, png or webp"""
    width: int
    height: int
    animated: bool = False

    @property
    def pixels(self) -> int:
        """width * height"""
        return self.width * self.height


def read_image_header(data: bytes) -> ImageHeader:
    """Format and size of an image.

    Raises:
        ImageFault: another format, or a file that ends before it tells its size.
    """
    form = image_format(data)
    if form is None:
        raise ImageFault("image of another format", f"bytes that begin with {data[:8]!r}")
    try:
        header = {"jpg": _jpeg, "png": _png, "webp": _webp}[form](data)
    except IndexError:
        raise ImageFault("image cut short", f"{form} of {len(data)} bytes ends before its size") from None
    if header is None or not header.pixels:
        raise ImageFault("image cannot be decoded", f"{form} that does not tell its size")
    return header


def _jpeg(data: bytes) -> ImageHeader | None:
    place = 2
    while True:
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # fill bytes
            place += 1
        elif marker in _ALONE:
            place += 2
        elif marker in _FRAMES:
            return ImageHeader("jpg", _big(data, place + 7, 2), _big(data, place + 5, 2))
        elif marker in (0xD9, 0xDA):  # the end, or a scan: the frame comes first
            return None
        else:
            place += 2 + max(2, _big(data, place + 2, 2))


def _png(data: bytes) -> ImageHeader | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = _big(data, 16, 4), _big(data, 20, 4)
    place, animated = 33, False
    while place + 8 <= len(data) and data[place + 4 : place + 8] != b"IDAT":
        animated |= data[place + 4 : place + 8] == b"acTL"
        place += 12 + _big(data, place, 4)
    return ImageHeader("png", width, height, animated)


def _webp(data: bytes) -> ImageHeader | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return ImageHeader("webp", 1 + _little(data, 24, 3), 1 + _little(data, 27, 3), bool(data[20] & 2))
    if chunk == b"VP8L":
        bits = _little(data, 21, 4)
        return ImageHeader("webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return ImageHeader("webp", _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF)
    return None


def _big(data: bytes, start: int, count: int) -> int:
    return int.from_bytes(_exactly(data, start, count), "big")


def _little(data: bytes, start: int, count: int) -> int:
    return int.from_bytes(_exactly(data, start, count), "little")


def _exactly(data: bytes, start: int, count: int) -> bytes:
    part = data[start : start + count]
    if len(part) != count:
        raise IndexError
    return part
