"""What the animations of animate.css show, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from swamp_dist.errors import UserError

_IN_PLACE = {
    "bounce": "bounces in place",
    "flash": "flashes twice",
    "pulse": "pulses once",
    "rubberBand": "stretches like a rubber band",
    "shakeX": "shakes from side to side",
    "shakeY": "shakes up and down",
    "headShake": "shakes its head",
    "swing": "swings from its top",
    "tada": "shrinks, grows and wiggles",
    "wobble": "wobbles from side to side",
    "jello": "trembles like jelly",
    "heartBeat": "beats like a heart",
    "flip": "flips over once",
    "hinge": "swings from a hinge and falls down",
    "jackInTheBox": "pops out of a box",
    "flipInX": "flips in about the horizontal axis",
    "flipInY": "flips in about the vertical axis",
    "flipOutX": "flips out about the horizontal axis",
    "flipOutY": "flips out about the vertical axis",
}
_VERBS = {
    "back": "backs",
    "bounce": "bounces",
    "fade": "fades",
    "lightSpeed": "dashes",
    "roll": "rolls",
    "rotate": "rotates",
    "slide": "slides",
    "zoom": "zooms",
}
_FROM = {"Left": "the left", "Right": "the right", "Down": "above", "Up": "below"}
_TO = {"Left": "to the left", "Right": "to the right", "Down": "downwards", "Up": "upwards"}
_CORNERS = {"TopLeft": "upper left", "TopRight": "upper right"} | {
    "BottomLeft": "lower left",
    "BottomRight": "lower right",
}
_VERB_AND_WAY = re.compile(r"([a-z][A-Za-z]*?)(In|Out)((?:Top|Bottom|Up|Down)?(?:Left|Right)?)(Big)?")


def phrase(motion: str) -> str | None:
    """What a motion does, for example "bounces in from the left"; None for one that is not known, and for
    one that is left out.

    Left out are `...Big` and `backOut...`: the picture is out of sight by the second of 8 frames, whichever
    way it went, so that no frame tells them apart.

    Args:
        motion: its name in animate.css, for example `bounceInLeft`.
    """
    if motion in _IN_PLACE:
        return _IN_PLACE[motion]
    found = _VERB_AND_WAY.fullmatch(motion)
    if found is None or found[1] not in _VERBS or found[4] or motion.startswith("backOut"):
        return None
    verb, side, way = f"{_VERBS[found[1]]} {found[2].lower()}", found[2], found[3]
    if not way:
        return verb
    if found[1] == "rotate":
        return _rotation(verb, way)
    if way in _CORNERS:
        return f"{verb} {'from' if side == 'In' else 'to'} the {_CORNERS[way]}"
    if way not in _FROM:
        return None
    return f"{verb} from {_FROM[way]}" if side == "In" else f"{verb} {_TO[way]}"


def phrases(found: Sequence[str], chosen: Sequence[str] | None) -> Mapping[str, str]:
    """The phrase of every motion that is used, by its name, sorted.

    Args:
        found: names of the animations in the package.
        chosen: those to use; None takes all that have a phrase.

    Raises:
        UserError: one of them is not in the package or has no phrase; names it and those there are.
    """
    known = {name: words for name in sorted(found) if (words := phrase(name)) is not None}
    if chosen is None:
        return known
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(
            f"source.motions: unknown motion {', '.join(unknown)}.\nFix: choose among {', '.join(known)}"
        )
    return {name: known[name] for name in sorted(chosen)}


def _rotation(verb: str, way: str) -> str | None:
    """Of a turn about a lower corner: which one, and which way the other one goes."""
    parts = re.fullmatch("(Up|Down)(Left|Right)", way)
    if parts is None:
        return None
    return f"{verb} {_TO[parts[1]]} about the lower {parts[2].lower()} corner"
