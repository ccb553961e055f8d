"""What a user sees: on a terminal, in a pipe and in TensorBoard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.end_to_end.command import needs_terminal, on_a_terminal, plain, swamp, write_job


@needs_terminal
def test_show_is_readable_in_100_columns() -> None:
    lines = plain(on_a_terminal("show", "jobs/finetune/synthetic.yaml")).splitlines()
    assert max(map(len, lines)) <= 100
    at = lines.index("* data.entries = 32  (default: 256)")
    assert lines[at + 1].startswith("      Global batch in entries, over all ranks. World size must divide")
    assert len(lines) < 420


@pytest.mark.slow
@needs_terminal
def test_bar_on_a_terminal_and_plain_lines_elsewhere(tiny_shards: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, tiny_shards)
    shown = on_a_terminal("run", job, "--ranks", 2, "--run-dir", tmp_path / "one")
    assert "\x1b[" in shown
    assert "16/16" in plain(shown)
    piped = swamp("run", job, "--ranks", 2, "--run-dir", tmp_path / "two")
    assert piped.code == 0
    assert "\x1b" not in piped.said
    assert "\r" not in piped.said
    assert re.search(r"tiny: step 16 of 16, loss \d\.\d+$", piped.said, re.MULTILINE)


def test_tensorboard_has_curves_and_histograms(trained_once: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(trained_once))
    read.Reload()
    tags = read.Tags()
    assert {"loss/total", "loss/contrastive", "loss/swamp", "optim/lr"} <= set(tags["scalars"])
    assert [event.step for event in read.Scalars("loss/total")] == list(range(1, 17))
    assert any(tag.startswith("retrieval/validation/") for tag in tags["scalars"]), tags["scalars"]
    assert any(tag.startswith("evaluation/test/") for tag in tags["scalars"]), tags["scalars"]
    assert {"job/text_summary", "provenance/text_summary"} <= set(tags["tensors"])
    assert read.SummaryMetadata("_hparams_/experiment").plugin_data.plugin_name == "hparams"
    assert [event.step for event in read.Histograms("swamp/prototype_use")] == [16]
