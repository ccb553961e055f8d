"""Crops and colours: drawn from a key alone, true to what Pillow makes of the whole image."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from swamp_dist.config import ImageSettings
from swamp_dist.data.transforms import Box, centre_box, make_pixels, random_box, turn_hue, uniform_numbers
from tests.data.image_sets import encode, smooth

KEY = (3, 0, "key-0001", 0, "image")


def settings(**changes: Any) -> ImageSettings:
    return ImageSettings.model_validate({"size": 32} | changes)


def drawn(seed: int) -> Any:
    return iter(np.random.default_rng(seed).random(64))


def test_evaluation_takes_the_centre_at_the_length_asked_for() -> None:
    picture = smooth(1, 120, 80)
    found = make_pixels(encode(picture, "PNG"), settings(resize=40), None)
    whole = Image.fromarray(picture).resize((60, 40), Image.Resampling.BILINEAR)
    expected = np.asarray(whole.crop((14, 4, 46, 36))).astype(int)
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert centre_box(120, 80, 32, 40) == Box(28, 8, 92, 72)
    assert np.array_equal(found, make_pixels(encode(picture, "PNG"), settings(resize=40, crop="none"), KEY))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_random_crop_is_what_pillow_makes_of_it(interpolation: Any) -> None:
    picture = smooth(2, 90, 70)
    how = settings(interpolation=interpolation)
    found = make_pixels(encode(picture, "PNG"), how, KEY)
    box = random_box(90, 70, how, uniform_numbers(*KEY))
    method = Image.Resampling[interpolation.upper()]
    crop = Image.fromarray(picture).crop(tuple(int(side) for side in box))
    expected = np.asarray(crop.resize((32, 32), method)).astype(int)
    inside = np.abs(found.astype(int) - expected)[3:-3, 3:-3]  # pixels beside a crop weigh in at its edge
    assert inside.max() <= 2


def test_a_small_copy_of_a_large_photo_shows_the_same() -> None:
    data = encode(smooth(4, 640, 480), quality=95)
    for draw in (None, KEY):
        small = make_pixels(data, settings(), draw)
        whole = make_pixels(_png(data), settings(), draw)
        assert np.abs(small.astype(int) - whole.astype(int)).mean() < 1.5


def _png(data: bytes) -> bytes:
    return encode(Image.open(io.BytesIO(data)), "PNG")


def test_an_upright_image_gives_the_crop_of_one_that_was_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(smooth(5, 60, 90)).transpose(Image.Transpose.ROTATE_90)
    for draw in (None, KEY):
        found = make_pixels(encode(lying, "PNG", exif=exif.tobytes()), settings(), draw)
        assert np.array_equal(found, make_pixels(encode(smooth(5, 60, 90), "PNG"), settings(), draw))


def test_crops_depend_on_every_part_of_the_key_and_on_nothing_else() -> None:
    data = encode(smooth(6, 200, 150))
    how = settings(flip=0.5, jitter={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2})
    first = make_pixels(data, how, KEY)
    np.random.default_rng(0).random(5)
    assert np.array_equal(first, make_pixels(data, how, KEY))
    for place in range(len(KEY)):
        other = (*KEY[:place], "other", *KEY[place + 1 :])
        assert not np.array_equal(first, make_pixels(data, how, other)), place


def test_crops_keep_to_scale_and_ratio_and_reach_all_of_them() -> None:
    how = settings(scale=(0.2, 0.6), ratio=(0.5, 2.0))
    boxes = [random_box(400, 300, how, drawn(seed)) for seed in range(500)]
    shares = np.array([(b.right - b.left) * (b.bottom - b.top) / 120_000 for b in boxes])
    ratios = np.array([(b.right - b.left) / (b.bottom - b.top) for b in boxes])
    assert all(0 <= b.left < b.right <= 400 and 0 <= b.top < b.bottom <= 300 for b in boxes)
    assert 0.19 < shares.min() < 0.23
    assert 0.57 < shares.max() < 0.61
    assert 0.49 < ratios.min() < 0.55
    assert 1.8 < ratios.max() < 2.02
    assert min(b.left for b in boxes) == min(b.top for b in boxes) == 0
    assert abs(np.mean([(b.left + b.right) / 2 for b in boxes]) - 200) < 10


def test_an_image_that_no_crop_fits_gives_its_centre() -> None:
    assert random_box(1000, 10, settings(scale=(1.0, 1.0)), drawn(0)) == Box(493, 0, 506, 10)
    assert random_box(1, 1, settings(), drawn(0)) == Box(0, 0, 1, 1)
    assert make_pixels(encode(smooth(0, 1, 1), "PNG"), settings(), KEY).shape == (32, 32, 3)


def test_half_of_the_images_are_mirrored_where_that_is_asked_for() -> None:
    data, how = encode(smooth(7), "PNG"), {"crop": "none"}
    plain = make_pixels(data, settings(**how), KEY)
    mirrored = 0
    for i in range(60):
        found = make_pixels(data, settings(flip=0.5, **how), (*KEY, i))
        is_mirrored = np.array_equal(found, plain[:, ::-1])
        assert is_mirrored or np.array_equal(found, plain)
        mirrored += is_mirrored
    assert 18 < mirrored < 42


def test_colours_change_as_pillow_changes_them() -> None:
    data = encode(smooth(8), "PNG")
    plain = Image.fromarray(make_pixels(data, settings(crop="none"), KEY))
    for name, enhancer in (("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast),
                           ("saturation", ImageEnhance.Color)):  # fmt: skip
        found = make_pixels(data, settings(crop="none", jitter={name: 0.9}), KEY)
        made = [np.asarray(enhancer(plain).enhance(1 + x)).astype(int) for x in np.linspace(-0.9, 0.9, 91)]
        nearest = min(np.abs(found - each).max() for each in made)
        assert nearest <= 4, name
        assert not np.array_equal(found, np.asarray(plain))
    assert np.abs(np.asarray(turn_hue(plain, 0.0)).astype(int) - np.asarray(plain)).max() <= 4
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert np.abs(np.asarray(turn_hue(red, 1 / 3)).astype(int)[0, 0] - [0, 255, 0]).max() <= 6


@pytest.mark.parametrize(
    "bad", [{"scale": (0.9, 0.1)}, {"ratio": (2, 1)}, {"size": 64, "resize": 32}, {"max_pixels": 10**9}]
)
def test_settings_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="smaller number first|would not fit|less than or equal"):
        settings(**bad)
