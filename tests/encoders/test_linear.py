"""One linear layer over vectors and sets, against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.config import CnnSettings, LinearSettings
from swamp_dist.encoders.networks.cnn import Cnn
from swamp_dist.encoders.networks.linear import Linear
from swamp_dist.records import InputSpec, Sets

VECTOR, REGIONS = InputSpec((4,)), InputSpec((4,), kind="set")


def built(unit: bool = False) -> Linear:
    torch.manual_seed(0)
    network = LinearSettings(unit=unit).build(REGIONS, 3)
    assert isinstance(network, Linear)
    return network.double()


def literal(network: Linear, x: torch.Tensor, unit: bool) -> torch.Tensor:
    """W x + b, and its unit vector, value by value."""
    weight, bias = network.fc.weight, network.fc.bias
    row = torch.stack([sum((weight[o, i] * x[i] for i in range(4)), bias[o]) for o in range(3)])
    return row / row.square().sum().sqrt() if unit else row


@pytest.mark.parametrize("unit", [False, True])
def test_elements_and_vectors_are_mapped_alike(unit: bool) -> None:
    network, x = built(unit), torch.randn(2, 3, 4, dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found, vectors = network(Sets(x, mask)), network(x[:, 0])
    assert found.mask is mask
    for i, j in mask.nonzero().tolist():
        torch.testing.assert_close(
            found.values[i, j], literal(network, x[i, j], unit), rtol=1e-12, atol=1e-14
        )
    plain = torch.stack([literal(network, row, False) for row in x[:, 0]])
    torch.testing.assert_close(vectors, plain, rtol=1e-12, atol=1e-14)  # DualEncoder brings it to unit length
    parameters = list(network.parameters())
    theirs = torch.stack([literal(network, x[i, j], unit) for i, j in mask.nonzero().tolist()])
    pulled = torch.randn_like(theirs)
    sums = [(found.values[mask] * pulled).sum(), (theirs * pulled).sum()]
    for one, two in zip(*(torch.autograd.grad(each, parameters) for each in sums), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-13)


def test_it_starts_as_published() -> None:
    network = LinearSettings().build(InputSpec((2048,), kind="set"), 1024)
    assert isinstance(network, Linear)
    bound = math.sqrt(6 / (2048 + 1024))
    weight = network.fc.weight.detach()
    assert 0.999 * bound < float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not network.fc.bias.detach().any()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 4))
def test_padding_and_batch_mates_never_change_a_number(lengths: list[int], more: int) -> None:
    network = built(unit=True)
    mask = torch.arange(max(lengths) + more) < torch.tensor(lengths).unsqueeze(1)
    values = torch.randn(*mask.shape, 4, dtype=torch.float64)
    found = network(Sets(values, mask))
    for i, length in enumerate(lengths):
        alone = network(Sets(values[i : i + 1, :length], mask[i : i + 1, :length]))
        torch.testing.assert_close(alone.values[0], found.values[i, :length], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("unit", [False, True])
def test_places_of_a_map_are_a_set_whose_mean_is_the_vector(unit: bool) -> None:
    torch.manual_seed(0)
    spec, pixels = InputSpec((3, 20, 20), kind="image"), torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8)
    places = CnnSettings(depth=2, width=4, places=True, unit=unit).build(spec, 6)
    plain = CnnSettings(depth=2, width=4).build(spec, 6)
    assert isinstance(places, Cnn)
    plain.load_state_dict(places.state_dict())
    found, vectors = places(pixels), plain(pixels)
    assert isinstance(found, Sets)
    assert found.values.shape == (2, 25, 6)
    assert found.mask.all()
    if unit:
        torch.testing.assert_close(found.values.norm(dim=2), torch.ones(2, 25))
    else:
        torch.testing.assert_close(found.values.mean(1), vectors, rtol=1e-4, atol=1e-5)
    maps = places.convolutions((pixels / 255 - 0.5) / 0.5)
    first = places.project(maps[:, :, 0, 1])
    torch.testing.assert_close(found.values[:, 1], first / first.norm(dim=1, keepdim=True) if unit else first)


def test_unit_places_are_of_a_set() -> None:
    with pytest.raises(ValueError, match="unit = true is of the places of a set: set places = true"):
        CnnSettings(unit=True)
