"""Models of transformers in a folder: tokens, pooling, weights, frozen parts, costs, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from swamp_dist.config import HfTextSettings
from swamp_dist.encoders.libraries import import_transformers, library_problem
from swamp_dist.encoders.networks.hf_text import HfTextNetwork
from swamp_dist.records import InputSpec, Tokens
from tests.encoders.tiny_text_models import save_text_model

MISSING = library_problem("transformers", "hf_text")
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
TEXT = InputSpec((), kind="text")
TEXTS = ["The red cat sits", "a dog runs on the grass, unhappyly", "", "cat"]
DIM = 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A DistilBERT, and a BERT saved with a head, as many published ones are."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: save_text_model(folder / kind, kind) for kind in ("distilbert", "bert")}


def _network(settings: HfTextSettings) -> HfTextNetwork:
    torch.manual_seed(3)
    network = settings.build(TEXT, DIM)
    assert isinstance(network, HfTextNetwork)
    settings.load_start(network)
    return network


@pytest.mark.parametrize("kind", ["distilbert", "bert"])
def test_hidden_states_are_those_of_transformers_and_each_pooling_takes_its_part(
    folders: dict[str, Path], kind: str
) -> None:
    transformers = import_transformers()
    whole = transformers.AutoModel.from_pretrained(folders[kind], local_files_only=True).eval()
    own = transformers.AutoTokenizer.from_pretrained(folders[kind], local_files_only=True)
    for pooling in ("mean", "cls", "last"):
        settings = HfTextSettings(folder=folders[kind], pooling=pooling)  # type: ignore[arg-type]
        assert settings.start_problem(TEXT, from_files=True) is None
        network = _network(settings).eval()
        rows = network(settings.tokenizer()(TEXTS))
        for row, text in enumerate(TEXTS):
            states = whole(**own(text, return_tensors="pt")).last_hidden_state[0]
            expected = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
            torch.testing.assert_close(rows[row], network.project(expected), rtol=1e-4, atol=1e-5)


def test_tokens_are_cut_padded_pickled_and_the_same_beside_any_text(folders: dict[str, Path]) -> None:
    tokenizer = HfTextSettings(folder=folders["bert"], max_tokens=5).tokenizer()
    tokens = tokenizer(TEXTS)
    assert tokens.ids.shape == (4, 5)
    assert tokens.mask.sum(1).tolist() == [5, 5, 2, 3]
    assert tokens.ids[0].tolist()[0] == 2
    assert tokens.ids[0].tolist()[-1] == 3  # a text that is cut still ends with its mark
    again = pickle.loads(pickle.dumps(tokenizer))(TEXTS[3:])
    assert again.ids.tolist() == [[2, 8, 3]]
    assert again.ids[0].tolist() == tokens.ids[3, :3].tolist()


def test_padding_changes_a_row_by_rounding_alone(folders: dict[str, Path]) -> None:
    settings = HfTextSettings(folder=folders["distilbert"])
    network, tokens = _network(settings).eval().double(), settings.tokenizer()(TEXTS)
    wide = Tokens(*(torch.cat([x, torch.zeros(4, 9, dtype=x.dtype)], dim=1) for x in tokens))
    wide.ids[:, -9:] = 7
    torch.testing.assert_close(network(wide), network(tokens), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("train", ["all", "none", 1])
def test_frozen_layers_and_costs(folders: dict[str, Path], train: Any) -> None:
    settings = HfTextSettings(folder=folders["bert"], train=train, max_tokens=7)
    network = _network(settings).train()
    tokens = Tokens(torch.full((5, 7), 9), torch.ones(5, 7, dtype=torch.bool))
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        network(tokens)
    with FlopCounterMode(display=False) as both:
        network(tokens).square().sum().backward()
    cost = settings.cost(5, TEXT, DIM)
    assert cost.forward_flops == forward.get_total_flops()
    assert cost.flops == both.get_total_flops()
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in network.named_parameters() if p.grad is not None}
    assert cost.parameters == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert cost.frozen_parameters == sum(p.numel() for p in network.parameters() if not p.requires_grad)
    layers = {name.split(".")[3] for name in trained if ".layer." in name}
    assert layers == {"all": {"0", "1", "2"}, "none": set(), 1: {"2"}}[train]
    assert ("transformer.embeddings.word_embeddings.weight" in trained) == (train == "all")
    assert network.transformer.embeddings.training == (train == "all")  # type: ignore[union-attr]


def test_files_of_early_releases_and_in_parts_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(folders["bert"] / "model.safetensors")
    early = {n.replace("LayerNorm.weight", "LayerNorm.gamma"): x for n, x in tensors.items()}
    early["bert.embeddings.position_ids"] = torch.arange(64)
    names = sorted(early)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((folders["bert"] / file).read_bytes())
    for file, part in parts.items():
        save_file({name: early[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = HfTextSettings(folder=tmp_path)
    assert settings.start_problem(TEXT, from_files=True) is None
    found, whole = (_network(HfTextSettings(folder=f)).state_dict() for f in (tmp_path, folders["bert"]))
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    save_file({"bert.encoder.layer.3.output.dense.bias": torch.zeros(16)}, tmp_path / "two.safetensors")
    said = str(settings.start_problem(TEXT, from_files=True))
    assert "missing in the file" in said
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../other.safetensors"}}')
    assert "names files outside of its folder" in str(settings.start_problem(TEXT, from_files=True))


def test_what_is_not_there_or_does_not_fit_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    def problem(folder: Path, from_files: bool = True, **settings: Any) -> str:
        return HfTextSettings(folder=folder, **settings).start_problem(TEXT, from_files) or ""

    def copied(name: str, *left_out: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in folders["distilbert"].iterdir():
            if file.name not in left_out:
                (folder / file.name).write_bytes(file.read_bytes())
        return folder

    assert "no config.json there" in problem(tmp_path / "absent")
    assert "no files of a tokenizer" in problem(copied("no tokenizer", "tokenizer.json"))
    pickled = copied("pickled", "model.safetensors")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "Pickled weights (pytorch_model.bin) are not read" in problem(pickled)
    assert problem(pickled, from_files=False) == ""  # a later stage brings its own weights
    damaged = copied("damaged")
    (damaged / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be read" in problem(damaged)
    code = copied("code")
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (code / "config.json").write_text(json.dumps(config))
    (code / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "not a model that transformers knows" in problem(code)
    assert not (tmp_path / "ran").exists()
    assert "knows 64 places.\nFix: max_tokens = 64 at most" in problem(folders["bert"], max_tokens=65)
    other = copied("other")
    (other / "model.safetensors").write_bytes((folders["bert"] / "model.safetensors").read_bytes())
    said = problem(other)
    assert "holds weights of another model than config.json describes:" in said
    assert "missing in the file" in said
