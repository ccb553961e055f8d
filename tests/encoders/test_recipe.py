"""CONTRIBUTING's "Add an encoder", followed to the letter on a copy of the package."""

from __future__ import annotations

import filecmp
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.end_to_end.command import ROOT, environment

JOB = """\
name: affine
data: {{shards: {shards}, a: a, b: b, entries: 100, workers: 0}}
model: {{embedding_dim: 8, a: {{kind: affine}}, b: {{kind: affine, bias: false}}}}
objective: {{swamp: {{prototypes: 10, queue: {{size: 100}}}}}}
train: {{epochs: 1, log_every: 1}}
evaluate: [{{split: test}}]
"""
"""Two steps: the training split has 200 entries."""


def copied(folder: Path) -> Path:
    """`folder` with a copy of the package, its tests and their settings."""
    for name in ("swamp_dist", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def follow_recipe(folder: Path) -> None:
    """Steps 1 to 3 of the recipe."""
    package, costs = folder / "swamp_dist", folder / "tests" / "encoders" / "test_cost.py"
    recipe = (ROOT / "CONTRIBUTING.md").read_text().partition("**Add an encoder.**")[2]
    found = re.search(r"1\. `swamp_dist/(\S+)`.*?```python\n(.*?)\n   ```", recipe, re.DOTALL)
    assert found is not None
    (package / found[1]).write_text(textwrap.dedent(found[2]) + "\n")
    replace(package / "encoders" / "__init__.py", "    hf_text,\n", "    affine,\n    hf_text,\n")
    replace(package / "encoders" / "__init__.py", "    mlp.Mlp", "    affine.AffineSettings | mlp.Mlp")
    replace(costs, '    "gated": Gated', '    "affine": AffineSettings(),\n    "gated": Gated')
    imported = "from swamp_dist.encoders.affine import AffineSettings\n"
    replace(costs, "from swamp_dist.model.dual", imported + "from swamp_dist.model.dual")


def replace(path: Path, old: str, new: str) -> None:
    """Edit one place of a file."""
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name}: {old!r} stands there {text.count(old)} times"
    path.write_text(text.replace(old, new))


def differences(folder: Path) -> tuple[set[str], set[str]]:
    """Files of the copied package that are new, and those that were changed."""
    package = folder / "swamp_dist"
    own = {p.relative_to(package) for p in package.rglob("*.py")}
    original = ROOT / "swamp_dist"
    changed = {
        f for f in own if (original / f).is_file() and not filecmp.cmp(original / f, package / f, False)
    }
    return {str(f) for f in own if not (original / f).is_file()}, {str(f) for f in changed}


def python(folder: Path, *arguments: str) -> str:
    """Run Python over the package that lies in `folder`; everything on the console."""
    variables = environment() | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=variables, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_two_lines_of_one_file_are_changed(tmp_path: Path) -> None:
    follow_recipe(copied(tmp_path))
    assert differences(tmp_path) == ({"encoders/affine.py"}, {"encoders/__init__.py"})
    union = Path("swamp_dist", "encoders", "__init__.py")
    before, after = ((folder / union).read_text().splitlines() for folder in (ROOT, tmp_path))
    assert sum(line not in before for line in after) == 2  # the union and its import


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_new_encoder_trains_two_steps_and_is_counted(tiny_shards: Path, tmp_path: Path) -> None:
    follow_recipe(copied(tmp_path))
    (tmp_path / "job.yaml").write_text(JOB.format(shards=tiny_shards))
    python(tmp_path, "-m", "swamp_dist", "run", "job.yaml", "--run-dir", "run", "--ranks", "1")
    with safe_open(tmp_path / "run" / "weights.safetensors", framework="numpy") as weights:
        assert set(weights.keys()) == {"a.weight", "a.bias", "b.weight", "prototypes.weight"}
        assert weights.metadata()["step"] == "2"
    shown = python(tmp_path, "-m", "swamp_dist", "show", "job.yaml", "--cost", "--gpus-per-node", "1")
    assert "compute: encoders" in shown


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_tests_of_encoders_hold_for_the_new_one(tmp_path: Path) -> None:
    follow_recipe(copied(tmp_path))
    said = python(
        tmp_path, "-m", "pytest", "-v", "tests/encoders/test_cost.py", "tests/encoders/test_encoders.py"
    )
    assert said.count("[affine] PASSED") == 2
    assert "[AffineSettings] PASSED" in said
