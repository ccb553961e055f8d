"""Models of timm: their own pixels, weights from a file, frozen parts, costs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from swamp_dist.config import TimmSettings
from swamp_dist.encoders.libraries import import_timm, library_problem
from swamp_dist.encoders.networks.timm import TimmNetwork
from swamp_dist.records import InputSpec

MISSING = library_problem("timm", "timm")
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
IMAGE = InputSpec((3, 96, 96), kind="image")
DIM = 6


def _built(settings: TimmSettings, spec: InputSpec = IMAGE) -> TimmNetwork:
    torch.manual_seed(0)
    network = settings.build(spec, DIM)
    assert isinstance(network, TimmNetwork)
    return network


def _pixels(rows: int = 2, side: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (rows, 3, side, side), generator=generator).to(torch.uint8)


def _file(folder: Path, name: str, **changes: Any) -> Path:
    """A whole model as timm publishes it, classifier included, without BatchNorm's counts of batches."""
    torch.manual_seed(7)
    state = {k: v for k, v in import_timm().create_model(name).state_dict().items() if "num_batches" not in k}
    save_file({**state, **changes}, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def test_weights_of_a_file_and_pixels_of_the_model_give_timms_own_features(tmp_path: Path) -> None:
    settings = TimmSettings(name="test_resnet.r160_in1k", weights=_file(tmp_path, "test_resnet"))
    assert settings.start_problem(IMAGE, from_files=True) is None
    network = _built(settings)
    random = network.timm.conv1[0].weight.clone()
    settings.load_start(network)
    assert not torch.equal(network.timm.conv1[0].weight, random)
    torch.manual_seed(7)
    whole = import_timm().create_model("test_resnet.r160_in1k", pretrained=False).eval()
    configured = import_timm().data.resolve_data_config(model=whole)
    mean, deviation = (torch.tensor(configured[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    scaled = (_pixels().float() / 255 - mean) / deviation
    expected = whole.forward_head(whole.forward_features(scaled), pre_logits=True)
    torch.testing.assert_close(network.eval().timm(scaled), expected)
    torch.testing.assert_close(network(_pixels()), network.project(expected))


@pytest.mark.parametrize("train", ["all", "none", 1, 2])
def test_frozen_parts_have_no_gradient_stay_in_evaluation_mode_and_keep_their_statistics(
    train: Any, tmp_path: Path
) -> None:
    network = _built(TimmSettings(name="test_resnet", train=train))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(_pixels()).square().sum().backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1).step()
    moved = {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert moved <= trained  # no statistic of BatchNorm moves, whatever is trained
    assert {"project.weight", "project.bias"} <= moved
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    last = {"none": set(), 1: {"layer4"}, 2: {"layer3", "layer4"}}
    parts = {name.split(".")[1] for name in trained if name.startswith("timm.")}
    assert parts == last.get(train, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"})
    assert network.timm.training == (train != "none")
    assert network.timm.layer1.training == (train == "all")
    modes = [module.training for module in network.modules()]
    assert not any(module.training for module in network.eval().modules())
    assert [module.training for module in network.train().modules()] == modes


def test_an_embedding_depends_on_its_own_image_alone() -> None:
    network = _built(TimmSettings(name="test_resnet")).train()
    rows = network(_pixels(4))
    torch.testing.assert_close(network(_pixels(4)[:1]), rows[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
@pytest.mark.parametrize("train", ["all", "none", 1])
def test_costs_are_those_of_the_network(name: str, train: Any) -> None:
    side = 160 if name == "test_vit" else 96
    settings, spec = TimmSettings(name=name, train=train), InputSpec((3, side, side), kind="image")
    cost, network = settings.cost(2, spec, DIM), _built(settings, spec).train()
    with sdpa_kernel(SDPBackend.MATH):  # torch counts no operation of a CPU's fused attention
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            network(_pixels(2, side))
        with FlopCounterMode(display=False) as both:
            network(_pixels(2, side)).sum().backward()
    assert cost.forward_flops == pytest.approx(forward.get_total_flops(), rel=0.01)
    assert cost.flops == pytest.approx(both.get_total_flops(), rel=0.05)
    assert cost.parameters == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert cost.frozen_parameters == sum(p.numel() for p in network.parameters() if not p.requires_grad)
    assert (cost.frozen_parameters > 0) == (train != "all")


def test_kept_values_are_those_that_are_saved() -> None:
    settings = TimmSettings(name="test_resnet")
    network, saved = _built(settings).train(), dict[int, Tensor]()
    own = {x.untyped_storage().data_ptr() for x in (*network.parameters(), *network.buffers())}

    def keep(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        rows = network(_pixels())
    held = sum(x.untyped_storage().nbytes() for place, x in saved.items() if place not in own)
    assert rows.requires_grad
    assert 0.9 * held < 4 * settings.cost(2, IMAGE, DIM).saved_floats < 1.1 * held


def test_what_is_not_there_or_does_not_fit_is_named(tmp_path: Path) -> None:
    def problem(**settings: Any) -> str:
        return TimmSettings(**settings).start_problem(IMAGE, from_files=True) or ""

    assert "no model 'test_resnot' in timm.\nNearest names: test_resnet" in problem(name="test_resnot")
    assert "no model 'hf-hub:timm/resnet18'" in problem(name="hf-hub:timm/resnet18")
    assert "Fix: data.images.size=160" in problem(name="test_vit")
    assert "would leave random weights" in problem(name="test_resnet", train="none")
    assert "no weights there" in problem(name="test_resnet", weights=tmp_path / "absent")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x80\x04no weights")
    assert "not a readable safetensors" in problem(
        name="test_resnet", weights=tmp_path / "damaged.safetensors"
    )
    other = problem(name="test_resnet", weights=_file(tmp_path, "test_efficientnet"))
    assert "holds weights of another model than test_resnet:\n  conv1.0.weight: missing in the file" in other
    assert " more\nFix: name the model that the weights belong to" in other
    odd = _file(tmp_path, "test_resnet", **{"bn1.weight": torch.zeros(3)})
    assert "bn1.weight: shape (3,) in the file, (" in problem(name="test_resnet", weights=odd)
    settings = TimmSettings(name="test_resnet", weights=tmp_path / "absent", train="none")
    assert settings.start_problem(IMAGE, from_files=False) is None  # a later stage brings its own weights


def test_a_missing_library_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    problem = TimmSettings(name="test_vit2").start_problem(IMAGE, from_files=True)
    assert problem is not None
    assert "pip install 'swamp-dist[encoders]'" in problem
