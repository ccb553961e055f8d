"""CONTRIBUTING's recipe "Add a loss term", followed to the letter on a toy term in a copy of the package."""

from __future__ import annotations

import difflib
import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.end_to_end.command import Ended, ran, sha256, write_job

PACKAGE = Path(__file__).parents[2] / "swamp_dist"
TERM = '''"""Spread: mean_ij (a_i . a_j)^2 over my rows i and all columns j; small where embeddings point
everywhere."""

from collections.abc import Mapping

from swamp_dist.config.objective import TermSettings
from swamp_dist.objective.term import Term, TermInputs

TAGS: Mapping[str, str] = {"loss/spread": "Mean squared cosine of two embeddings of A, mean over ranks."}


def term(settings: TermSettings, inputs: TermInputs) -> Term:
    if settings.weight == 0:
        return Term()
    all_a, _ = inputs.gathered()
    return Term(settings.weight, (inputs.mine.a @ all_a.t()).square().mean())
'''
TEST = """import torch

from swamp_dist.config.objective import TermSettings
from swamp_dist.distributed import alone
from swamp_dist.objective.term import TermInputs
from swamp_dist.objective.terms import spread
from swamp_dist.records import BatchPlan, PairEmbeddings

rows = torch.eye(2, dtype=torch.float64)
inputs = TermInputs(
    BatchPlan(2, 1, 1, 1), PairEmbeddings(rows, rows, None), None, (rows, rows), lambda: rows, rows, 0,
    alone(),
)
assert float(spread.term(TermSettings(weight=1.0), inputs).loss) == 0.5
assert spread.term(TermSettings(), inputs).loss is None
"""
LINES = {
    "config/objective.py": (
        "    swamp: SwampSettings = SwampSettings()",
        "    spread: TermSettings = TermSettings()",
    ),
    "objective/objective.py": (
        '                "swamp": self._ask_swamp(inputs) if first is None else first,',
        '                "spread": spread.term(self.settings.spread, inputs),',
    ),
    "objective/step_cost.py": (
        '    flops = {"contrastive": 0}',
        '    flops |= {"spread": 6 * local * pairs * embedding_dim} if settings.spread.weight > 0 else {}',
    ),
}
"""By file: the line to look for, and the one to insert after it."""
IMPORT = "from swamp_dist.objective.terms import contrastive, domain, semantic, triplet\n"


def _add_term(copy: Path) -> None:
    """The whole recipe: two new files, three lines, and the module's name in the import of the terms."""
    (copy / "swamp_dist/objective/terms/spread.py").write_text(TERM)
    (copy / "test_spread.py").write_text(TEST)
    for name, (before, line) in LINES.items():
        path = copy / "swamp_dist" / name
        text = path.read_text()
        assert text.count(before + "\n") == 1, name
        path.write_text(text.replace(before + "\n", f"{before}\n{line}\n"))
    path = copy / "swamp_dist/objective/objective.py"
    assert IMPORT in path.read_text()
    path.write_text(path.read_text().replace(IMPORT, IMPORT.replace("semantic", "semantic, spread")))


def _changed_lines(copy: Path) -> dict[str, list[str]]:
    """Lines that differ from the package, by file."""
    changes = {}
    for path in (copy / "swamp_dist").rglob("*.py"):
        original = PACKAGE / path.relative_to(copy / "swamp_dist")
        before = original.read_text().splitlines() if original.is_file() else []
        diff = difflib.ndiff(before, path.read_text().splitlines())
        if found := [line for line in diff if line.startswith(("+ ", "- "))]:
            changes[str(path.relative_to(copy / "swamp_dist"))] = found
    return changes


def _train(copy: Path, job: Path, weight: float) -> tuple[Ended, Path]:
    """Two steps with the copy; its run folder."""
    run = copy / f"run-{weight:g}"
    command = [sys.executable, "-m", "swamp_dist", "run", str(job), f"objective.spread.weight={weight}"]
    changes = ["data.entries=96", "train.epochs=1", "train.validate_on=null", "evaluate=[]"]
    return ran(["env", "-C", str(copy), *command, *changes, "--run-dir", str(run)], PYTHONPATH=str(copy)), run


@pytest.mark.timeout(400)
def test_a_new_term_takes_two_files_and_three_lines(tmp_path: Path, tiny_shards: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGE, copy / "swamp_dist", ignore=shutil.ignore_patterns("__pycache__"))
    _add_term(copy)

    changes = _changed_lines(copy)
    assert set(changes) == {"objective/terms/spread.py", *LINES}
    edits = [line for name in LINES for line in changes[name]]
    assert sum(line.startswith("+ ") for line in edits) == 3 + 1  # and the import, which is changed
    assert [line for line in edits if line.startswith("- ")] == ["- " + IMPORT.rstrip()]
    tested = ran(["env", "-C", str(copy), sys.executable, "test_spread.py"], PYTHONPATH=str(copy))
    assert tested.code == 0, tested.said

    job = write_job(tmp_path, tiny_shards)
    (with_term, on), (without, off) = _train(copy, job, 0.5), _train(copy, job, 0.0)
    assert with_term.code == 0, with_term.said
    assert without.code == 0, without.said
    rows = [json.loads(line) for line in (on / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        expected = row["loss/contrastive"] + 0.5 * row["loss/spread"] + 0.25 * row.get("loss/swamp", 0.0)
        assert row["loss/total"] == pytest.approx(expected, rel=1e-5)
    assert "loss/spread" not in (off / "metrics.jsonl").read_text()
    first = json.loads((off / "metrics.jsonl").read_text().splitlines()[0])
    assert rows[0]["loss/contrastive"] == first["loss/contrastive"]  # the same start
    assert rows[0]["optim/grad_norm"] != first["optim/grad_norm"]
    assert sha256(on / "weights.safetensors") != sha256(off / "weights.safetensors")
