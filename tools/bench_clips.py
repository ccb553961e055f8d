"""Clips of whole videos: pairs/s of one core beside a loader of whole .npy files, memory, and sizes.

    python tools/bench_clips.py                     # 24 videos of HowTo100M's mean length
    python tools/bench_clips.py --only sizing       # what 1.22 M videos need, at the rates measured here

Both loaders read the same videos from a warm page cache, take the same clips, and take turns in one run;
times are CPU times, so that other programs on the machine weigh on neither. Maxima and word vectors must
be equal or the program fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from whole_file_loader import CAPTIONS, CHANNELS, TOKEN, Raw, W, baseline_video, make_raw

from swamp_dist.config import ClipSettings, DataSettings
from swamp_dist.data.clips import caption_choice
from swamp_dist.data.lanes import permutation, plan_batches
from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.data.pairs import pair_maker
from swamp_dist.data.reader import open_reader
from swamp_dist.data.stream import PairStream, open_stream
from swamp_dist.data.words import open_words, write_word_table
from swamp_dist.data.writer import write_shards
from swamp_dist.records import Sample, Words

PAIRS = 64
VIDEOS, CLIPS = 1_220_000, 136_000_000  # of HowTo100M
FIELDS = ("text", "times", "features_2d", "features_3d")


def make_shards(raw: Raw, folder: Path) -> Manifest:
    """The same videos as a shard set with its word table."""
    rows = {word: i + 1 for i, word in enumerate(raw.vectors)}
    samples = (_sample(raw, key, rows) for key in raw.captions)
    write_shards({"train": samples}, folder, "bench", {}, 50, None, FIELDS)
    manifest = load_manifest(folder)
    words = write_word_table(folder, list(rows), np.stack(list(raw.vectors.values())), "", W)
    record = manifest.record.model_copy(update={"words": words})
    record = record.model_copy(update={"hash": record.content_hash()})
    (folder / "manifest.json").write_text(record.model_dump_json())
    return load_manifest(folder)


def _sample(raw: Raw, key: str, rows: dict[str, int]) -> Sample:
    said = raw.captions[key]
    ids = np.zeros((CAPTIONS, W), np.int32)
    for row, caption in zip(ids, said["text"], strict=True):
        known = [rows[word] for word in TOKEN.findall(caption) if word in rows][:W]
        row[: len(known)] = known
    times = np.stack([said["start"], said["end"]], axis=1).astype(np.float32)
    two, three = (np.load(raw.folder / f"{key}.{part}.npy") for part in ("2d", "3d"))
    fields = {"text": ids, "times": times, "features_2d": two, "features_3d": three}
    return Sample(key, fields, text={"captions": "\n".join(said["text"])})


# -- loading ---------------------------------------------------------------------------------------


def bench_loading(raw: Raw, manifest: Manifest, repetitions: int) -> float:
    """Print pairs/s of one core of both loaders; ours, as a loader process hands its batch over, is
    returned."""
    entries = 8
    torch.set_num_threads(1)
    data = DataSettings(shards=manifest.folder, clips=ClipSettings())
    split, maker = manifest.split("train"), pair_maker(manifest, data, 0)
    plain = replace(maker, is_compiled=False)
    reader = open_reader(manifest, "train", maker.fields)
    seconds: dict[str, list[float]] = {}
    for repetition in range(repetitions + 1):
        took: dict[str, float] = {}
        indices = permutation(len(split), repetition)[:entries]
        made = _timed(took, "ours", lambda i=indices, e=repetition: maker.make(reader, i, e, PAIRS))
        words, pooled = made.a, made.b
        units = _timed(took, "ours, normalised here", lambda rows=pooled: _unit_parts(rows))
        took["ours, normalised here"] += took["ours"]
        _timed(took, "ours, the same output", lambda w=words: w.vectors[w.ids])
        took["ours, the same output"] += took["ours, normalised here"]
        by_numpy = _timed(
            took, "ours, without numba", lambda i=indices, e=repetition: plain.make(reader, i, e, PAIRS)
        )
        if not torch.equal(by_numpy.b, pooled) or not torch.equal(by_numpy.a.ids, words.ids):
            raise SystemExit("compiled code and numpy differ")
        drawn = list(_drawn(split.keys(indices), repetition))
        loaded = {}
        for name, normalize in (("baseline", True), ("baseline without normalising", False)):
            loaded[normalize] = _timed(took, name, lambda d=drawn, n=normalize: _baseline(raw, d, n))
        _compare(words, pooled, units, loaded)
        if repetition > 0:
            for name, value in took.items():
                seconds.setdefault(name, []).append(value)
    rates = {name: entries * PAIRS / statistics.median(values) for name, values in seconds.items()}
    print(
        f"\nLoading, {PAIRS} pairs per video, {entries} videos per batch, one core, warm page cache, CPU time"
    )
    for name, rate in rates.items():
        print(f"  {name:30s} {rate:10,.0f} pairs/s   {rate / rates['baseline']:6.1f} x")
    return rates["ours"]


def open_clips(manifest: Manifest, entries: int) -> PairStream:
    plan = plan_batches(entries, PAIRS, entries, 1, len(manifest.split("train")))
    data = DataSettings(shards=manifest.folder, clips=ClipSettings(), workers=0)
    return open_stream(manifest, "train", data, plan, seed=0, rank=0)


def _timed(took: dict[str, float], name: str, program: Callable[[], Any]) -> Any:
    began = time.process_time()
    result = program()
    took[name] = time.process_time() - began
    return result


def _drawn(keys: list[str], epoch: int) -> Iterator[tuple[str, list[int]]]:
    for key in keys:
        yield key, caption_choice(0, epoch, key, CAPTIONS, PAIRS, True).tolist()


def _baseline(raw: Raw, drawn: list[tuple[str, list[int]]], normalize: bool) -> tuple[Tensor, Tensor]:
    loaded = [baseline_video(raw, key, chosen, normalize) for key, chosen in drawn]
    return torch.cat([clips for clips, _ in loaded]), torch.cat([texts for _, texts in loaded])


def _unit_parts(pooled: Tensor) -> Tensor:
    """What the encoder does on its device: cast, and bring each part to unit length."""
    units = pooled.float()
    for part in units.split(CHANNELS, dim=1):
        part /= torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp_min_(1e-12)
    return units


def _compare(words: Words, pooled: Tensor, units: Tensor, loaded: dict[bool, tuple[Tensor, Tensor]]) -> None:
    if not torch.equal(pooled.float(), loaded[False][0]):
        raise SystemExit("the maxima of both loaders differ")
    if not torch.equal(words.vectors[words.ids], loaded[True][1]):
        raise SystemExit("the word vectors of both loaders differ")
    torch.testing.assert_close(units, loaded[True][0], rtol=1e-6, atol=1e-7)


# -- memory ----------------------------------------------------------------------------------------


def _mapped_kb(folder: Path) -> int:
    """This process's share of the set's mapped files (PSS: a page of n processes counts 1/n in each)."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            ours = str(folder) in line
        elif ours and line.startswith("Pss:"):
            total += int(line.split()[1])
    return total


