"""What encoders take, told from a manifest: clips of frames are known by their shape and type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swamp_dist.data.inputs import input_spec
from swamp_dist.data.writer import write_shards
from swamp_dist.errors import UserError
from swamp_dist.records import InputSpec, Sample


def sample(key: str, frames: int = 4) -> Sample:
    fields = {
        "clip": np.zeros((frames, 3, 8, 8), dtype=np.uint8),
        "floats": np.zeros((4, 3, 8, 8), dtype=np.float32),
        "grey": np.zeros((4, 8, 8), dtype=np.uint8),
        "takes": np.zeros((2, 5, 3, 8, 8), dtype=np.uint8),
    }
    return Sample(key, fields)


def test_bytes_of_four_axes_are_frames_and_other_arrays_are_not(tmp_path: Path) -> None:
    manifest = write_shards({"train": [sample("one")]}, tmp_path, "clips", {}, 4, 0, ["takes"])
    assert input_spec(manifest, "clip", 224) == InputSpec((4, 3, 8, 8), kind="frames")
    assert input_spec(manifest, "takes", 224) == InputSpec((5, 3, 8, 8), kind="frames")
    assert input_spec(manifest, "floats", 224) == InputSpec((4, 3, 8, 8))
    assert input_spec(manifest, "grey", 224) == InputSpec((4, 8, 8))


def test_a_clip_of_fewer_frames_than_the_first_enters_no_set(tmp_path: Path) -> None:
    samples = {"train": [sample("one"), sample("two", frames=3)]}
    with pytest.raises(UserError, match=r"'two', field 'clip': expected .* found uint8 \(3, 3, 8, 8\)"):
        write_shards(samples, tmp_path, "clips", {}, 4, None, ["takes"])
