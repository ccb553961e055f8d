"""Small pictures of a split: at most 96 pixels, JPEG or PNG, each made once."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from swamp_dist.config import ImageSettings
from swamp_dist.data.image_header import ImageFault
from swamp_dist.data.images import Limits, hide_decoder_warnings, load_rgb, open_image
from swamp_dist.data.reader import EntryReader
from swamp_dist.data.transforms import image_limits

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 96
"""Pixels of the longer side at most; smaller pictures stay as they are."""
_QUALITY = 82


class Thumbnail(NamedTuple):
    """A small picture as a file."""

    width: int
    height: int
    mime: str
    data: bytes

    @property
    def uri(self) -> str:
        """A data URI: a page that holds it needs no other file."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"


def small_picture(data: bytes, limits: Limits) -> Image:
    """RGB pixels, transparent ones over white, at most `SIDE` wide and high.

    Raises:
        ImageFault: too large, animated or damaged.
    """
    with hide_decoder_warnings():
        opened = open_image(data, limits)
        opened.draft("RGB", (2 * SIDE, 2 * SIDE))  # of a JPEG only as many pixels as are needed
        picture = load_rgb(opened)
        picture.thumbnail((SIDE, SIDE))
        return picture


def encode_thumbnail(picture: Image) -> Thumbnail:
    """The smaller of a JPEG and a PNG of at most 256 colours: drawings are smaller as the latter."""
    from PIL.Image import Dither

    jpeg, png = io.BytesIO(), io.BytesIO()
    picture.save(jpeg, "JPEG", quality=_QUALITY, optimize=True)
    picture.quantize(256, dither=Dither.NONE).save(png, "PNG", optimize=True)
    files = ("image/jpeg", jpeg.getvalue()), ("image/png", png.getvalue())
    mime, data = min(files, key=lambda file: len(file[1]))
    return Thumbnail(picture.width, picture.height, mime, data)


def read_pictures(
    reader: EntryReader, field: str, entries: Iterable[int], images: ImageSettings
) -> dict[int, Image]:
    """The small pictures of these entries.

    Raises:
        UserError: an image is too large or damaged; it names the entry.
    """
    wanted, limits, found = sorted(set(entries)), image_limits(images), {}
    for entry in reader.each(wanted):
        try:
            found[entry.index] = small_picture(entry.arrays[field].item(), limits)
        except ImageFault as fault:
            raise reader.misfit(entry.index, f"field {field!r}: {fault}") from None
    return found
