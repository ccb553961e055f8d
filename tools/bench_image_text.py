"""Seconds of a training batch and of a whole test for PAR and for SCAN's cross attention: Tables 6 and 12.

    python tools/bench_image_text.py                     # sizes of Flickr30K's test: 1,000 x 5,000
    python tools/bench_image_text.py --block 100         # cross attention on 100 x 500 of the pairs: short

Simulated regions and captions of the published sizes, the same for all programs, which take turns in one
process. Encoders are the same too: a Linear over regions, a bidirectional GRU over words. PAR makes an
embedding of a set and compares by one product; SCAN i-t AVG scores every pair of sets. `SCAN` is our
`sets: {kind: cross_attention}`; `SCAN, loop` goes caption by caption as the published code does
(`caption_loop.py`), and both must give the same scores. Cross attention costs the same for every pair, so
what was measured on a block of the pairs is multiplied up to all of them; the blocks are printed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from bench_step import print_machine, take_turns, timed
from caption_loop import loop_scores
from torch import Tensor
from torch.nn import functional

from swamp_dist.config import (
    CrossAttentionSettings,
    EngineSettings,
    EvaluateSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
)
from swamp_dist.distributed import World, join, leave
from swamp_dist.evaluate.embedding import Embedded, EncodedSets
from swamp_dist.evaluate.retrieval import evaluate_embedded, evaluate_scores
from swamp_dist.evaluate.scores import float32_scores
from swamp_dist.evaluate.set_rows import PairScores, SetRows, join_set_rows, score_all, set_rows
from swamp_dist.model.cross_attention import pair_scores
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.objective.objective import build_objective
from swamp_dist.objective.set_objective import SetObjective
from swamp_dist.objective.term import StepObjective
from swamp_dist.product_library import training_products
from swamp_dist.records import BatchPlan, Inputs, InputSpec, Sets, Tokens, take_rows
from swamp_dist.train.engine import Engine

PUBLISHED = """
Published (Tables 6 and 12), seconds on one RTX 2080 Ti. A training batch of 128 pairs, Flickr30K / MS-COCO:
SCAN i-t AVG 0.35 / 0.33, PAR with SwAMP 0.09 / 0.08. Whole tests, encoding included: Flickr30K (1,000 x
5,000) 336.9 and 3.8, 89 times; MS-COCO (5,000 x 25,000) 9,352.0 and 25.9, 361 times; its 1K test 350.3 and
16.3, 21 times."""
I_T_AVG = CrossAttentionSettings(queries="a", softmax_scale=4.0, aggregate="mean")
"""Regions, modality a, attend to words."""
CAPTIONS = 5
"""Of an image."""
CHUNK = 128
"""Items encoded at a time, as published."""
Models = tuple[ModelSettings, ModelSettings]  # PAR's and SCAN's
Result = TypeVar("Result")


@dataclass(frozen=True)
class Data:
    """Simulated images and captions; caption i belongs to image i // CAPTIONS."""

    regions: Sets
    captions: Tokens
    region_values: int
    vocabulary: int


def make_data(images: int, regions: int, values: int, vocabulary: int, device: torch.device) -> Data:
    """Captions have 6 + Poisson(8) words, both marks included: 14 on average; in the two sets 13 to 16."""
    random = torch.Generator().manual_seed(0)
    lengths = 6 + torch.poisson(torch.full((images * CAPTIONS,), 8.0), generator=random).long()
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.randint(1, vocabulary + 1, mask.shape, generator=random).masked_fill(~mask, 0)
    features = torch.rand(images, regions, values, generator=random)
    there = torch.ones(images, regions, dtype=torch.bool)
    sets, tokens = Sets(features.to(device), there.to(device)), Tokens(ids.to(device), mask.to(device))
    return Data(sets, tokens, values, vocabulary)


def make_model(data: Data, sets: object, dim: int) -> ModelSettings:
    """SCAN's encoders, with what becomes of their sets."""
    image = {"kind": "linear", "unit": True, "elements": data.regions.mask.shape[1]}
    text = {"kind": "gru", "output": "words", "unit": True, "buckets": data.vocabulary}
    return ModelSettings.model_validate({"embedding_dim": dim, "a": image, "b": text, "sets": sets})


def dim_of(model: ModelSettings) -> int:
    assert model.embedding_dim is not None
    return model.embedding_dim


def build(data: Data, model: ModelSettings, prototypes: int | None = None) -> DualEncoder:
    specs = InputSpec((data.region_values,), kind="set"), InputSpec((), kind="text")
    return build_dual_encoder(model, *specs, prototypes, normalize_prototypes=True, seed=0)


# -- training --------------------------------------------------------------------------------------


