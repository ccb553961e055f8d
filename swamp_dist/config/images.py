"""How encoded images become pixels, in training and in evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.settings import SAME_RESULT, Settings

MAX_PIXELS = 178_956_970
"""Pixels that any image can have: Pillow decodes none that are larger."""
_Side = Annotated[int, Field(ge=1, le=8192)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Area = Annotated[float, Field(gt=0, le=1)]
_Ratio = Annotated[float, Field(ge=0.01, le=100)]
_Strength = Annotated[float, Field(ge=0, le=1)]


class JitterSettings(Settings):
    """Random changes of colour in training, each drawn from 1 - x .. 1 + x; 0 turns one off."""

    brightness: _Strength = 0.0
    """Factor of every value."""
    contrast: _Strength = 0.0
    """Factor of the distance to the mean grey of the image."""
    saturation: _Strength = 0.0
    """Factor of the distance to the grey of the pixel."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Turn of the colour circle, drawn from -x .. x; 0.5 is half of it."""

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0


class ImageSettings(Settings):
    """Used where a field holds encoded images. Crops and colours of a pair depend on seed, epoch, key and
    field alone; an evaluation resizes and takes the centre."""

    size: _Side = 224
    """Height and width of what the encoder takes."""
    resize: _Side | None = None
    """Length that the shorter side is brought to before the centre is cut out; null = `size`."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pixels are weighed when an image is resized."""
    crop: Literal["random_resized", "none"] = "random_resized"
    """In training: a random part brought to `size`, or, with none, the centre as in an evaluation."""
    scale: tuple[_Area, _Area] = (0.08, 1.0)
    """Least and largest share of the image's area that a random crop takes."""
    ratio: tuple[_Ratio, _Ratio] = (0.75, 4 / 3)
    """Least and largest width / height of a random crop."""
    flip: _Share = 0.0
    """How often a training image is mirrored, left to right. 0 keeps what captions say of sides."""
    jitter: JitterSettings = JitterSettings()
    """Random changes of colour in training."""
    max_pixels: Annotated[int, Field(ge=1, le=MAX_PIXELS), SAME_RESULT] = 64 * 2**20
    """An image of more pixels is refused before it is decoded."""
    max_bytes: Annotated[int, Field(ge=1, le=2**26), SAME_RESULT] = 32 * 2**20
    """A file of more bytes is refused before it is decoded."""

    @property
    def short_side(self) -> int:
        """What the shorter side is brought to before the centre is cut out."""
        return self.size if self.resize is None else self.resize

    @model_validator(mode="after")
    def _ranges_begin_with_the_least(self) -> ImageSettings:
        for name, (least, largest) in (("scale", self.scale), ("ratio", self.ratio)):
            if least > largest:
                raise ValueError(f"{name} = [{least:g}, {largest:g}]: expected the smaller number first")
        if self.short_side < self.size:
            raise ValueError(
                f"resize = {self.resize} is less than size = {self.size}: the centre would not fit; give at "
                f"least {self.size}"
            )
        return self
