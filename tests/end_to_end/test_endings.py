"""What a command says at the end of a stage, and that the command which it names next works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.end_to_end.command import needs_terminal, on_a_terminal, plain, swamp, write_job


def next_command(said: str) -> list[str]:
    """The arguments of the `swamp` command that stands behind `next:`."""
    found = re.search(r"^next: +swamp (.*)$", said, re.MULTILINE)
    assert found is not None, said
    return shlex.split(found.group(1))


def test_training_ends_with_its_figures_and_a_next_command(
    trained_once: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    run_dir = trained_once
    done = swamp("run", write_job(tmp_path, tiny_shards), "--run-dir", run_dir)  # once more: it is done
    assert done.code == 0, done.said
    assert re.search(r"^trained:     16 steps; \d+ s in all$", done.said, re.MULTILINE), done.said
    result = json.loads((run_dir / "result.json").read_text())
    measured = result["evaluations"][0]["metrics"]["pair/a_to_b"]
    assert re.search(rf"^pair a->b +{measured['r_at_1']:.2f} ", done.said, re.MULTILINE), done.said
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    validated = {r["step"]: v for r in rows if (v := r.get("retrieval/validation/pair/a_to_b/r_at_1"))}
    best = max(validated.values())
    at = min(step for step, value in validated.items() if value == best)
    assert (
        f"validation pair/a_to_b/r_at_1: best {best:.2f} at step {at}, last {validated[16]:.2f}" in done.said
    )
    assert f"weights:     {run_dir / 'weights.safetensors'} (of step 16)" in done.said
    line = f"validation on validation after step 8: pair/a_to_b/r_at_1 {validated[8]:.2f}, the best so far"
    assert line in (run_dir / "logs/rank-000.log").read_text()
    shown = swamp(*next_command(done.said))
    assert shown.code == 0, shown.said
    assert f"{measured['r_at_1']:.2f}" in shown.said


def test_a_training_without_evaluation_names_a_command_that_shows_its_figure(
    tiny_shards: Path, tmp_path: Path
) -> None:
    done = swamp("run", write_job(tmp_path, tiny_shards), "evaluate=[]", "--run-dir", tmp_path / "run")
    best = re.search(r"r_at_1: best (\d+\.\d\d) at step (\d+), last (\d+\.\d\d)", done.said)
    assert best is not None, done.said
    assert re.search(r"^[\d:]+ validation on validation after step 8: ", done.said, re.MULTILINE), done.said
    shown = swamp(*next_command(done.said))
    assert shown.code == 0, shown.said
    assert f"{best.group(1)} @{best.group(2)}" in shown.said
    assert "validation" in shown.said


@pytest.mark.slow
@needs_terminal
def test_an_evaluation_prints_its_table_at_any_width(
    trained_once: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path, tiny_shards)
    relevance = "evaluate=[{split: test, relevance: [pair, class], precision_at: [5]}]"
    arguments = ["run", job, "train=null", f"weights={trained_once}", relevance, "--run-dir"]
    run_dir = tmp_path / "run"
    for columns in (80, 100, 120):  # the second and third time it is done already, and says the same
        said = plain(on_a_terminal(*arguments, run_dir, columns=columns))
        table = said[said.index("test  ") :].splitlines()
        assert max(len(line) for line in table[:5]) <= columns
        if columns == 80:  # headings take several lines
            continue
        heading = "test R@1 R@5 R@10 MedR mAP P@5 mAP@5 mAP@5/hits R@1 by chance"
        assert " ".join(table[0].split()) == heading
        rows = [" ".join(line.split()[:2]) for line in table[1:5]]
        assert rows == ["pair a->b", "pair b->a", "class a->b", "class b->a"]
