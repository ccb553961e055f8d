"""A data set that no file of the package knows: the lines of CONTRIBUTING.md, performed as they stand
there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from swamp_dist.data.manifest import load_manifest
from tests.end_to_end.command import ROOT, environment

_SECTION = re.search(
    r"\*\*Add a data set\.\*\*(.*?)\n\*\*Add ", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
)


def run(command: str) -> subprocess.CompletedProcess[str]:
    """A `swamp` command in the working folder, which Python itself does not put on its path (-P)."""
    words = [sys.executable, "-P", "-m", "swamp_dist", *shlex.split(command)[1:]]
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(words, env=variables, capture_output=True, text=True, timeout=150)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_data_set_of_ones_own_is_built_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _SECTION is not None
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", _SECTION[1], re.DOTALL)
    assert [name for name, _ in blocks] == ["my_data/pairs.py", "my_data/recipe.yaml", "my_data/job.yaml"]
    os.makedirs("my_data/raw")
    for name, text in blocks:
        Path(name).write_text(text)
    random = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 10)):
        for side in "ab":
            np.save(f"my_data/raw/{split}_{side}.npy", random.normal(size=(count, 6)).astype(np.float32))

    commands = re.findall(r"^swamp .*$", _SECTION[1], re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        done = run(command)
        assert done.returncode == 0, done.stdout + done.stderr

    source = load_manifest(Path("data/mine")).record.source
    assert (source["kind"], source["target"]) == ("python", "my_data.pairs")
    result = json.loads(Path("runs/mine/result.json").read_text())
    assert result["steps"] == 2
    assert result["evaluations"][0]["split"] == "test"

    rows = np.load("my_data/raw/train_a.npy")
    rows[3] = 0
    np.save("my_data/raw/train_a.npy", rows)
    done = run(f"{commands[0]} --force")
    assert done.returncode == 2
    assert "split 'train', entry pair3: row 3 of train_a.npy is zero" in done.stderr
    assert "Traceback" not in done.stderr
