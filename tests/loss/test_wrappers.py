"""The examples of `swamp_dist/loss/README.md` on two ranks: each wrapper trains as one process does."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from swamp_dist.distributed import World, alone
from swamp_dist.train.deepspeed_library import import_deepspeed
from tests.ranks import run_on_ranks

README = Path(__file__).parents[2] / "swamp_dist" / "loss" / "README.md"
EXAMPLES = dict(
    re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", README.read_text(), re.DOTALL | re.MULTILINE)
)
BATCH, WIDTH, DIM, STEPS = 8, 5, 8, 4


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, DIM), nn.Linear(WIDTH, DIM)
        random = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=random))

    def forward(self, texts: Tensor, videos: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(texts), self.b(videos)


def batches(world: World) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    random = torch.Generator().manual_seed(2)
    local = BATCH // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    for step in range(STEPS):
        texts, videos = torch.randn(2, BATCH, WIDTH, generator=random)
        yield texts[mine], videos[mine], (step * BATCH + torch.arange(BATCH))[mine]


def run(world: World, name: str) -> tuple[dict[str, Any], list[float]]:
    """The names that an example leaves, and what it prints."""
    if name == "DeepSpeed":
        import_deepspeed(world)  # so that it compiles nothing
    said, names = io.StringIO(), {"torch": torch, "model": Towers(), "batches": batches(world)}
    with contextlib.redirect_stdout(said):
        exec(EXAMPLES[name], names)
    return names, [float(line) for line in said.getvalue().splitlines() if re.fullmatch(r"[\d.]+", line)]


def _losses(world: World, examples: list[str]) -> list[list[float]]:
    return [run(world, name)[1] for name in examples]


@pytest.fixture(scope="module")
def one_process() -> list[float]:
    """The losses of the plain example, without what it does for more ranks."""
    lines = EXAMPLES["Plain torch"].splitlines(keepends=True)
    kept = [line for line in lines if "torch.distributed" not in line and "for parameter" not in line]
    assert len(lines) - len(kept) == 3
    EXAMPLES["one process"] = "".join(kept)
    found = run(alone(), "one process")[1]
    assert len(found) == STEPS
    return found


def test_there_is_an_example_for_every_wrapper() -> None:
    assert list(EXAMPLES)[:4] == ["Plain torch", "DistributedDataParallel", "FSDP2", "DeepSpeed"]


def test_plain_torch_and_ddp_train_as_one_process_does(one_process: list[float]) -> None:
    for rank in run_on_ranks(_losses, 2, ["Plain torch", "DistributedDataParallel"]):
        for found in rank:
            assert found == pytest.approx(one_process, rel=1e-5)


def _next_losses(world: World, trainings: list[Any]) -> list[float]:
    texts, videos, items = next(batches(world))
    return [float(training(texts, videos, items).loss.detach()) for training in trainings]


def _fsdp(world: World) -> tuple[list[float], list[float]]:
    """Losses of the example, and of the step after it: by itself, and by a copy from its full state_dict."""
    from torch.distributed.checkpoint import state_dict as states
    from torch.distributed.fsdp import fully_shard

    names, found = run(world, "FSDP2")
    whole = states.StateDictOptions(full_state_dict=True)
    saved = states.get_model_state_dict(names["training"], options=whole)
    names["model"] = Towers()
    with torch.device("meta"):
        again = names["Training"]()
    assert again.loss.prototypes.weight.is_meta
    fully_shard(again).to_empty(device="cpu")
    again.loss.reset_parameters()
    states.set_model_state_dict(again, saved, options=whole)
    return found, _next_losses(world, [names["training"], again])


def _deepspeed(world: World, folder: Path) -> tuple[list[float], list[float]]:
    """The same through DeepSpeed's own checkpoint."""
    names, found = run(world, "DeepSpeed")
    names["engine"].save_checkpoint(str(folder), tag="x")
    names["model"] = Towers()
    training = names["Training"]()
    optimizer = torch.optim.SGD(training.parameters(), lr=0.01)
    again, *_ = names["deepspeed"].initialize(model=training, optimizer=optimizer, config=names["config"])
    again.load_checkpoint(str(folder), tag="x")
    return found, _next_losses(world, [names["engine"], again])


@pytest.mark.slow
def test_fsdp2_trains_as_one_process_does_and_goes_on(one_process: list[float]) -> None:
    for found, (expected, resumed) in run_on_ranks(_fsdp, 2):
        assert found == pytest.approx(one_process, rel=1e-5)
        assert resumed == expected


@pytest.mark.slow
def test_deepspeed_trains_as_one_process_does_and_goes_on(one_process: list[float], tmp_path: Path) -> None:
    for found, (expected, resumed) in run_on_ranks(_deepspeed, 2, tmp_path):
        assert found == pytest.approx(one_process, rel=1e-5)
        assert resumed == expected
