from __future__ import annotations

import hashlib
import os
import resource
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from swamp_dist.cli import app
from swamp_dist.config import GatedSettings, MlpSettings, ModelSettings, WordsSettings
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.records import InputSpec
from swamp_dist.train.howto100m_weights import (
    model_section,
    published_tensors,
    read_published,
    write_published,
)
from swamp_dist.train.weights import Weights, load_into, load_weights, save_weights
from swamp_dist.train.weights_record import recorded_sha256
from tests.end_to_end.command import flip
from tests.published_model import PublishedNet

E, S, VIDEO, WORD = 6, 4, 10, 5


def published(path: Path, sentence_dim: int | None = S, legacy: bool = True) -> PublishedNet:
    torch.manual_seed(0)
    net = PublishedNet(E, VIDEO, WORD, sentence_dim)
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    return net


def model(a: Any = None, b: Any = None, prototypes: int | None = None) -> DualEncoder:
    a, b = a or WordsSettings(sentence_dim=S), b or GatedSettings()
    specs = [InputSpec((3,), WORD) if side.kind == "words" else InputSpec((VIDEO,)) for side in (a, b)]
    settings = ModelSettings(embedding_dim=E, a=a, b=b)
    return build_dual_encoder(settings, *specs, prototypes, normalize_prototypes=True, seed=1)


def swamp(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("legacy", [True, False])
def test_a_published_file_becomes_weights_that_load_strictly_and_goes_back_exactly(
    tmp_path: Path, legacy: bool
) -> None:
    net = published(tmp_path / "net.pth", legacy=legacy)
    done = swamp("import", tmp_path / "net.pth", "--out", tmp_path / "imported")
    assert done.exit_code == 0, done.output
    assert "embedding_dim: 6" in done.output
    assert "sentence_dim: 4" in done.output
    assert "unit_parts: [5, 5]" in done.output
    weights = load_weights(tmp_path / "imported")
    assert weights.metadata["sha256"] == hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    assert weights.metadata["embedding_dim"] == "6"
    load_into(model(), weights, tmp_path, "auto")

    done = swamp("export", tmp_path / "imported", "--out", tmp_path / "back.pth")
    assert done.exit_code == 0, done.output
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert type(back) is OrderedDict
    expected = net.state_dict()
    assert list(back) == list(expected)
    for name, value in expected.items():
        assert torch.equal(back[name], value), name
        assert back[name].dtype == value.dtype


def test_text_may_be_the_other_modality(tmp_path: Path) -> None:
    published(tmp_path / "net.pth")
    weights = read_published(tmp_path / "net.pth", "b")
    load_into(model(GatedSettings(), WordsSettings(sentence_dim=S)), weights, tmp_path, "auto")
    assert "a: {kind: gated, unit_parts: [5, 5]}" in model_section(weights, "b")
    again = published_tensors(weights, tmp_path)
    assert torch.equal(again["GU_video.fc.weight"], weights.tensors["a.fc.weight"])


def test_a_trained_model_is_exported_without_its_prototypes(tmp_path: Path) -> None:
    ours = model(prototypes=7)
    save_weights(tmp_path / "weights.safetensors", ours.state_dict(), {})
    done = swamp("export", tmp_path, "--out", tmp_path / "out.pth")
    assert done.exit_code == 0, done.output
    assert "prototypes" in done.output
    reference = PublishedNet(E, VIDEO, WORD, S)
    with torch.no_grad():
        for value in reference.state_dict().values():
            value.fill_(9)
    reference.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True), strict=True)
    fresh = torch.nn.BatchNorm1d(E).state_dict()
    for name, value in fresh.items():
        assert torch.equal(reference.GU_text.cg.batch_norm.state_dict()[name], value)
    assert torch.equal(reference.GU_video.fc.weight, ours.b.fc.weight)


def test_only_words_and_gated_have_a_published_form(tmp_path: Path) -> None:
    for a, b in ((GatedSettings(), GatedSettings()), (None, MlpSettings())):
        weights = Weights(dict(model(a, b).state_dict()), {})
        with pytest.raises(UserError, match=r"one encoder of kind words and one of kind gated"):
            published_tensors(weights, tmp_path)


