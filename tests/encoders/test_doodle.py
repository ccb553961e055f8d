"""The encoders of Doodle2Search: names and shapes of published weights, attention, what batches change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from swamp_dist.config import DoodleCnnSettings, Vgg16BnSettings
from swamp_dist.encoders.networks.doodle import Attention, DoodleNetwork, StillNorm
from swamp_dist.encoders.vgg16_bn import _published_shapes
from swamp_dist.records import InputSpec

SMALL = InputSpec((3, 32, 32), kind="image")
TORCHVISION = {
    0: (64, 3), 3: (64, 64), 7: (128, 64), 10: (128, 128), 14: (256, 128), 17: (256, 256), 20: (256, 256),
    24: (512, 256), 27: (512, 512), 30: (512, 512), 34: (512, 512), 37: (512, 512), 40: (512, 512),
}  # fmt: skip
"""Places of the convolutions in `features` of torchvision's vgg16_bn, each with outputs and inputs."""


def _pixels(rows: int, side: int = 32) -> Tensor:
    return torch.randint(
        256, (rows, 3, side, side), generator=torch.Generator().manual_seed(3), dtype=torch.uint8
    )


def _built(settings: Vgg16BnSettings | DoodleCnnSettings, spec: InputSpec = SMALL) -> DoodleNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = settings.build(spec, 6)
    assert isinstance(network, DoodleNetwork)
    return network


def _file(folder: Path, hidden: int = 8, **changes: Tensor) -> Path:
    """A file as torchvision publishes it, for images of 32 pixels: the last layer classifies."""
    state = _built(Vgg16BnSettings(attention=False, hidden=hidden)).state_dict()
    state = {name: torch.full_like(x, 0.25) for name, x in state.items()}
    state |= {"classifier.6.weight": torch.zeros(1000, hidden), "classifier.6.bias": torch.zeros(1000)}
    save_file(state | changes, folder / "vgg.safetensors")
    return folder / "vgg.safetensors"


