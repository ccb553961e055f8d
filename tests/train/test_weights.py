from __future__ import annotations

import hashlib
import os
import resource
from pathlib import Path

import pytest
import torch

from swamp_dist.config import MlpSettings, ModelSettings
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.model.logits import LogitStart
from swamp_dist.train.weights import Weights, load_into, load_weights, logits_taken, save_weights
from tests.end_to_end.command import flip


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


def test_failed_write_is_named_and_leaves_the_older_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(3)}, {})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))  # a full disk, for this process alone
    try:
        with pytest.raises(
            UserError,
            match=r"w\.safetensors: the weights could not be written\.\n.*File too large\.\n.*ulimit -f",
        ):
            save_weights(path, {"a": torch.zeros(3)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_that_is_handed_out_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    sha256 = save_weights(path, {"a": torch.ones(3)}, {"step": "4"})
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    read = load_weights(path, sha256)
    assert (read.sha256, read.metadata) == (sha256, {"step": "4"})


def test_a_flipped_bit_of_a_tensor_is_found(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    sha256 = save_weights(path, {"a": torch.ones(3)}, {})
    flip(path, path.stat().st_size - 2)
    with pytest.raises(UserError, match=r"w\.safetensors: it has changed since it was written.*\n.*Restore"):
        load_weights(path, sha256)


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_weights_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"w\.safetensors: not a readable safetensors file"):
        load_weights(tmp_path / "w.safetensors")


def test_weights_have_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_weights(tmp_path / "w.safetensors", {"a": torch.ones(3)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o640


# -- logits ----------------------------------------------------------------------------------------


def model(logits: LogitStart | None) -> DualEncoder:
    encoder = MlpSettings(hidden=(3,))
    settings = ModelSettings(embedding_dim=2, a=encoder, b=encoder)
    return build_dual_encoder(settings, (4,), (4,), None, normalize_prototypes=True, seed=1, logits=logits)


LEARNED, FIXED = LogitStart(10.0, -10.0, learned=True), LogitStart(10.0, -10.0)


@pytest.mark.parametrize(
    ("own", "given", "scale", "bias", "told"),
    [
        (LEARNED, LogitStart(20.0, -7.0, learned=True), 20.0, -7.0, "logit scale 20, taken over"),
        (LEARNED, LogitStart(20.0, -7.0), 20.0, -7.0, "logit scale 20, taken over"),
        (LEARNED, LogitStart(20.0), 20.0, -10.0, "logit scale 20, fresh: bias"),
        (LEARNED, None, 10.0, -10.0, "logit scale 10, fresh: bias, log_scale"),
        (FIXED, LogitStart(20.0, -7.0, learned=True), 10.0, -10.0, "logit scale 10, fixed by the settings"),
        (
            None, LogitStart(20.0, -7.0), None, None,
            "logits (bias, log_scale) ignored: the contrastive form has none",
        ),
        (None, None, None, None, ""),
    ],
)  # fmt: skip
def test_a_stage_takes_the_logits_that_it_learns(
    own: LogitStart | None, given: LogitStart | None, scale: float | None, bias: float | None, told: str
) -> None:
    started, weights = model(own), Weights(model(given).state_dict(), {})
    load_into(started, weights, Path("w"), "auto")
    out = started(torch.ones(1, 4), torch.ones(1, 4))
    found = [None if x is None else round(x.item(), 4) for x in (out.logit_scale, out.logit_bias)]
    assert found == [scale, bias]
    assert logits_taken(started, weights) == told


def test_weights_of_another_model_are_told_in_few_lines(tmp_path: Path) -> None:
    (tmp_path / "stage.yaml").write_text("name: x\n")
    encoder = MlpSettings(hidden=(5, 5))
    deeper = ModelSettings(embedding_dim=2, a=encoder, b=encoder)
    given = build_dual_encoder(deeper, (4,), (4,), None, normalize_prototypes=True, seed=1)
    with pytest.raises(UserError, match=r"a\.layers\.4\.weight: not in this model") as refused:
        load_into(model(None), Weights(given.state_dict(), {}), tmp_path / "weights.safetensors", "auto")
    said = str(refused.value).splitlines()
    assert len(said) == 7
    assert said[5] == "  and 8 more"
    assert f"swamp show {tmp_path / 'stage.yaml'}" in said[6]
