"""Headers of safetensors files, read without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swamp_dist.errors import UserError
from swamp_dist.safetensors_header import WeightsHeader, read_header
from swamp_dist.train.weights import save_weights


def test_absent_files_and_folders_are_told_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights there"):
        read_header(tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        read_header(tmp_path)


def test_a_header_is_shapes_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"w": torch.ones(2, 3), "scale": torch.ones(())}, {"step": "4"})
    assert read_header(path) == WeightsHeader({"w": (2, 3), "scale": ()}, {"step": "4"})
    save_weights(path, {"w": torch.ones(2)}, {})
    assert read_header(path).metadata == {}


def test_reading_a_header_imports_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"w": torch.ones(2)}, {})
    program = (
        "import sys; from pathlib import Path; from swamp_dist.safetensors_header import read_header\n"
        f"read_header(Path({str(path)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
