"""Reading of entries with two fields: seconds of the process for each, beside other libraries.

    python tools/bench_reading.py
    python tools/bench_reading.py --entries 8192 --rounds 9

All programs read the same values from a warm page cache and take turns in one run; times are CPU times, so
that other programs on the machine weigh on none of them. Random access reads single entries in a drawn order,
ours with every checksum compared; shuffled reading makes float32 batches of a shuffled epoch.
mosaicml-streaming is left out where it is not installed. It pins an older numpy: give it an environment of
its own, whose Python finds torch and this package too.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swamp_dist.config import DataSettings
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.seek_reader import SeekReader
from swamp_dist.data.stream import open_stream
from swamp_dist.data.writer import write_shards
from swamp_dist.records import Sample

FIELDS, WIDTHS, BATCH = ("text", "video"), (300, 4096), 256
Program = Callable[[np.ndarray], Any]
"""Reads the entries at these indices, or as many."""


def content(entries: int) -> Iterator[Sample]:
    """Entries in the order in which all programs store them."""
    random = np.random.default_rng(0)
    for number in range(entries):
        rows = (random.standard_normal(width).astype(np.float16) for width in WIDTHS)
        said = {"captions": f"a caption of entry {number}"}
        yield Sample(f"key-{number:06d}", dict(zip(FIELDS, rows, strict=True)), text=said)


def random_access(manifest: Manifest, folder: Path, entries: int) -> dict[str, Program]:
    """Programs that read single entries; each gives the first values of the last one."""
    split = manifest.split("train")
    ours = open_reader(manifest, "train", FIELDS)
    headers = SeekReader(split, manifest.fields, FIELDS)

    def of(reader: Any) -> Program:
        return lambda order: [_values(reader.read([i])[0].arrays) for i in order.tolist()][-1]

    found = {"ours": of(ours), "ours, tar headers parsed (before)": of(headers)}
    if importlib.util.find_spec("streaming") is None:
        print("mosaicml-streaming is not installed here: left out")
        return found
    mosaic = write_mosaic(folder, entries)
    return found | {"mosaicml-streaming": lambda order: [_values(mosaic[i]) for i in order.tolist()][-1]}


def _values(arrays: Any) -> float:
    return float(arrays["text"][0]) + float(arrays["video"][-1])


def write_mosaic(folder: Path, entries: int) -> Any:
    """The same entries as a set of mosaicml-streaming, opened."""
    from streaming import MDSWriter, StreamingDataset

    kinds = {name: f"ndarray:float16:{width}" for name, width in zip(FIELDS, WIDTHS, strict=True)}
    with MDSWriter(out=str(folder), columns=kinds, compression=None, hashes=["xxh3_64"]) as out:
        for sample in content(entries):
            out.write(dict(sample.fields))
    return StreamingDataset(local=str(folder), shuffle=False, batch_size=1)


def shuffled(manifest: Manifest) -> dict[str, Program]:
    """Programs that make batches of a shuffled epoch."""
    import webdataset

    split = manifest.split("train")
    data = DataSettings(shards=manifest.folder, a="text", b="video", entries=BATCH, workers=0)
    plan = plan_batches(BATCH, 1, data.num_lanes, 1, len(split))
    stream = open_stream(manifest, "train", data, plan, seed=0, rank=0)
    steps = iter(range(0, 10**9, 1))

    def ours(order: np.ndarray) -> int:
        first, count = next(steps) * stream.steps_per_epoch, len(order) // BATCH
        return sum(len(batch.ids) for batch in stream.batches(first, first + count))

    def theirs(order: np.ndarray) -> int:
        urls = [str(path) for path in split.shard_paths]
        loader = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=next(steps)).shuffle(1000)
        members = [f"{name}.npy" for name in FIELDS]
        rows = loader.decode(only=members).to_tuple(*members)
        batches = rows.batched(BATCH, partial=False)
        made = (tuple(torch.as_tensor(np.asarray(side)).float() for side in batch) for batch in batches)
        return sum(len(text) for text, _ in made)

    return {"ours": ours, "webdataset": theirs}


def compare(title: str, programs: dict[str, Program], orders: list[np.ndarray]) -> None:
    """Print times of programs that took turns; the first round is not counted.

    Raises:
        SystemExit: two programs gave different answers.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number, order in enumerate(orders):
        answers = set()
        names = list(programs)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = time.process_time()
            answers.add(programs[name](order))
            seconds[name].append(time.process_time() - began)
        if len(answers) > 1:
            raise SystemExit(f"{title}: the programs read different entries: {answers}")
    print(f"\n{title}, {len(orders) - 1} rounds of {len(orders[0]):,} entries")
    for name, took in seconds.items():
        each = statistics.median(took[1:]) / len(orders[0])
        ratios = sorted(theirs / own for theirs, own in zip(took[1:], seconds["ours"][1:], strict=True))
        median = statistics.median(ratios)
        span = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"  {name:34s} {each * 1e6:7.1f} us per entry, {median:5.2f} times ours ({span})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"load {load:.1f} on {os.cpu_count()} cores, torch {torch.__version__}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        samples = content(chosen.entries)
        write_shards({"train": samples}, Path(folder) / "ours", "bench", {}, 512, None)
        manifest = load_manifest(Path(folder) / "ours")
        orders = [np.random.default_rng(i).permutation(chosen.entries) for i in range(chosen.rounds + 1)]
        compare("Random access", random_access(manifest, Path(folder) / "mds", chosen.entries), orders)
        compare("Shuffled reading", shuffled(manifest), orders)


if __name__ == "__main__":
    main()
