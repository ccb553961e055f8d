"""Clips of whole videos: pairs/s of one core beside a loader of whole .npy files, memory, and sizes.

    python tools/bench_clips.py                     # 24 videos of HowTo100M's mean length
    python tools/bench_clips.py --only sizing       # what 1.22 M videos need, at the rates measured here

Both loaders read the same videos from a warm page cache, take the same clips, and take turns in one run;
times are CPU times, so that other programs on the machine weigh on neither. Maxima and word vectors must be equal or the program fails. The baseline is written here after the
published loader's described behaviour: both arrays of a video are read whole and cast to float32, a
torch.max and a normalisation a clip, a dictionary of words.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import ClipSettings
from swamp_dist.data.clips import caption_choice
from swamp_dist.data.lanes import permutation, plan_batches
from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.data.pairs import pair_maker
from swamp_dist.data.reader import open_reader
from swamp_dist.data.stream import PairStream, open_stream
from swamp_dist.data.words import open_words, write_word_table
from swamp_dist.data.writer import write_shards
from swamp_dist.records import Sample, Words

SECONDS, RATES, CHANNELS, CAPTIONS, PAIRS, W, DIM = 390, (1.0, 1.5), 2048, 110, 64, 20, 300
VIDEOS, CLIPS = 1_220_000, 136_000_000  # of HowTo100M
FIELDS = ("text", "times", "features_2d", "features_3d")
TOKEN = re.compile(r"[\w']+")


@dataclass(frozen=True)
class Raw:
    """What the baseline reads: folders of .npy files, captions and vectors as Python objects."""

    folder: Path
    captions: dict[str, dict[str, list]]
    vectors: dict[str, np.ndarray]


def make_raw(folder: Path, videos: int, vocabulary: int) -> Raw:
    """Non-negative unit rows in float16, captions of 1 to 12 words by Zipf's law, one in ten unknown."""
    random = np.random.default_rng(0)
    table = random.standard_normal((vocabulary, DIM)).astype(np.float32)
    vectors = {f"word{i}": row for i, row in enumerate(table)}
    captions = {}
    for number in range(videos):
        key = f"v{number:05d}"
        for part, rate in zip(("2d", "3d"), RATES, strict=True):
            rows = np.abs(random.standard_normal((int(SECONDS * rate), CHANNELS), dtype=np.float32))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            np.save(folder / f"{key}.{part}.npy", rows.astype(np.float16))
        starts = np.round(np.sort(random.uniform(0, SECONDS - 6, CAPTIONS)), 2).astype(np.float32)
        ends = starts + np.float32(3.5)
        said = [_caption(random, vocabulary) for _ in starts]
        captions[key] = {
            "start": starts.astype(float).tolist(),
            "end": ends.astype(float).tolist(),
            "text": said,
        }
    return Raw(folder, captions, vectors)


def _caption(random: np.random.Generator, vocabulary: int) -> str:
    words = (vocabulary ** random.random(int(random.integers(1, 13)))).astype(int) - 1  # Zipf's law
    return " ".join(f"word{i}" if random.random() > 0.1 else "unknown" for i in words)


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


# -- the baseline ----------------------------------------------------------------------------------


def baseline_video(raw: Raw, key: str, chosen: Iterable[int], normalize: bool) -> tuple[Tensor, Tensor]:
    """(64, 4096) pooled features and (64, 20, 300) word vectors of one video."""
    said = raw.captions[key]
    two = torch.from_numpy(np.load(raw.folder / f"{key}.2d.npy")).float()
    three = torch.from_numpy(np.load(raw.folder / f"{key}.3d.npy")).float()
    clips, texts = [], []
    for caption in chosen:
        words, start, end = _baseline_growth(said, caption)
        texts.append(_baseline_words(raw, words))
        halves = []
        for rows, rate in ((two, RATES[0]), (three, RATES[1])):
            part = rows[int(start * rate) : int(end * rate) + 1]
            pooled = torch.max(part, dim=0)[0] if len(part) else torch.zeros(CHANNELS)
            halves.append(functional.normalize(pooled, dim=0) if normalize else pooled)
        clips.append(torch.cat(halves))
    return torch.stack(clips), torch.stack(texts)


