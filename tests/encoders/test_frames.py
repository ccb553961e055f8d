"""Clips of raw frames: what is taken, what order and stills change, and that each frame is seen alone."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from swamp_dist.config import FramesSettings, ModelSettings
from swamp_dist.model.dual_encoder import build_encoder
from swamp_dist.records import InputSpec, Sets

CLIPS = InputSpec((8, 3, 16, 16), kind="frames")
SMALL = {"depth": 2, "width": 4}


def clips(count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, *CLIPS.shape), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("options", "spec", "said"),
    [
        ({"still": 9}, CLIPS, "still = 9, but clips have 8 frames.\nFix: still = 1 .. 8"),
        ({"depth": 6}, CLIPS, "16 pixels do not allow.\nFix: depth = 5 at most"),
        ({}, InputSpec((8, 16, 16, 3), kind="frames"), "channels before height and width"),
        ({}, InputSpec((8, 3, 16, 12), kind="frames"), "square frames"),
        ({}, InputSpec((3, 16, 16), kind="image"), "takes clips of frames, but the field holds images"),
    ],
)
def test_what_is_not_taken_is_named(options: dict[str, int], spec: InputSpec, said: str) -> None:
    problem = FramesSettings(**options).input_problem(spec)
    assert problem is not None
    assert said in problem


def test_units_are_of_frames() -> None:
    with pytest.raises(ValidationError, match="set output = frames"):
        FramesSettings(unit=True)


def test_the_mean_is_that_of_frames_seen_alone_and_knows_no_order() -> None:
    network, pixels = build_encoder(FramesSettings(**SMALL), CLIPS, 6), clips()
    alone = torch.stack([network(pixels[:, k : k + 1]) for k in range(8)]).mean(0)
    torch.testing.assert_close(network(pixels), alone)
    torch.testing.assert_close(network(pixels), network(pixels.flip(1)))


def test_a_sequence_holds_every_frame_in_its_place_of_time() -> None:
    settings = FramesSettings(**SMALL, output="frames")
    network, pixels = build_encoder(settings, CLIPS, 6), clips()
    there, back = network(pixels), network(pixels.flip(1))
    assert isinstance(there, Sets)
    assert there.mask.all()
    places = network.places.detach()
    torch.testing.assert_close(there.values - places, (back.values - places).flip(1))
    assert (there.values - back.values.flip(1)).abs().max() > 0.01, "its place is told"
    unit = build_encoder(FramesSettings(**SMALL, output="frames", unit=True), CLIPS, 6)(pixels)
    torch.testing.assert_close(unit.values.norm(dim=-1), torch.ones(5, 8))


@pytest.mark.parametrize("output", ["mean", "frames"])
def test_a_still_is_the_same_network_on_copies_of_one_frame(output: str) -> None:
    moving = FramesSettings.model_validate({**SMALL, "output": output})
    still = moving.model_copy(update={"still": 3})
    (one, two), pixels = (build_encoder(each, CLIPS, 6) for each in (moving, still)), clips()
    two.load_state_dict(one.state_dict())
    copies = pixels[:, 2:3].expand_as(pixels)
    expected, found = one(copies), two(pixels)
    for left, right in zip(expected, found, strict=True):
        torch.testing.assert_close(left, right)
    assert two.state_dict().keys() == one.state_dict().keys()


def test_weights_record_which_frames_they_saw() -> None:
    first = FramesSettings(output="frames", still=1)
    assert first.set_marks() == {"output": "frames", "unit": False, "still": 1}
    assert first.most_elements(CLIPS) == 8
    assert FramesSettings().most_elements(CLIPS) == 1


def test_a_model_of_a_sequence_needs_what_makes_an_embedding_of_it() -> None:
    model = ModelSettings.model_validate({"b": {"kind": "frames", "output": "frames"}})
    problem = model.sets_problem((InputSpec((7,)), CLIPS))
    assert problem is not None
    assert "model.b: the encoder gives a set of vectors" in problem