def training_step(
    data: Data, model: ModelSettings, pairs: int, swamp: float, score: PairScores | None, world: World
) -> Callable[[], None]:
    """One update on the same pairs of different images: sum of hinges with the hardest negatives, gradient
    norm cut to 2, Adam. `score`: of sets, instead of a product of embeddings."""
    queue = {"size": 1280, "counts_batch": False}
    given = {
        "contrastive": {"form": "hardest", "margin": 0.2, "reduction": "sum"},
        "swamp": {"weight": swamp, "prototypes": 1000, "temperature": 0.025, "queue": queue},
    }
    settings, plan = ObjectiveSettings.model_validate(given), BatchPlan(pairs, 1, pairs, world.size)
    encoder = build(data, model, settings.swamp.prototypes if swamp > 0 else None)
    engine = Engine(encoder, OptimizerSettings(clip_norm=2.0), EngineSettings(), pairs, world)
    objective = _objective(settings, plan, dim_of(model), score, world)
    ids = torch.arange(pairs, device=world.device)
    a, b = take_rows(data.regions, ids), take_rows(data.captions, ids * CAPTIONS)
    steps = iter(range(10**9))

    def step() -> None:
        with training_products(engine.product_library):
            terms = objective(engine.embed_pairs(a, b), ids, ids, next(steps), world)
            engine.backward(terms.total)
        engine.step(2e-4)

    return step


def _objective(
    settings: ObjectiveSettings, plan: BatchPlan, dim: int, score: PairScores | None, world: World
) -> StepObjective:
    """The objective, its queue filled as after the first steps."""
    if score is not None:
        return SetObjective(settings, plan, score)
    objective = build_objective(settings, plan, dim, world.device)
    if (queue := objective.queue) is not None:
        rows = functional.normalize(torch.randn(2, queue.capacity, dim, device=world.device), dim=2)
        queue.push(rows[0], rows[1], torch.arange(queue.capacity, device=world.device), step=0)
    return objective


def bench_training(data: Data, models: Models, pairs: int, repetitions: int, world: World) -> None:
    par, scan = models
    ours = partial(pair_scores, rules=I_T_AVG)
    programs: dict[str, Callable[[], object]] = {
        "PAR": training_step(data, par, pairs, 0.0, None, world),
        "PAR with SwAMP": training_step(data, par, pairs, 1.0, None, world),
        "SCAN": training_step(data, scan, pairs, 0.0, ours, world),
        "SCAN, loop": training_step(data, scan, pairs, 0.0, loop_scores, world),
    }
    found = take_turns(programs, repetitions)
    print(f"\nA training batch of {pairs} pairs, medians of {repetitions}")
    for name, seconds in found.items():
        ratio = seconds / found["PAR with SwAMP"]
        print(f"  {name:16s} {seconds:8.3f} s   {ratio:6.2f} x PAR with SwAMP")


# -- the test --------------------------------------------------------------------------------------


def encoded(encode: DualEncoder, data: Data) -> tuple[list[Any], list[Any]]:
    """What the encoders give for all images and all captions, chunk by chunk."""

    def side(inputs: Inputs, count: int, is_a: bool) -> Iterator[Tensor | Sets]:
        for i in range(0, count, CHUNK):
            rows = take_rows(inputs, slice(i, i + CHUNK))
            if isinstance(rows, Tokens):  # padded to the longest of the chunk, as batches are
                longest = int(rows.mask.sum(1).max())
                rows = Tokens(rows.ids[:, :longest], rows.mask[:, :longest])
            yield encode(rows, None) if is_a else encode(None, rows)

    with torch.no_grad():
        images = list(side(data.regions, len(data.regions.mask), True))
        return images, list(side(data.captions, len(data.captions.mask), False))


class Seconds:
    """Of every part of a program, round by round, of all pairs."""

    def __init__(self) -> None:
        self._spent: dict[tuple[str, str], list[float]] = {}

    def run(self, program: str, part: str, work: Callable[[], Result], times: float = 1.0) -> Result:
        """Does the work, which is one of so many `times` that there are."""
        spent, found = timed(work)
        self._spent.setdefault((program, part), []).append(spent * times)
        return found

    def median(self, program: str, part: str) -> float:
        return statistics.median(self._spent[program, part])


def bench_test(data: Data, models: Models, blocks: tuple[int, int], rounds: int, world: World) -> None:
    """`blocks`: images, with their captions, that SCAN and its loop are measured on; 0: all."""
    images, seconds = len(data.regions.mask), Seconds()
    par, scan = (build(data, model).to(world.device).eval() for model in models)
    measured = tuple(min(block or images, images) for block in blocks)
    for _ in range(rounds):
        scores = _test_par(par, data, seconds, world)
        _test_scan(scan, data, scores, measured, seconds, world)
    print(f"\nA test of {images:,} images and {images * CAPTIONS:,} captions, seconds, medians of {rounds}")
    print("  program       encoding   similarity        whole   similarity measured on")
    similar = {name: seconds.median(name, "similarity") for name in ("PAR", "SCAN", "SCAN, loop")}
    wholes = {"PAR": seconds.median("PAR", "encoding") + seconds.median("PAR", "evaluation")}
    for name, size in zip(similar, (images, *measured), strict=True):
        encoding = seconds.median("PAR" if name == "PAR" else "SCAN", "encoding")
        if name != "PAR":
            wholes[name] = encoding + similar[name] + seconds.median("SCAN", "ranks")
        pairs = f"{size:,} x {size * CAPTIONS:,}"
        print(f"  {name:12s} {encoding:9.2f} {similar[name]:12.3f} {wholes[name]:12.2f}   {pairs}")
    for name in ("SCAN", "SCAN, loop"):
        similarity, whole = (x[name] / x["PAR"] for x in (similar, wholes))
        goal = "goal at 1,000 x 5,000: 100"
        print(f"  {name} over PAR: similarity {similarity:.1f} ({goal}), whole {whole:.1f}")
    words = float(data.captions.mask.sum(1).double().mean())
    products = data.regions.mask.shape[1] * words * dim_of(models[1]) / dim_of(models[0])
    print(f"  Counted products of vectors per pair, over PAR's: SCAN {products:.1f}, loop {2 * products:.1f}")