def _baseline_growth(said: dict[str, list], caption: int) -> tuple[list[str], float, float]:
    starts, ends = said["start"], said["end"]
    first = last = caption
    words = TOKEN.findall(said["text"][caption])
    while ends[last] - starts[first] < 5.0 and (first > 0 or last < len(ends) - 1):
        if last == len(ends) - 1:
            back = True
        elif first == 0:
            back = False
        else:
            back = ends[last] - starts[first - 1] <= ends[last + 1] - starts[first]
        first, last = (first - 1, last) if back else (first, last + 1)
        words = words + TOKEN.findall(said["text"][first if back else last])
    return words, starts[first], ends[last]


def _baseline_words(raw: Raw, words: list[str]) -> Tensor:
    known = [raw.vectors[word] for word in words if word in raw.vectors][:W]
    text = torch.zeros(W, DIM)
    if known:
        text[: len(known)] = torch.from_numpy(np.stack(known))
    return text


# -- loading ---------------------------------------------------------------------------------------


def bench_loading(raw: Raw, manifest: Manifest, repetitions: int) -> float:
    """Print pairs/s of one core of both loaders; ours, as a loader process hands its batch over, is returned."""
    entries = 8
    torch.set_num_threads(1)
    split, maker = manifest.split("train"), pair_maker(manifest, "text", "video", 0, ClipSettings())
    reader = open_reader(manifest, "train", maker.fields)
    seconds: dict[str, list[float]] = {}
    for repetition in range(repetitions + 1):
        took: dict[str, float] = {}
        indices = permutation(len(split), repetition)[:entries]
        words, pooled = _timed(took, "ours", lambda i=indices, e=repetition: maker.make(reader, i, e, PAIRS))
        units = _timed(took, "ours, normalised here", lambda rows=pooled: _unit_parts(rows))
        took["ours, normalised here"] += took["ours"]
        drawn = list(_drawn(split.keys(indices), repetition))
        loaded = {}
        for name, normalize in (("baseline", True), ("baseline without normalising", False)):
            loaded[normalize] = _timed(took, name, lambda d=drawn, n=normalize: _baseline(raw, d, n))
        _compare(words, pooled, units, loaded)
        if repetition > 0:
            for name, value in took.items():
                seconds.setdefault(name, []).append(value)
    rates = {name: entries * PAIRS / statistics.median(values) for name, values in seconds.items()}
    print(f"\nLoading, {PAIRS} pairs a video, {entries} videos a batch, a core, warm page cache, CPU time")
    for name, rate in rates.items():
        print(f"  {name:30s} {rate:10,.0f} pairs/s   {rate / rates['baseline']:6.1f} x")
    return rates["ours"]


def open_clips(manifest: Manifest, entries: int) -> PairStream:
    plan = plan_batches(entries, PAIRS, entries, 1, len(manifest.split("train")))
    return open_stream(manifest, "train", "text", "video", plan, 0, 0, clips=ClipSettings())


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
    return torch.cat(
        [functional.normalize(part, dim=1) for part in pooled.float().split(CHANNELS, dim=1)], dim=1
    )


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
        f"\nMemory of word table ({words.bytes / 1e6:.1f} MB), captions and index, all loader processes together"
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
    print(f"\nHowTo100M: {VIDEOS:,} videos, {CLIPS:,} clips; {entry / 1e6:.3f} MB an entry as measured")
    print(
        f"  shards: {total / 1e12:.2f} TB, {-(-VIDEOS // 250):,} of 250 videos ({250 * entry / 1e9:.2f} GB)"
    )
    print(f"  index: {VIDEOS * (index - 128) / record.entries / 1e6:.0f} MB, mapped")
    print(f"  build: {build_rate / 1e6:.0f} MB/s a core: {total / build_rate / 3600:.1f} core hours")
    print(
        f"  an epoch at {pairs_rate:,.0f} pairs/s a core: {VIDEOS * PAIRS / pairs_rate / 3600:.1f} core hours"
    )
    for gpus, milliseconds in ((1, 100), (8, 50), (32, 50)):
        videos = 32 * max(1, gpus // 8) / gpus / (milliseconds / 1e3)
        print(
            f"  {gpus} GPUs, {32 * max(1, gpus // 8)} videos x {PAIRS} in {milliseconds} ms: {videos * PAIRS:,.0f} pairs/s, "
            f"{videos * entry / 1e6:,.0f} MB/s, {videos * PAIRS / pairs_rate:.2f} cores a GPU"
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