def test_nothing_that_exists_is_replaced(tmp_path: Path) -> None:
    published(tmp_path / "net.pth")
    assert swamp("import", tmp_path / "net.pth", "--out", tmp_path / "w").exit_code == 0
    before = (tmp_path / "w" / "weights.safetensors").read_bytes()
    again = swamp("import", tmp_path / "net.pth", "--out", tmp_path / "w")
    assert again.exit_code == 2
    assert "is not replaced" in again.output
    assert (tmp_path / "w" / "weights.safetensors").read_bytes() == before
    kept = swamp("export", tmp_path / "w", "--out", tmp_path / "net.pth")
    assert kept.exit_code == 2
    assert "is not replaced" in kept.output
    with pytest.raises(UserError, match="could not be written"):
        write_published(tmp_path / "absent" / "x.pth", OrderedDict())
    assert "a or b" in swamp("import", tmp_path / "net.pth", "--out", tmp_path / "x", "--text", "c").output


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [True, False])
def test_code_inside_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = {"GU_text.fc.weight": _Code(tmp_path / "ran")}
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"more than tensors \(\w+\.mkdir\); code in it is never run"):
        read_published(tmp_path / "net.pth")
    assert not (tmp_path / "ran").exists()


def _broken(change: str, state: dict[str, Any]) -> Any:
    fc = state["GU_video.cg.fc.weight"]
    match change:
        case "missing":
            del state["GU_text.cg.batch_norm.bias"]
        case "unexpected":
            state["module.x"] = fc
        case "shape":
            state["GU_video.cg.fc.weight"] = fc[:, :-1].clone()
        case "not a matrix":
            state["GU_text.fc.weight"] = fc[0].clone()
        case "half":
            state["GU_video.cg.fc.weight"] = fc.half()
        case "expanded":
            state["GU_video.cg.fc.weight"] = fc[:1].expand(E, E)
        case "nan":
            fc[0, 0] = float("nan")
        case "wrapped":
            return {"state_dict": state, "epoch": 3}
        case "list":
            return [fc]
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "GU_text.cg.batch_norm.bias: missing"),
        ("unexpected", "module.x: unexpected"),
        ("shape", r"GU_video.cg.fc.weight: shape \(6, 5\), expected \(6, 6\)"),
        ("not a matrix", "GU_text.fc.weight: expected a matrix, found shape"),
        ("half", "GU_video.cg.fc.weight: torch.float16, expected torch.float32"),
        ("expanded", "GU_video.cg.fc.weight: expected a plain, contiguous tensor"),
        ("nan", "GU_video.cg.fc.weight: holds values that are not finite"),
        ("wrapped", "found state_dict, epoch"),
        ("list", "found list"),
    ],
)
def test_what_is_not_the_published_model_is_named(tmp_path: Path, change: str, message: str) -> None:
    state = dict(published(tmp_path / "net.pth").state_dict())
    torch.save(_broken(change, state), tmp_path / "net.pth")
    with pytest.raises(UserError, match=message):
        read_published(tmp_path / "net.pth")


@pytest.mark.parametrize("legacy", [True, False])
def test_damaged_files_are_named_wherever_they_are_cut(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "net.pth"
    published(path, legacy=legacy)
    whole = path.read_bytes()
    for size in range(0, len(whole), 41):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"net\.pth"):
            read_published(path)
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(UserError, match=r"net\.pth"):
        read_published(path)
    with pytest.raises(UserError, match="no checkpoint there"):
        read_published(tmp_path / "absent.pth")


def test_a_full_disk_under_an_export_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # a full disk, for this process alone
    try:
        with pytest.raises(UserError, match=r"(?s)x\.pth could not be written.*File too large.*ulimit -f"):
            write_published(tmp_path / "x.pth", OrderedDict(a=torch.ones(100_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_imported_weights_that_change_are_refused(tmp_path: Path) -> None:
    published(tmp_path / "net.pth")
    assert swamp("import", tmp_path / "net.pth", "--out", tmp_path / "w").exit_code == 0
    path = tmp_path / "w" / "weights.safetensors"
    assert load_weights(path).sha256 == recorded_sha256(path)
    flip(path, path.stat().st_size - 1)
    refused = swamp("export", tmp_path / "w", "--out", tmp_path / "again.pth")
    assert refused.exit_code == 2
    assert "has changed since it was written" in refused.output
