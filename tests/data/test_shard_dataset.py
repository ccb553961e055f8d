"""`ShardDataset` in a plain DataLoader: the order of a stage, each entry once, going on in mid-epoch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from swamp_dist import Sample, ShardDataset, ShardWriter, UserError
from swamp_dist.config import DataSettings
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.stream import open_stream
from tests.data.shard_sets import build

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
ENTRIES, BATCH, SEED = 37, 8, 5
STEPS = ENTRIES // BATCH


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return build(tmp_path_factory.mktemp("sets") / "tiny", {"train": ENTRIES}, items=(3, 1))


def dataset(manifest: Manifest, **more: Any) -> ShardDataset:
    return ShardDataset(manifest.folder, batch=BATCH, seed=SEED, **{"rank": 0, "world_size": 1} | more)


def batches(data: ShardDataset, workers: int = 0, **more: Any) -> list[dict[str, Any]]:
    return list(DataLoader(data, batch_size=data.local_batch, num_workers=workers, **more))


def ids(found: list[dict[str, Any]]) -> list[list[int]]:
    return [batch["__index__"].tolist() for batch in found]


@pytest.mark.parametrize(("size", "workers"), [(1, 0), (2, 0), (1, 3)])
def test_batches_are_those_of_a_stage(manifest: Manifest, size: int, workers: int) -> None:
    settings = DataSettings(shards=manifest.folder, a="a", b="b", entries=BATCH, workers=0)
    plan = plan_batches(BATCH, 1, settings.num_lanes, size, ENTRIES)
    for rank in range(size):
        stream = open_stream(manifest, "train", settings, plan, seed=SEED, rank=rank)
        data = dataset(manifest, rank=rank, world_size=size)
        assert (len(data), data.steps, data.local_batch) == (STEPS * BATCH // size, STEPS, BATCH // size)
        for epoch in range(2):
            data.set_epoch(epoch)
            expected = stream.batches(epoch * STEPS, (epoch + 1) * STEPS)
            for found, wanted in zip(batches(data, workers), expected, strict=True):
                assert torch.equal(found["__index__"], wanted.ids)
                assert wanted.labels is not None
                assert torch.equal(found["__label__"], wanted.labels)
                for field, side in (("a", wanted.a), ("b", wanted.b)):
                    assert isinstance(side, Tensor)
                    assert torch.equal(found[field], side)
                assert found["__key__"] == stream.blend.keys(wanted.ids.numpy())


def test_each_entry_comes_once_whatever_is_loaded_how(manifest: Manifest) -> None:
    expected = sorted(index for batch in ids(batches(dataset(manifest))) for index in batch)
    assert len(set(expected)) == len(expected) == STEPS * BATCH
    parts = [batches(dataset(manifest, rank=rank, world_size=2), workers=rank) for rank in range(2)]
    assert sorted(i for part in parts for batch in ids(part) for i in batch) == expected
    loader = DataLoader(dataset(manifest), batch_size=3, num_workers=2)
    assert sorted(i for batch in ids(list(loader)) for i in batch) == expected


def test_processes_that_live_on_hear_of_the_next_epoch(manifest: Manifest) -> None:
    data, alone = dataset(manifest), dataset(manifest)
    loader = DataLoader(data, batch_size=BATCH, num_workers=2, persistent_workers=True)
    seen = []
    for epoch in (0, 1, 3):
        data.set_epoch(epoch)
        alone.set_epoch(epoch)
        seen.append(ids(list(loader)))
        assert seen[-1] == ids(batches(alone))
    assert seen[0] != seen[1] != seen[2]


def test_it_goes_on_in_the_middle_of_an_epoch(manifest: Manifest) -> None:
    data = dataset(manifest)
    data.set_epoch(2)
    whole = [sample["__index__"] for sample in data]
    again = iter(data)
    first = [next(again)["__index__"] for _ in range(13)]
    state = data.state_dict()
    assert (state["epoch"], state["step"], state["entry"]) == (2, 1, 5)
    other = dataset(manifest)
    other.load_state_dict(state)
    assert first + [sample["__index__"] for sample in other] == whole
    other.set_epoch(2)
    assert [sample["__index__"] for sample in other] == whole
    for workers in (0, 2, 3):
        other.load_state_dict({"epoch": 2, "step": 2})
        assert sum(ids(batches(other, workers)), []) == whole[2 * BATCH :]
    other.load_state_dict({"epoch": 2, "step": STEPS})
    assert batches(other, 2) == []


@pytest.mark.filterwarnings("ignore")  # of torchdata, about names of torch
def test_a_loader_that_keeps_its_state_goes_on(manifest: Manifest) -> None:
    library = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is not installed: its loader is not tried"
    )

    def make() -> tuple[ShardDataset, Any]:
        data = dataset(manifest)
        return data, library.StatefulDataLoader(data, batch_size=BATCH, num_workers=2)

    data, loader = make()
    data.set_epoch(1)
    whole = ids(list(loader))
    data, loader = make()
    data.set_epoch(1)
    running = iter(loader)
    first = ids([next(running) for _ in range(3)])
    state = loader.state_dict()
    _, other = make()
    other.load_state_dict(state)
    assert first + ids(list(other)) == whole


def test_entries_by_index_and_all_items(manifest: Manifest) -> None:
    data = dataset(manifest, items="all", fields=["a"])
    found = data.entry(4)
    assert found.keys() == {"a", "__key__", "__index__", "__label__"}
    number = int(found["__key__"].removeprefix("key-"))
    expected = torch.tensor([number + item / 100 for item in range(3)])
    torch.testing.assert_close(found["a"], expected[:, None].expand(3, 3))
    found["a"] += 1  # a copy
    assert not torch.equal(found["a"], data.entry(4)["a"])
    with pytest.raises(IndexError, match="the split has 37 entries"):
        data.entry(ENTRIES)


def test_images_and_texts_are_handed_on(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (255, 0, 0)).save(buffer, "PNG")
    with ShardWriter(tmp_path / "raw") as out:
        for i in range(4):
            fields = {"image": buffer.getvalue(), "text": f"caption {i}", "x": np.zeros(2, np.float32)}
            out.write(Sample(f"k{i}", fields), "train")
    (batch,) = batches(ShardDataset(tmp_path / "raw", batch=4))
    assert batch["image"] == [buffer.getvalue()] * 4
    assert sorted(batch["text"]) == [f"caption {i}" for i in range(4)]
    assert batch["x"].shape == (4, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "trian"}, "no split 'trian'"),
        ({"fields": ["c"]}, "no field 'c'"),
        ({"batch": 38}, "more than the 37 entries"),
        ({"world_size": 3, "rank": 0}, "3 ranks do not divide"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"rank": 0}, "belong together"),
        ({"workers": 2}, "unknown workers"),
        ({"lanes": 3}, "lanes = 3 does not divide"),
        ({"cache": "disk"}, "cache"),
    ],
)
def test_what_does_not_fit_is_refused(manifest: Manifest, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ShardDataset(manifest.folder, **{"batch": BATCH} | arguments)


def test_states_that_do_not_fit_are_refused(manifest: Manifest) -> None:
    data = dataset(manifest)
    for state, words in (
        ({"epoch": 1}, "expected a state of"),
        ({"epoch": 0, "step": 9}, "an epoch has 4 steps of 8 entries"),
        ({"epoch": 0, "step": 0, "entry": 8}, "another batch"),
    ):
        with pytest.raises(UserError, match=words):
            data.load_state_dict(state)
    data.load_state_dict({"epoch": 0, "step": 1, "entry": 2, "worker": 1, "workers": 2})
    with pytest.raises(UserError, match="loader process 1 of 2, this is process 0 of 1"):
        next(iter(data))
    data.load_state_dict({"epoch": 0, "step": 1, "entry": 2})
    with pytest.raises(UserError, match="in the middle of step 1"):
        batches(data, 2)
