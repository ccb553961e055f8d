"""Images are decoded by one rule each, and what would do harm is refused from its header."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image, ImageOps

from swamp_dist.data.image_header import ImageFault, read_image_header
from swamp_dist.data.images import Limits, check_image, check_limits, decoder_versions, load_rgb, open_image
from tests.data.image_sets import FORMATS, encode, smooth

ROOM = Limits(10**6, 10**6, "data.images.max_bytes", "data.images.max_pixels")
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}}


def rgb(data: bytes) -> np.ndarray:
    return np.asarray(load_rgb(open_image(data, ROOM)))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + zlib.compress(b"")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (40, 30), (17, 255)])
def test_the_size_is_read_from_the_header(form: str, size: tuple[int, int]) -> None:
    header = read_image_header(encode(smooth(0, *size), form))
    assert (header.width, header.height, header.animated) == (*size, False)


def test_every_kind_of_webp_tells_its_size() -> None:
    opaque, clear = Image.fromarray(smooth(0)), Image.fromarray(smooth(0)).convert("RGBA")
    clear.putalpha(100)
    for image, options in ((opaque, {}), (opaque, {"lossless": True}), (clear, {})):
        header = read_image_header(encode(image, "WEBP", **options))
        assert (header.width, header.height) == (40, 30)
    both = {"save_all": True, "append_images": [Image.fromarray(smooth(1))]}
    assert read_image_header(encode(opaque, "WEBP", **both)).animated
    assert read_image_header(encode(opaque, "PNG", **both)).animated


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = png_header(60_000, 50_000)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("a decoder saw it"))
    said = r"60000 x 50000 = 3000000000 pixels, at most 1000000 .*raise data.images.max_pixels"
    with pytest.raises(ImageFault, match=said) as caught:
        open_image(bomb, ROOM)
    assert caught.value.kind == "image too large"
    with pytest.raises(ImageFault, match=f"{len(bomb)} bytes, at most 10 .*raise data.images.max_bytes"):
        check_limits(bomb, ROOM._replace(bytes=10))
    with pytest.raises(ImageFault, match=r"at most 178956970 are taken$"):
        check_image(bomb)


@pytest.mark.parametrize("form", LOSSLESS)
def test_transparent_pixels_are_laid_over_white(form: str) -> None:
    clear = np.dstack([smooth(0), np.zeros((30, 40), np.uint8)])
    clear[:, 20:, 3] = 255
    found = rgb(encode(clear, form, **LOSSLESS[form], exact=True))
    assert (found[:, :20] == 255).all()
    assert np.array_equal(found[:, 20:], smooth(0)[:, 20:])


def test_grey_palette_and_deep_images_become_rgb() -> None:
    grey = smooth(0)[..., 0]
    three = np.repeat(grey[..., None], 3, 2)
    for form in ("PNG", "JPEG"):
        file = encode(grey, form, **({"quality": 100} if form == "JPEG" else {}))
        assert np.abs(rgb(file).astype(int) - three).max() <= (2 if form == "JPEG" else 0)
    deep = grey.astype(np.uint16) << 8 | 0xFF
    assert np.array_equal(rgb(encode(deep, "PNG")), three)
    palette = Image.fromarray(smooth(0)).quantize(16)
    assert np.array_equal(rgb(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))
    hole = encode(palette, "PNG", transparency=palette.getpixel((0, 0)))
    assert rgb(hole)[0, 0].tolist() == [255, 255, 255]
    black = encode(Image.new("1", (9, 9)), "PNG")
    assert not rgb(black).any()


def test_cmyk_is_turned_into_rgb() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(rgb(encode(red, quality=100)).astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = LOSSLESS.get(form, {"quality": 100})
    stored = Image.fromarray(rgb(encode(smooth(0), form, **options)))
    stored.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored))
    found = rgb(encode(smooth(0), form, exif=exif.tobytes(), **options))
    assert found.shape == ((40, 30, 3) if orientation >= 5 else (30, 40, 3))
    assert np.array_equal(found, upright)


@pytest.mark.parametrize("form", FORMATS)
def test_nonsense_in_exif_data_is_left_aside(form: str) -> None:
    data = encode(smooth(0), form, exif=b"Exif\0\0" + bytes(range(60)))
    assert rgb(data).shape == (30, 40, 3)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_short_is_refused_by_a_check_and_by_decoding(form: str) -> None:
    data = encode(smooth(0, 200, 100), form)
    for cut in (data[: len(data) // 2], data[:20], data[:-40] if form == "JPEG" else data[:40]):
        for read in (check_image, rgb):
            with pytest.raises(ImageFault):
                read(cut)


WHOLE = {form: encode(smooth(3, 33, 21), form) for form in FORMATS}


@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    st.floats(0.2, 1),
)
@examples(max_examples=300)
def test_no_damage_surprises(form: str, changes: list[tuple[float, int]], kept: float) -> None:
    """Damaged files decode to something or are faults; nothing else is raised."""
    data = bytearray(WHOLE[form])
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    try:
        pixels = rgb(bytes(data[: int(kept * len(data))]))
    except ImageFault:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def test_versions_of_the_decoders_are_known() -> None:
    assert {"jpg", "webp", "zlib"} <= decoder_versions().keys()
