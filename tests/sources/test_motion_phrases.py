"""Names of animations become phrases, and those that frames cannot tell apart none."""

from __future__ import annotations

import pytest

from swamp_dist.errors import UserError
from swamp_dist.sources.motion_phrases import phrase, phrases


@pytest.mark.parametrize(
    ("motion", "words"),
    [
        ("bounceInLeft", "bounces in from the left"),
        ("bounceInDown", "bounces in from above"),
        ("slideOutUp", "slides out upwards"),
        ("slideOutRight", "slides out to the right"),
        ("fadeInTopLeft", "fades in from the upper left"),
        ("fadeOutBottomRight", "fades out to the lower right"),
        ("rotateInDownLeft", "rotates in downwards about the lower left corner"),
        ("rotateOutUpRight", "rotates out upwards about the lower right corner"),
        ("backInUp", "backs in from below"),
        ("lightSpeedInRight", "dashes in from the right"),
        ("zoomIn", "zooms in"),
        ("flipInX", "flips in about the horizontal axis"),
        ("tada", "shrinks, grows and wiggles"),
    ],
)
def test_a_phrase_says_which_way(motion: str, words: str) -> None:
    assert phrase(motion) == words


@pytest.mark.parametrize(
    "motion",
    ["fadeInLeftBig", "fadeOutUpBig", "backOutLeft", "danceIn", "fadeInTop", "rotateInDown", "Bounce"],
)
def test_what_is_left_out_and_what_is_unknown_has_none(motion: str) -> None:
    assert phrase(motion) is None


def test_motions_are_all_with_a_phrase_or_those_chosen() -> None:
    found = ["zoomIn", "fadeInLeftBig", "bounce"]
    assert phrases(found, None) == {"bounce": "bounces in place", "zoomIn": "zooms in"}
    assert list(phrases(found, ["zoomIn"])) == ["zoomIn"]
    with pytest.raises(UserError, match=r"unknown motion zoomOut, fadeInLeftBig.\nFix: .*bounce, zoomIn"):
        phrases(found, ["zoomOut", "bounce", "fadeInLeftBig"])
