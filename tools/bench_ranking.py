"""Time and memory of retrieval ranks beside the published evaluation, which sorts every row of scores.

    python tools/bench_ranking.py                             # 3,350 items of D 4,096 (YouCook2's test set)
    python tools/bench_ranking.py --items 10000 --dim 512
    python tools/bench_ranking.py --items 10000 --dim 512 --classes 25          # class relevance: mAP
    python tools/bench_ranking.py --items 50000 --dim 512 --rounds 0            # memory, and one time

The programs take turns in one process; times are seconds of that process, so that other programs on the
machine weigh little. `whole` is the product included: norms, products, counts here, one float32 product and
the sort there. Median ranks (mAP with classes) must agree or the program fails.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist.evaluate import ranking
from swamp_dist.evaluate.counts import count_by_float32
from swamp_dist.evaluate.gallery import Gallery, open_gallery
from swamp_dist.evaluate.scores import float32_bound, float32_scores, row_norms

Result = TypeVar("Result")


def make_rows(items: int, dim: int, signal: float) -> tuple[Tensor, Tensor]:
    """Unit rows of two sides; the score of a pair is about `signal` standard deviations of the others'."""
    generator = torch.Generator().manual_seed(0)
    a, noise = torch.randn(2, items, dim, generator=generator).unbind(0)
    a = functional.normalize(a, dim=1)
    return a, functional.normalize(noise.div_(dim**0.5).add_(a, alpha=signal / dim**0.5), dim=1)


def tiles(items: int) -> Iterator[slice]:
    """Rows of every tile of queries."""
    return (slice(i, i + ranking.QUERY_TILE) for i in range(0, items, ranking.QUERY_TILE))


def published_ranks(scores: np.ndarray) -> np.ndarray:
    """The published rule: where the sorted row equals the diagonal's value."""
    ordered = np.sort(-scores, axis=1)
    return np.where(ordered - np.diag(-scores)[:, None] == 0)[1]


def our_ranks(a: Tensor, b: Tensor, groups: Tensor, cutoffs: tuple[int, ...] | None) -> Tensor:
    """Raw figures of all queries, a gallery opened included."""
    gallery = open_gallery(b, groups)
    return torch.cat([ranking.rank_tile(a[i], groups[i], gallery, cutoffs) for i in tiles(len(a))])


class Clock:
    """Process seconds of each program, round by round."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def run(self, name: str, program: Callable[[], Result]) -> Result:
        start = time.process_time()
        found = program()
        self.seconds.setdefault(name, []).append(time.process_time() - start)
        return found

    def ratios(self, above: str, below: str) -> str:
        """Median and range of the rounds' ratios."""
        found = [x / y for x, y in zip(self.seconds[above], self.seconds[below], strict=True)]
        return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def count_round(clock: Clock, a: Tensor, groups: Tensor, gallery: Gallery) -> None:
    """What is left to do once the scores are there, of one round."""
    bound = float32_bound(row_norms(a), float(gallery.norms.max()), a.shape[1])
    spent = 0.0
    for i in tiles(len(a)):
        scores = float32_scores(a[i], gallery.rows)
        start = time.process_time()
        count_by_float32(scores, bound[i], a[i], groups[i], gallery)
        spent += time.process_time() - start
    clock.seconds.setdefault("our counts", []).append(spent)


def compare_pairs(a: Tensor, b: Tensor, rounds: int) -> None:
    """Pair relevance: counts beside the sort, and both with their products."""
    clock, groups = Clock(), torch.arange(len(a))
    gallery = open_gallery(b, groups)
    for _ in range(rounds):
        scores = clock.run("product", lambda: (a @ b.T).numpy())
        places = clock.run("sort", lambda scores=scores: published_ranks(scores))
        found = clock.run("ours", lambda: our_ranks(a, b, groups, None)).sum(dim=1)
        count_round(clock, a, groups, gallery)
        clock.seconds["theirs"] = [
            x + y for x, y in zip(clock.seconds["product"], clock.seconds["sort"], strict=True)
        ]
        medians = float(found.median()), float(np.median(places))
        assert abs(medians[0] - medians[1]) <= 1, medians
    print(f"  median rank {float(found.median()) + 1:.0f}")
    for name, seconds in clock.seconds.items():
        print(f"  {name:<12} {statistics.median(seconds):.3f} s")
    print(f"  sort / our counts   {clock.ratios('sort', 'our counts')}")
    print(f"  our whole / theirs  {clock.ratios('ours', 'theirs')}")


def full_sort_map(scores: Tensor, relevant: Tensor) -> float:
    """mAP by the usual full argsort of every row."""
    order = np.argsort(-scores.numpy(), axis=1)
    hits = np.take_along_axis(relevant.numpy(), order, axis=1)
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(axis=1) / hits.sum(axis=1)).mean())


def compare_classes(a: Tensor, b: Tensor, classes: int, rounds: int) -> None:
    """Class relevance: ranks, mAP, P@100 and both mAP@100 beside mAP by full argsorts."""
    clock, groups = Clock(), torch.arange(len(a)) % classes

    def theirs() -> float:
        found = [full_sort_map(a[i] @ b.T, groups[i, None] == groups) * len(a[i]) for i in tiles(len(a))]
        return sum(found) / len(a)

    for _ in range(rounds):
        expected = clock.run("theirs", theirs)
        found = clock.run("ours", lambda: our_ranks(a, b, groups, ranking.Cutoffs((100,))))
        assert abs(float(found[:, 2].mean()) - expected) < 1e-6
    for name, seconds in clock.seconds.items():
        print(f"  {name:<12} {statistics.median(seconds):.3f} s")
    print(f"  our whole / theirs  {clock.ratios('ours', 'theirs')}")


def peak_bytes() -> int:
    """Most memory that this process held since the last reset."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_memory(a: Tensor, b: Tensor, classes: int | None) -> None:
    """Most resident memory beyond what the embeddings and the program take."""
    groups = torch.arange(len(a)) % (classes or len(a))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident
    before, start = peak_bytes(), time.process_time()
    our_ranks(a, b, groups, None if classes is None else (100,))
    seconds = time.process_time() - start
    mebibytes = (peak_bytes() - before) / 2**20
    print(f"  ours: {mebibytes:.0f} MiB beyond the embeddings, {seconds:.1f} s of the process")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=3350)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument(
        "--signal", type=float, default=2.3, help="0: random; 2.3: median rank 1% of the items"
    )
    parser.add_argument("--classes", type=int, help="class relevance with this number of classes")
    parser.add_argument("--rounds", type=int, default=5, help="0: memory alone")
    chosen = parser.parse_args()
    a, b = make_rows(chosen.items, chosen.dim, chosen.signal)
    size = f"{chosen.items} x {chosen.items}, D = {chosen.dim}"
    print(f"{size}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    if chosen.rounds == 0:
        measure_memory(a, b, chosen.classes)
    elif chosen.classes is None:
        compare_pairs(a, b, chosen.rounds)
    else:
        compare_classes(a, b, chosen.classes, chosen.rounds)


if __name__ == "__main__":
    main()
