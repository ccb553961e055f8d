"""Clips of pictures that move: pages, what is cut from them, and a browser that draws or fails."""

from __future__ import annotations

import io
import os
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from swamp_dist.errors import UserError
from swamp_dist.sources import moving_pictures
from swamp_dist.sources.moving_pictures import (
    BROWSERS,
    Motion,
    cut_frames,
    draw_clips,
    find_browser,
    page_text,
)

SIZE, FRAMES = 16, 4
CSS = (
    "".join(
        f"@keyframes {name} {{ from {{ transform: translate({way}100px) }} to {{ transform: none }} }}"
        f".animate__{name} {{ animation-name: {name} }}"
        for name, way in (("inLeft", "-"), ("inRight", ""))
    )
    + ".animate__animated { animation-duration: 1s; animation-fill-mode: both }"
)


def picture(colour: str = "red") -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(target, "PNG")
    return target.getvalue()


def page(clips: int, cut: int = 0) -> bytes:
    """A page whose every frame has a colour of its own, with `cut` rows of pixels missing."""
    pixels = np.zeros((clips * SIZE + 4, FRAMES * SIZE, 3), dtype=np.uint8)
    for row in range(clips):
        for k in range(FRAMES):
            pixels[row * SIZE : (row + 1) * SIZE, k * SIZE : (k + 1) * SIZE] = (row, k, 7)
    pixels[clips * SIZE :] = (255, 0, 255)
    target = io.BytesIO()
    Image.fromarray(pixels[: len(pixels) - cut]).save(target, "PNG")
    return target.getvalue()


def program(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser that does what a shell script says."""
    file = folder / BROWSERS[0]
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_frames_are_cut_in_the_order_of_clips_and_time() -> None:
    frames = cut_frames(page(3), 3, FRAMES, SIZE)
    assert frames.shape == (3, FRAMES, 3, SIZE, SIZE)
    for row in range(3):
        for k in range(FRAMES):
            assert (frames[row, k][:, 0, 0] == np.array((row, k, 7))).all()


@pytest.mark.parametrize("cut", [1, 4, SIZE])
def test_a_page_that_was_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(UserError, match="without all frames of its 3 clips; expected 64 x 52"):
        cut_frames(page(3, cut), 3, FRAMES, SIZE)


def test_a_page_of_the_right_size_without_its_last_line_is_refused() -> None:
    target = io.BytesIO()
    Image.new("RGB", (FRAMES * SIZE, 3 * SIZE + 4), "white").save(target, "PNG")
    with pytest.raises(UserError, match="without all frames"):
        cut_frames(target.getvalue(), 3, FRAMES, SIZE)


@pytest.mark.parametrize("data", [b"", b"no picture", page(3)[:90]])
def test_a_page_that_does_not_decode_is_named(data: bytes) -> None:
    with pytest.raises(UserError, match="the page of 3 clips that the browser drew does not decode"):
        cut_frames(data, 3, FRAMES, SIZE)


def test_a_page_may_load_nothing_from_outside() -> None:
    text = page_text([Motion(picture(), "inLeft")], CSS, FRAMES, SIZE)
    assert "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count('class="cell"') == FRAMES


def test_pages_of_many_clips_come_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving_pictures, "CLIPS_PER_PAGE", 2)
    for clips in (1, 2):
        (tmp_path / f"{clips * SIZE + 4}.png").write_bytes(page(clips))
    program(
        tmp_path,
        'for each in "$@"; do case $each in --window-size=*) size=${each#*,};; --screenshot=*) '
        f'target=${{each#*=}};; esac; done; cp "{tmp_path}/$size.png" "$target"',
        monkeypatch,
    )
    drawn = draw_clips([Motion(picture(), "inLeft")] * 5, CSS, FRAMES, SIZE)
    assert drawn[:, 0, 0, 0, 0].tolist() == [0, 1, 0, 1, 0]


def test_a_browser_that_draws_nothing_is_named_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "echo no display >&2; exit 1", monkeypatch)
    with pytest.raises(UserError, match=r"drew nothing:\n  \| no display\nFix"):
        draw_clips([Motion(picture(), "inLeft")], CSS, FRAMES, SIZE)


def test_a_browser_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving_pictures, "TIMEOUT_SECONDS", 0.5)
    program(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait", monkeypatch)
    with pytest.raises(UserError, match="did not end within 0.5 s and was killed"):
        draw_clips([Motion(picture(), "inLeft")], CSS, FRAMES, SIZE)
    child = int((tmp_path / "child").read_text())
    ended = time.monotonic() + 30
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ended, "the child of the browser goes on"
        time.sleep(0.05)


def test_a_machine_without_a_browser_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="needs Chromium.*\nFix: install it"):
        find_browser()


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium on PATH")
def test_chromium_draws_the_same_twice_and_moves_what_it_is_told() -> None:
    clips = [Motion(picture(), "inLeft"), Motion(picture(), "inRight")]
    left, right = draw_clips(clips, CSS, FRAMES, 32)
    assert (left == draw_clips(clips[:1], CSS, FRAMES, 32)[0]).all()
    inks = [[(255 - frame[1]).astype(int).sum(0) for frame in clip] for clip in (left, right)]
    places = [[(ink * np.arange(32)).sum() / ink.sum() for ink in clip] for clip in inks]
    assert places[0] == sorted(places[0]), "it comes in from the left"
    assert places[1] == sorted(places[1], reverse=True)
    assert places[0][0] < 12 < places[0][-1] == pytest.approx(15.5, abs=0.2)
