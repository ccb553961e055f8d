"""Frames of pictures that animations of CSS move, drawn by headless Chromium whose clock is set by hand.

A page holds every frame of some clips, each in a cell of its own, whose animation is stopped at the frame's
time. So a page is drawn once, and nothing depends on how long drawing takes.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from swamp_dist.errors import UserError
from swamp_dist.long_work import told_while

log = logging.getLogger(__name__)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Programs that draw; the first one on PATH is taken."""
TIMEOUT_SECONDS = 300
CLIPS_PER_PAGE = 100
_STAGE, _PICTURE = 256, 144
"""Sides of what is seen and of the picture in its middle, in pixels of CSS: motions are told in these."""
_SECONDS = 10
"""Between two frames; the clock stands still, so that any number does."""
_BEFORE_END = 0.001
"""Seconds before its end at which a motion is stopped last: one that has ended is drawn with other pixels."""
_END = (255, 0, 255)
"""Colour of the line below the last clip: where it is missing, the page was cut short."""
_END_HEIGHT = 4
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_OPTIONS = (
    "--headless",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--force-device-scale-factor=1",
)


class Motion(NamedTuple):
    """One clip that is to be drawn."""

    picture: bytes
    """PNG file, square."""
    name: str
    """Of an animation of the style sheet."""


def draw_clips(clips: Sequence[Motion], css: str, frames: int, size: int) -> np.ndarray:
    """(N, frames, 3, size, size) uint8, red first, on white: frame k of F shows the animation after k/(F - 1)
    of its time, so that the first frame is its start and the last one its end, but for a thousandth second.

    Args:
        clips: pictures and their animations.
        css: style sheet of animate.css.
        frames: F, at least 2.
        size: side of a frame in pixels.

    Raises:
        UserError: no browser is on PATH, or it failed, or a page came back cut short.
    """
    drawn = np.empty((len(clips), frames, 3, size, size), dtype=np.uint8)
    program = find_browser()
    with told_while(log, f"drawing {len(clips)} clips of {frames} frames with {program}"):
        for start in range(0, len(clips), CLIPS_PER_PAGE):
            part = clips[start : start + CLIPS_PER_PAGE]
            page = page_text(part, css, frames, size)
            png = _screenshot(program, page, frames * size, len(part) * size + _END_HEIGHT)
            drawn[start : start + len(part)] = cut_frames(png, len(part), frames, size)
    return drawn


def find_browser() -> str:
    """The program that draws.

    Raises:
        UserError: none is on PATH.
    """
    for name in BROWSERS:
        if (found := shutil.which(name)) is not None:
            return found
    raise UserError(
        f"drawing clips needs Chromium, and none of {', '.join(BROWSERS)} is on PATH.\n"
        "Fix: install it with the system's packages (Debian: apt-get install chromium), or copy the download "
        "folder of the recipe from a machine that has built these shards."
    )


def page_text(clips: Sequence[Motion], css: str, frames: int, size: int) -> str:
    """The page: a row for each clip, a cell for each frame, and a line below."""
    edge = (_STAGE - _PICTURE) // 2
    rules = [
        "html, body { margin: 0; background: #fff }",
        f".cell {{ position: absolute; width: {size}px; height: {size}px; overflow: hidden }}",
        f".stage {{ position: absolute; left: 0; top: 0; width: {_STAGE}px; height: {_STAGE}px; "
        f"transform: scale({size / _STAGE}); transform-origin: 0 0 }}",
        f".picture {{ position: absolute; left: {edge}px; top: {edge}px; width: {_PICTURE}px; "
        f"height: {_PICTURE}px; background-size: 100% 100%; animation-play-state: paused !important; "
        f"animation-duration: {(frames - 1) * _SECONDS}s !important }}",
        f".end {{ position: absolute; left: 0; top: {len(clips) * size}px; width: {frames * size}px; "
        f"height: {_END_HEIGHT}px; background: rgb{_END} }}",
    ]
    cells, times = [], [k * _SECONDS for k in range(frames - 1)] + [(frames - 1) * _SECONDS - _BEFORE_END]
    for row, clip in enumerate(clips):
        url = f"data:image/png;base64,{base64.b64encode(clip.picture).decode()}"
        rules.append(f".p{row} {{ background-image: url({url}) }}")
        moved = f"picture p{row} animate__animated animate__{clip.name}"
        cells += [
            f'<div class="cell" style="left: {k * size}px; top: {row * size}px"><div class="stage">'
            f'<div class="{moved}" style="animation-delay: -{at:.3f}s !important"></div></div></div>'
            for k, at in enumerate(times)
        ]
    return (
        '<!doctype html><html><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<style>{css}</style><style>{' '.join(rules)}</style></head>"
        f'<body>{"".join(cells)}<div class="end"></div></body></html>'
    )


def cut_frames(png: bytes, clips: int, frames: int, size: int) -> np.ndarray:
    """(clips, frames, 3, size, size) uint8 of a page that was drawn.

    Raises:
        UserError: it is no picture, or does not hold all frames.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            page = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"the page of {clips} clips that the browser drew does not decode: {error}") from None
    wanted = (clips * size + _END_HEIGHT, frames * size, 3)
    if page.shape != wanted or tuple(page[-1, 0].tolist()) != _END:
        raise UserError(
            f"the browser drew a page of {page.shape[1]} x {page.shape[0]} pixels without all frames of its "
            f"{clips} clips; expected {wanted[1]} x {wanted[0]} with a line at the end.\n"
            "Fix: fewer or smaller frames (source.frames, source.size), or another version of the browser"
        )
    cells = page[: clips * size].reshape(clips, size, frames, size, 3)
    return np.ascontiguousarray(cells.transpose(0, 2, 4, 1, 3))


def _screenshot(program: str, page: str, width: int, height: int) -> bytes:
    """The PNG file of a page, drawn by a browser of its own with an empty profile."""
    with tempfile.TemporaryDirectory(prefix="swamp-clips-", ignore_cleanup_errors=True) as folder:
        source, target = Path(folder, "page.html"), Path(folder, "page.png")
        source.write_text(page, encoding="utf-8")
        alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has no sandbox for root
        command = [
            program, *_OPTIONS, *alone, f"--user-data-dir={folder}/profile",
            f"--window-size={width},{height}", f"--screenshot={target}", source.as_uri(),
        ]  # fmt: skip
        said = _run(command, folder)
        if not target.is_file():
            lines = "".join(f"  | {line}\n" for line in said.splitlines()[-4:])
            raise UserError(f"{program} drew nothing:\n{lines}Fix: check that it starts with --headless")
        return target.read_bytes()


def _run(command: Sequence[str], folder: str) -> str:
    """What a program said, which is ended with all its children after `TIMEOUT_SECONDS`."""
    with tempfile.TemporaryFile(dir=folder) as said:
        # In a session of its own, because a browser is several processes.
        started = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, start_new_session=True)
        try:
            started.wait(TIMEOUT_SECONDS)
        except BaseException as error:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise UserError(f"{command[0]} did not end within {TIMEOUT_SECONDS} s and was killed") from None
        said.seek(0)
        return said.read().decode(errors="replace")
