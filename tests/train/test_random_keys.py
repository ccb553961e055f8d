"""Keys of masks, and the generators that are started with them."""

from __future__ import annotations

import pytest
import torch

from swamp_dist.train.random_keys import micro_batch_random_key, seed_dropout, step_random_key


@pytest.mark.parametrize("key", [0, 1, 2**31, 2**32 + 7, 2**63 - 1])
def test_the_generator_starts_as_by_manual_seed(key: int) -> None:
    torch.manual_seed(key)
    expected = torch.rand(8)
    torch.rand(3)
    seed_dropout(key, torch.device("cpu"))
    assert torch.equal(torch.rand(8), expected)


def test_another_device_starts_with_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    class Module:
        def __init__(self, kind: str) -> None:
            self.kind = kind

        def manual_seed(self, key: int) -> None:
            asked.append((self.kind, key))

    monkeypatch.setattr(torch, "get_device_module", lambda device: Module(device.type))
    seed_dropout(5, torch.device("cuda", 1))
    assert asked == [("cuda", 5)]


def test_keys_differ() -> None:
    keys = {step_random_key(seed, step, rank) for seed in (0, 1) for step in range(5) for rank in range(5)}
    assert len(keys) == 50
    assert len({micro_batch_random_key(7, number) for number in range(100)}) == 100
