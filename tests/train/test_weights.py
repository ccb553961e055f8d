from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from swamp_dist.records import UserError
from swamp_dist.train.weights import load_weights, save_weights


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    """Eight metadata keys would come in one of 40,320 orders."""
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(1)}
    metadata = {f"key-{i}": f"value {i}" for i in range(8)}
    for number in range(4):
        save_weights(tmp_path / f"{number}.safetensors", tensors, metadata)
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    assert len(hashes) == 1
    read = load_weights(tmp_path / "0.safetensors")
    assert read.metadata == metadata
    assert all(torch.equal(read.tensors[name], tensors[name]) for name in tensors)


def test_weights_without_metadata(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(3)}, {})
    assert torch.equal(load_weights(tmp_path / "w.safetensors").tensors["a"], torch.ones(3))


def test_failed_write_is_named_and_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(3)}, {})
    before = path.read_bytes()
    (tmp_path / ".tmp-w.safetensors").mkdir()  # the name it would write under
    with pytest.raises(UserError, match=r"w\.safetensors could not be written"):
        save_weights(path, {"a": torch.zeros(3)}, {})
    assert path.read_bytes() == before
