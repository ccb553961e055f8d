from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity

from swamp_dist.train import plain_optimizers
from swamp_dist.train.plain_optimizers import BLOCK, plain

KINDS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.Adam, {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8}),
    (torch.optim.Adam, {"lr": 0.01, "fused": True}),
    (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True, "foreach": False}),
]


def trained(kind: type[torch.optim.Optimizer], settings: dict[str, Any], steps: int, resume: bool) -> Any:
    """Weights and state after so many steps, with a second group; saved and loaded half-way if asked."""
    draw = torch.Generator().manual_seed(3)
    weights = [torch.nn.Parameter(torch.randn(5, 3, generator=draw)) for _ in range(2)]
    make = lambda: kind([{"params": weights[:1]}, {"params": weights[1:], "lr": 0.1}], **settings)  # noqa: E731
    optimizer = make()
    for step in range(steps):
        if resume and step == steps // 2:
            state = optimizer.state_dict()
            optimizer = make()
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        inputs = torch.randn(7, 5, generator=draw)
        (inputs @ weights[0] * (inputs @ weights[1]).tanh()).square().mean().backward()
        optimizer.step()
    return [w.detach() for w in weights], optimizer.state_dict()


@pytest.mark.parametrize(("kind", "settings"), KINDS)
@pytest.mark.parametrize("resume", [False, True])
def test_weights_and_state_are_those_of_torch_bit_by_bit(
    kind: type[torch.optim.Optimizer], settings: dict[str, Any], resume: bool
) -> None:
    ours, theirs = trained(plain(kind), settings, 6, resume), trained(kind, settings, 6, False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_large_parameters_are_updated_in_blocks_bit_by_bit(
    kind: type[torch.optim.Optimizer], settings: dict[str, Any], frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below, at and above a block, one that is not contiguous, one without gradient, and a float64."""
    monkeypatch.setattr(plain_optimizers, "BLOCK", 64)

    def run(kind: type[torch.optim.Optimizer]) -> Any:
        draw = torch.Generator().manual_seed(0)
        shapes = [(63,), (64,), (65,), (7, 50), (1,)]
        weights = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
        weights.append(torch.nn.Parameter(torch.randn(20, 10, generator=draw).t()))
        weights.append(torch.nn.Parameter(torch.randn(130, generator=draw, dtype=torch.float64)))
        optimizer = kind(weights, **settings)
        for step in range(4):
            for number, weight in enumerate(weights):
                gradient = torch.randn(weight.shape, generator=draw, dtype=weight.dtype)
                weight.grad = None if frozen and (number + step) % 3 == 0 else gradient
            optimizer.step()
        return [w.detach() for w in weights], optimizer.state_dict()

    torch.testing.assert_close(run(plain(kind)), run(kind), rtol=0, atol=0)


def test_a_step_without_any_gradient_changes_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(BLOCK + 1))
    plain(torch.optim.Adam)([weight]).step()
    assert torch.equal(weight, torch.ones(BLOCK + 1))


def test_no_tensor_of_an_update_is_larger_than_a_block() -> None:
    """What makes it faster: torch makes two tensors of its own as large as what it is given."""
    weight = torch.nn.Parameter(torch.ones(5 * BLOCK))
    optimizer = plain(torch.optim.Adam)([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()  # makes the moments
    with torch.profiler.profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as told:
        optimizer.step()
    largest = max(event.self_cpu_memory_usage / max(event.count, 1) for event in told.key_averages())
    assert 4 * BLOCK <= largest <= 8 * BLOCK


def test_it_is_one_class_per_optimiser_of_its_name_and_kind() -> None:
    ours = plain(torch.optim.Adam)
    assert ours is plain(torch.optim.Adam)
    assert issubclass(ours, torch.optim.Adam)
    assert ours.__name__ == "Adam"
    assert plain(torch.optim.AdamW) is not ours


def test_hooks_of_a_step_are_called_once_each_and_a_closure_has_gradients() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer, called = plain(torch.optim.Adam)([weight]), []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))

    def loss() -> float:
        value = weight.sum()
        value.backward()
        return value.item()

    assert optimizer.step(loss) == 2.0
    assert called == ["before", "after"]
    assert (weight < 1).all()


def test_a_rank_starts_without_torchs_compiler_and_without_mlflow() -> None:
    """Both cost more than all that a rank needs, and mlflow leaves a thread behind."""
    program = """
import json, os, sys, torch
from swamp_dist.distributed import alone
from swamp_dist.train.deepspeed_library import import_deepspeed
from swamp_dist.train import plain_optimizers
from swamp_dist.train.plain_optimizers import BLOCK, plain
import_deepspeed(alone())
threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1
weight = torch.nn.Parameter(torch.ones(2))
optimizer = plain(torch.optim.Adam)([weight])
optimizer.zero_grad()
weight.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
unwanted = [name for name in ("torch._dynamo", "torch._inductor", "sympy", "mlflow") if name in sys.modules]
print(json.dumps([threads, unwanted]))
"""
    # numpy's products have threads of their own, as many as there are cores unless they are told so.
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=one_thread).stdout
    assert json.loads(said.splitlines()[-1]) == [1, []]