def _test_par(model: DualEncoder, data: Data, seconds: Seconds, world: World) -> Tensor:
    """PAR's test, and its scores of all pairs."""
    given = seconds.run("PAR", "encoding", lambda: encoded(model, data))
    a, b = (torch.cat(side) for side in given)
    scores = seconds.run("PAR", "similarity", lambda: float32_scores(a, b))
    sides = Embedded(rows=a, **_owners(a, 1)), Embedded(rows=b, **_owners(b, CAPTIONS))
    settings = EvaluateSettings(split="test")
    seconds.run("PAR", "evaluation", lambda: evaluate_embedded(*sides, settings, "image", "text", world))
    return scores


def _test_scan(
    model: DualEncoder, data: Data, scores: Tensor, sizes: tuple[int, ...], seconds: Seconds, world: World
) -> None:
    """Cross attention's test. Ranks take the same time of any scores: PAR's of all pairs are taken."""
    given = seconds.run("SCAN", "encoding", lambda: encoded(model, data))
    a, b = (join_set_rows([set_rows(part) for part in side]) for side in given)
    images, found = len(a), []
    programs: tuple[tuple[str, Callable[[SetRows, SetRows], Tensor]], ...] = (
        ("SCAN", lambda x, y: score_all(x, y, partial(pair_scores, rules=I_T_AVG), world)),
        ("SCAN, loop", lambda x, y: loop_scores(*(z.padded(slice(0, len(z))) for z in (x, y)))),
    )
    for (name, program), size in zip(programs, sizes, strict=True):
        taken = (a, size), (b, size * CAPTIONS)
        some = [x.take(torch.arange(n, device=x.counts.device)) for x, n in taken]
        with torch.no_grad():
            found.append(seconds.run(name, "similarity", partial(program, *some), (images / size) ** 2))
    both = min(sizes)
    ours, theirs = (x[:both, : both * CAPTIONS] for x in found)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5), float((ours - theirs).abs().max())
    sides = EncodedSets(rows=a, **_owners(a.counts, 1)), EncodedSets(rows=b, **_owners(b.counts, CAPTIONS))
    settings = EvaluateSettings(split="test")
    seconds.run("SCAN", "ranks", lambda: evaluate_scores(scores, *sides, settings, "image", "text", world))


def _owners(items: Tensor, of_each: int) -> dict[str, Tensor]:
    """The image that an item belongs to, for so many items of each; no classes."""
    place = torch.arange(len(items), device=items.device)
    return {"entry": place // of_each, "label": torch.full_like(place, -1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, type=int)
    add("--images", default=1000, help="of the test, with 5 captions each (default: %(default)s)")
    add("--pairs", default=128, help="of a training batch (default: %(default)s)")
    add("--regions", default=36, help="of an image (default: %(default)s)")
    add("--values", default=2048, help="of a region (default: %(default)s)")
    add("--vocabulary", default=8481, help="words, Flickr30K's (default: %(default)s)")
    add("--width", default=1024, help="length of an element (default: %(default)s)")
    add("--queries", default=20, help="of PAR; D = queries * width (default: %(default)s)")
    add("--block", default=0, help="images, with their captions, that SCAN is measured on; 0: all")
    add("--loop-block", default=100, help="the same of the loop (default: %(default)s)")
    add("--repetitions", default=3, help="training steps of each (default: %(default)s)")
    add("--rounds", default=1, help="tests of each (default: %(default)s)")
    parser.add_argument("--only", choices=["train", "test"])
    chosen = parser.parse_args()
    world = join()
    print_machine(world)
    images = chosen.images if chosen.only == "test" else max(chosen.images, chosen.pairs)
    data = make_data(images, chosen.regions, chosen.values, chosen.vocabulary, world.device)
    par = make_model(data, {"kind": "par", "queries": chosen.queries}, chosen.queries * chosen.width)
    scan = make_model(data, I_T_AVG, chosen.width)
    print(f"PAR: {chosen.queries} queries, D = {par.embedding_dim:,}; elements of {chosen.width} values")
    if chosen.only != "test":
        bench_training(data, (par, scan), chosen.pairs, chosen.repetitions, world)
    if chosen.only != "train":
        bench_test(data, (par, scan), (chosen.block, chosen.loop_block), chosen.rounds, world)
    print(PUBLISHED)
    leave()


if __name__ == "__main__":
    main()
