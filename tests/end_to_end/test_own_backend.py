"""The recipe of CONTRIBUTING.md for a backend, performed literally on a copy of the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swamp_dist.evaluate.results import read_result
from tests.end_to_end.command import ROOT, environment, write_job

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]
REGISTRY = "swamp_dist/backends/registry.py"


def blocks() -> dict[str, str]:
    """The recipe's code by the file that its first line names."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("**Add a backend.**")[1]
    found = re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL)
    return dict(found)


def contents(root: Path) -> dict[str, str]:
    return {f.relative_to(root).as_posix(): f.read_text() for f in sorted(root.rglob("*.py"))}


def test_a_folder_and_one_line_are_a_backend(tmp_path: Path, tiny_shards: Path) -> None:
    shutil.copytree(
        ROOT / "swamp_dist", tmp_path / "swamp_dist", ignore=shutil.ignore_patterns("__pycache__")
    )
    before = contents(tmp_path)
    for file, code in blocks().items():
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        if path.is_file():  # one line more, among its like
            code = re.sub(r'(    "local": .*\n)', rf"\g<1>{code}", path.read_text(), count=1)
        path.write_text(code)
    after = contents(tmp_path)
    assert set(after) - set(before) == {
        "swamp_dist/config/backends/nice.py",
        "swamp_dist/backends/nice/__init__.py",
    }
    assert [file for file in before if before[file] != after[file]] == [REGISTRY]
    assert len(after[REGISTRY].splitlines()) == len(before[REGISTRY].splitlines()) + 1

    job, cluster = write_job(tmp_path, tiny_shards), tmp_path / "cluster.yaml"
    cluster.write_text("backend: nice\nranks: 2\n")
    words = [
        "submit",
        job.name,
        "data.entries=96",
        "train.epochs=1",
        "--cluster",
        cluster.name,
        "--run-dir",
        "run",
    ]
    run = [sys.executable, "-m", "swamp_dist", *words]
    own = environment() | {"PYTHONPATH": str(tmp_path)}
    shown = subprocess.run(
        [*run, "--dry-run"], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=180
    )
    assert "would run 2 ranks of a low priority in run" in shown.stdout, shown.stdout + shown.stderr
    done = subprocess.run(run, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    result = read_result(tmp_path / "run")
    assert (result.steps, result.provenance["world_size"]) == (2, 2)