def _own_kb() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def _load_in_process(folder: Path, pipe: Connection) -> None:
    """Load some batches, then read the whole word table and load on; report when all processes have."""
    manifest = load_manifest(folder)
    stream, table = open_clips(manifest, 4), open_words(manifest)
    assert table is not None
    _consume(stream, 0)
    before = _own_kb()
    float(table.rows.sum())
    _consume(stream, 8)
    pipe.send("loaded")
    pipe.recv()
    pipe.send((_mapped_kb(folder), _own_kb() - before))
    pipe.recv()


def _consume(stream: PairStream, first: int) -> None:
    for _ in stream.batches(first, first + 8):
        pass


def bench_memory(manifest: Manifest) -> None:
    """Print what word table, captions and index take in 1, 2 and 4 loader processes together."""
    context = multiprocessing.get_context("spawn")
    words = manifest.record.words
    assert words is not None
    print(
        f"\nMemory of word table ({words.bytes / 1e6:.1f} MB), captions and index, all loader processes "
        "together"
    )
    for count in (1, 2, 4):
        pipes = [context.Pipe() for _ in range(count)]
        targets = [(manifest.folder, theirs) for _, theirs in pipes]
        processes = [context.Process(target=_load_in_process, args=target) for target in targets]
        for process in processes:
            process.start()
        for ours, _ in pipes:
            ours.recv()
        found = []
        for ours, _ in pipes:  # all are still there when the first is asked
            ours.send("how much")
            found.append(ours.recv())
        for (ours, _), process in zip(pipes, processes, strict=True):
            ours.send("end")
            process.join()
        mapped, own = (sum(each[i] for each in found) * 1024 / 1e6 for i in (0, 1))
        print(
            f"  {count} processes: mapped (PSS) {mapped:6.1f} MB, further memory of their own {own:6.1f} MB"
        )


# -- sizes -----------------------------------------------------------------------------------------


def sizing(manifest: Manifest, build_rate: float, pairs_rate: float) -> None:
    """Print what the whole of HowTo100M needs at the rates of this run."""
    record = manifest.record.splits["train"]
    entry = record.bytes / record.entries
    index = sum((manifest.folder / f"{name}.index.npy").stat().st_size for name in manifest.splits)
    total = VIDEOS * entry
    print(f"\nHowTo100M: {VIDEOS:,} videos, {CLIPS:,} clips; {entry / 1e6:.3f} MB per entry as measured")
    print(
        f"  shards: {total / 1e12:.2f} TB, {-(-VIDEOS // 250):,} of 250 videos ({250 * entry / 1e9:.2f} GB)"
    )
    print(f"  index: {VIDEOS * (index - 128) / record.entries / 1e6:.0f} MB, mapped")
    print(f"  build: {build_rate / 1e6:.0f} MB/s per core: {total / build_rate / 3600:.1f} core hours")
    epoch = VIDEOS * PAIRS / pairs_rate / 3600
    print(f"  an epoch at {pairs_rate:,.0f} pairs/s per core: {epoch:.1f} core hours")
    for gpus, milliseconds in ((1, 100), (8, 50), (32, 50)):
        videos = 32 * max(1, gpus // 8) / gpus / (milliseconds / 1e3)
        print(
            f"  {gpus} GPUs, {32 * max(1, gpus // 8)} videos x {PAIRS} in {milliseconds} ms: "
            f"{videos * PAIRS:,.0f} pairs/s, "
            f"{videos * entry / 1e6:,.0f} MB/s, {videos * PAIRS / pairs_rate:.2f} cores per GPU"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--vocabulary", type=int, default=66_250)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--only", choices=["loading", "memory", "sizing"], action="append")
    chosen = parser.parse_args()
    only = chosen.only or ["loading", "memory", "sizing"]
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        raw = make_raw(Path(folder), chosen.videos, chosen.vocabulary)
        began = time.process_time()
        manifest = make_shards(raw, Path(folder) / "shards")
        build_rate = manifest.record.splits["train"].bytes / (time.process_time() - began)
        needs_rate = {"loading", "sizing"} & set(only)
        pairs_rate = bench_loading(raw, manifest, chosen.repetitions) if needs_rate else 0.0
        if "memory" in only:
            bench_memory(manifest)
        if "sizing" in only:
            sizing(manifest, build_rate, pairs_rate)


if __name__ == "__main__":
    main()