def test_names_and_shapes_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        network = Vgg16BnSettings().build(InputSpec((3, 224, 224), kind="image"), 256)
    found = {name: tuple(x.shape) for name, x in network.state_dict().items() if "num_batches" not in name}
    expected: dict[str, tuple[int, ...]] = {
        "classifier.0.weight": (4096, 25088), "classifier.0.bias": (4096,),
        "classifier.3.weight": (4096, 4096), "classifier.3.bias": (4096,),
    }  # fmt: skip
    for place, (outputs, inputs) in TORCHVISION.items():
        expected[f"features.{place}.weight"] = (outputs, inputs, 3, 3)
        expected[f"features.{place}.bias"] = (outputs,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            expected[f"features.{place + 1}.{name}"] = (outputs,)
    assert _published_shapes(49, 4096) == expected
    attention = {
        "attention.wide.weight": (380, 512, 1, 1), "attention.wide.bias": (380,),
        "attention.narrow.weight": (1, 380, 1, 1), "attention.narrow.bias": (1,),
    }  # fmt: skip
    last = {"classifier.6.weight": (256, 4096), "classifier.6.bias": (256,)}
    assert found == expected | attention | last


def test_attention_weighs_places_as_written() -> None:
    attention = Attention(3, 5).double()
    maps = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wide, narrow = attention.wide, attention.narrow
    for row, found in zip(maps, attention(maps), strict=True):
        places = row.flatten(1).T
        hidden = places @ wide.weight.flatten(1).T + wide.bias
        scores = (hidden @ narrow.weight.flatten(1).T + narrow.bias).squeeze(1)
        mask = scores.exp() / scores.exp().sum()
        expected = (places * (1 + mask[:, None])).T.view(3, 2, 4)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_an_embedding_depends_on_no_image_beside_it() -> None:
    for settings in (Vgg16BnSettings(hidden=8, dropout=0), DoodleCnnSettings(dropout=0)):
        network = _built(settings).train()
        pixels = _pixels(3)
        torch.testing.assert_close(network(pixels)[:1], network(pixels[:1]), atol=1e-5, rtol=1e-5)
        state = {name: x.clone() for name, x in network.state_dict().items()}
        network(pixels).sum().backward()
        assert all(torch.equal(x, state[name]) for name, x in network.state_dict().items())
        norms = [x for x in network.modules() if isinstance(x, StillNorm)]
        assert all(not x.training for x in norms)
        assert len(norms) == (13 if isinstance(settings, Vgg16BnSettings) else 0)


def test_pixels_are_scaled_as_named() -> None:
    pixels = _pixels(1)
    network = _built(DoodleCnnSettings(dropout=0))
    imagenet = _built(DoodleCnnSettings(dropout=0, pixels="imagenet"))
    share = pixels.float() / 255
    torch.testing.assert_close(network(pixels), network(share))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = (share - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    torch.testing.assert_close(imagenet(pixels), network(scaled))


def test_weights_of_a_file_are_taken_but_for_the_last_layer(tmp_path: Path) -> None:
    settings = Vgg16BnSettings(hidden=8, weights=_file(tmp_path))
    assert settings.start_problem(SMALL, from_files=True) is None
    network = _built(settings)
    last, attention = network.classifier[-1], network.attention
    assert isinstance(last, nn.Linear)
    assert isinstance(attention, Attention)
    before = last.weight.clone(), attention.wide.weight.clone()
    settings.load_start(network)
    assert torch.equal(last.weight, before[0])
    assert torch.equal(attention.wide.weight, before[1])
    kept = ("classifier.6", "attention", "num_batches")
    taken = {name: x for name, x in network.state_dict().items() if not any(part in name for part in kept)}
    assert len(taken) == 13 * 6 + 4
    assert all(torch.equal(x, torch.full_like(x, 0.25)) for x in taken.values())
    assert settings.own_files(from_files=True) == {"weights": [settings.weights]}
    assert settings.own_files(from_files=False) == {}


def test_other_weights_and_sizes_are_refused_with_the_fix(tmp_path: Path) -> None:
    path = _file(tmp_path)
    large = InputSpec((3, 64, 64), kind="image")
    problem = Vgg16BnSettings(hidden=8, weights=path).start_problem(large, from_files=True)
    assert problem is not None
    assert "takes 512 values of a last map, and images of 64 pixels give 2,048" in problem
    problem = Vgg16BnSettings(hidden=9, weights=path).start_problem(SMALL, from_files=True)
    assert problem is not None
    assert "another model than vgg16_bn of torchvision" in problem
    absent = Vgg16BnSettings(weights=tmp_path / "none.safetensors")
    problem = absent.start_problem(SMALL, from_files=True)
    assert problem is not None
    assert "none.safetensors: no weights there\nFix: weights: null" in problem
    assert f"s.save_file(torch.load('vgg16_bn-6c64b313.pth'), '{absent.weights}')" in problem
    assert absent.start_problem(SMALL, from_files=False) is None


@pytest.mark.parametrize(("settings", "side"), [(Vgg16BnSettings(), 31), (DoodleCnnSettings(), 7)])
def test_images_that_are_too_small_are_refused(
    settings: Vgg16BnSettings | DoodleCnnSettings, side: int
) -> None:
    assert settings.input_problem(InputSpec((3, side + 1, side + 1), kind="image")) is None
    problem = settings.input_problem(InputSpec((3, side, side), kind="image"))
    assert problem is not None
    assert "Fix: " in problem


def test_costs_of_vgg_are_exact() -> None:
    settings = Vgg16BnSettings(hidden=24)
    network, cost = _built(settings), settings.cost(2, SMALL, 6)
    with FlopCounterMode(display=False) as both:
        network(_pixels(2)).sum().backward()
    assert both.get_total_flops() == cost.flops
    assert sum(p.numel() for p in network.parameters()) == cost.parameters
