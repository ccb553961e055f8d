"""A blend of shard sets: one order whatever reads it, its shares, ids, classes, words and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swamp_dist.config import ClipSettings, DataSettings
from swamp_dist.data.blend import blend_problems, open_blend
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.stream import PairStream, open_blended_stream, open_stream
from swamp_dist.encoders.hashed_words import HashedWords
from swamp_dist.errors import UserError
from swamp_dist.records import Sets, Words
from tests.data.image_sets import build_raw
from tests.data.ragged_sets import build_ragged, regions
from tests.data.shard_sets import build
from tests.data.video_sets import add_words, build_pooled, build_videos

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a hint about few cores
ENTRIES = 8
BLOCKS = {"full_shuffle_below": 0, "shuffle_block": 8}


def data_of(own: Manifest, sets: dict[str, tuple[Manifest, float]], **changes: Any) -> DataSettings:
    blend = {name: {"shards": str(m.folder), "share": share} for name, (m, share) in sets.items()}
    values = {"shards": str(own.folder), "a": "a", "b": "b", "workers": 0, "entries": ENTRIES, "lanes": 4}
    return DataSettings.model_validate(values | {"blend": blend} | changes)


def stream_of(data: DataSettings, own: Manifest, world: int = 1, rank: int = 0, seed: int = 3) -> PairStream:
    blend = open_blend(data, own)
    plan = plan_batches(ENTRIES, data.pairs_per_entry, 4, world, len(blend))
    return open_blended_stream(blend, data, plan, seed=seed, rank=rank)


def content(stream: PairStream, first: int = 0, last: int = 20) -> list[list[Any]]:
    found = [
        [x.ids.tolist(), x.labels.tolist(), x.a.tolist(), x.b.tolist()]
        for x in stream.batches(first, last)
        if x.labels is not None and isinstance(x.a, torch.Tensor) and isinstance(x.b, torch.Tensor)
    ]
    stream.close()
    assert len(found) == last - first
    return found


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Manifest, float]]:
    folder = tmp_path_factory.mktemp("blend")
    x, y = build(folder / "x", {"train": 61}), build(folder / "y", {"train": 23}, items=(3, 1))
    return {"x": (x, 0.7), "y": (y, 0.3)}


@pytest.mark.parametrize("changes", [{}, BLOCKS], ids=["permuted as a whole", "in blocks"])
def test_the_order_depends_on_neither_ranks_nor_reading(sets: Any, changes: dict[str, Any]) -> None:
    own = sets["x"][0]
    expected = content(stream_of(data_of(own, sets, pairs_per_entry=2, **changes), own))
    for world, how in [
        (1, {"reading": "stream"}),
        (1, {"cache": "memory"}),
        (2, {"reading": "stream"}),
        (4, {"cache": "memory", "reading": "stream"}),
        (2, {}),
        (4, {}),
    ]:
        data = data_of(own, sets, pairs_per_entry=2, **changes, **how)
        ranks = [content(stream_of(data, own, world, rank)) for rank in range(world)]
        joined = [[sum(c, []) for c in zip(*parts, strict=True)] for parts in zip(*ranks, strict=True)]
        assert joined == expected, (world, how)


@pytest.mark.parametrize("how", [{}, {"reading": "stream"}, {"cache": "memory"}])
def test_nor_on_loader_processes(sets: Any, how: dict[str, Any]) -> None:
    own = sets["x"][0]
    expected = content(stream_of(data_of(own, sets), own, 2, 1), last=8)
    assert content(stream_of(data_of(own, sets, workers=2, **how), own, 2, 1), last=8) == expected


@pytest.mark.slow
def test_nor_on_ranks_and_loader_processes_together(sets: Any) -> None:
    own = sets["x"][0]
    expected = content(stream_of(data_of(own, sets), own), last=8)
    for world in (1, 2, 4):
        for workers in (0, 1, 2):
            data = data_of(own, sets, workers=workers)
            ranks = [content(stream_of(data, own, world, rank), last=8) for rank in range(world)]
            joined = [[sum(c, []) for c in zip(*parts, strict=True)] for parts in zip(*ranks, strict=True)]
            assert joined == expected, (world, workers)


def test_any_step_can_be_the_first(sets: Any) -> None:
    own = sets["x"][0]
    expected = content(stream_of(data_of(own, sets), own))
    for first in range(20):
        assert content(stream_of(data_of(own, sets), own), first=first) == expected[first:]


def test_one_set_of_share_1_is_the_set_without_a_blend(sets: Any) -> None:
    own = sets["y"][0]
    data = data_of(own, {"y": (own, 1.0)}, pairs_per_entry=2)
    alone = open_stream(own, "train", data, plan_batches(8, 2, 4, 1, 23), seed=3, rank=0)
    blended = stream_of(data, own)
    assert blended.steps_per_epoch == alone.steps_per_epoch == 2
    assert content(blended) == content(alone)


def test_every_pair_is_its_sets_and_every_id_its_entrys(sets: Any) -> None:
    own = sets["x"][0]
    stream = stream_of(data_of(own, sets), own)
    assert stream.steps_per_epoch == (61 + 23) // 8
    for batch in stream.batches(0, 10):
        assert batch.labels is not None
        assert batch.items is not None
        assert batch.items.tolist() == batch.ids.tolist()
        for key, i, a, label in zip(
            stream.blend.keys(batch.ids), batch.ids, batch.a, batch.labels, strict=True
        ):
            name, number = key[0], int(key[-4:])
            assert (int(i) >= 61) == (name == "y")
            assert int(label) == number % 4 + (4 if name == "y" else 0)  # other classes than x has
            assert int(a[0]) == number


@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.51, 0.49), (0.9, 0.1)])
def test_an_entry_comes_once_in_an_epoch_of_its_set_and_shares_are_kept(
    sets: Any, shares: tuple[float, float]
) -> None:
    own = sets["x"][0]
    given = {name: (sets[name][0], share) for name, share in zip("xy", shares, strict=True)}
    stream = stream_of(data_of(own, given), own)
    ids = [batch.ids.tolist() for batch in stream.batches(0, 60)]
    for number, (first, last, count) in enumerate([(0, 61, 61), (61, 84, 23)]):
        mine = [[i for i in step if first <= i < last] for step in ids]
        steps = count // max(len(step) for step in mine)
        epochs = [sum(mine[e : e + steps], []) for e in range(0, 60 - steps, steps)]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
        drawn = np.cumsum([first <= i < last for step in ids for i in step])
        assert np.abs(drawn - shares[number] * np.arange(1, len(drawn) + 1)).max() < 1
    assert stream.shares_drawn(60)["x"] == pytest.approx(shares[0], abs=1 / 480)


def test_sets_of_one_size_are_not_permuted_alike(tmp_path: Path) -> None:
    x, y = (build(tmp_path / name, {"train": 24}) for name in "xy")
    stream = stream_of(data_of(x, {"x": (x, 0.5), "y": (y, 0.5)}), x)
    step = next(stream.batches(0, 1)).ids.tolist()
    assert sorted(i for i in step if i < 24) != sorted(i - 24 for i in step if i >= 24)


def test_words_come_from_the_table_of_their_set(tmp_path: Path) -> None:
    x, y = build_pooled(tmp_path / "x", 30), build_pooled(tmp_path / "y", 20)
    table = np.load(y.folder / "words.npy")
    table[1:] += 100  # the same words with other vectors
    np.save(tmp_path / "moved.npy", table)
    header = (y.folder / "words.npy").read_bytes()[:128]
    (y.folder / "words.npy").write_bytes(header + table.tobytes())
    data = data_of(x, {"x": (x, 0.6), "y": (y, 0.4)}, a="text", b="video")
    tables = {"x": np.load(x.folder / "words.npy"), "y": table}
    stream, seen = stream_of(data, x), set()
    for batch in stream.batches(0, 8):
        assert isinstance(batch.a, Words)
        assert not batch.a.vectors[0].any()
        found = batch.a.vectors[batch.a.ids].numpy()
        for key, row in zip(stream.blend.keys(batch.ids), found, strict=True):
            name, number = key[0], int(key[-3:])
            ids = _first_caption(number)
            assert np.array_equal(row, tables[name][ids])
            seen.add(name)
    assert seen == {"x", "y"}


def _first_caption(number: int) -> np.ndarray:
    from tests.data.video_sets import video

    ids: np.ndarray = video(0 if number % 3 == 0 else number).fields["text"][0]
    return ids


def test_ragged_fields_of_two_sets(tmp_path: Path) -> None:
    x, y = build_ragged(tmp_path / "x", {"train": 26}), build_ragged(tmp_path / "y", {"train": 18})
    data = data_of(x, {"x": (x, 0.5), "y": (y, 0.5)}, a="regions", b="vector")
    whole = list(stream_of(data, x).batches(0, 6))
    ranks = [list(stream_of(data, x, 2, rank).batches(0, 6)) for rank in range(2)]
    for one, *parts in zip(whole, *ranks, strict=True):
        assert all(isinstance(each.a, Sets) for each in (one, *parts))
        found = [[row[there] for row, there in zip(*each.a, strict=True)] for each in (one, *parts)]
        assert all(torch.equal(*both) for both in zip(found[0], found[1] + found[2], strict=True))
        keys = stream_of(data, x).blend.keys(one.ids)
        for key, elements in zip(keys, found[0], strict=True):
            assert np.array_equal(elements.numpy(), regions(int(key[-4:])))


def test_clips_of_two_sets_of_videos(tmp_path: Path) -> None:
    x, y = build_videos(tmp_path / "x", 21), build_videos(tmp_path / "y", 15)
    data = data_of(x, {"x": (x, 0.5), "y": (y, 0.5)}, a="text", b="video", clips=ClipSettings(),
                   pairs_per_entry=2)  # fmt: skip
    whole = list(stream_of(data, x).batches(0, 6))
    ranks = [list(stream_of(data, x, 2, rank).batches(0, 6)) for rank in range(2)]
    for one, left, right in zip(whole, *ranks, strict=True):
        assert isinstance(one.b, torch.Tensor)
        assert isinstance(left.b, torch.Tensor)
        assert torch.equal(one.b, torch.cat([left.b, right.b]))
        assert torch.equal(one.ids, torch.cat([left.ids, right.ids]))
        for part in (one, left, right):
            assert isinstance(part.a, Words)
        text = [part.a.vectors[part.a.ids] for part in (left, right)]
        assert torch.equal(one.a.vectors[one.a.ids], torch.cat(text))


def test_images_and_texts_of_two_sets(tmp_path: Path) -> None:
    x, y = build_raw(tmp_path / "x", 26), build_raw(tmp_path / "y", 18)
    data = data_of(x, {"x": (x, 0.5), "y": (y, 0.5)}, a="image", b="text", images={"size": 16})
    blend, found = open_blend(data, x), []
    for world in (1, 2):
        plan = plan_batches(ENTRIES, 1, 4, world, len(blend))
        for rank in range(world):
            own = {"rank": rank, "seed": 3, "tokenizers": (None, HashedWords(1000, 16))}
            found.append(list(open_blended_stream(blend, data, plan, **own).batches(0, 6)))
    for one, left, right in zip(*found, strict=True):
        assert torch.equal(one.a, torch.cat([left.a, right.a]))
        texts = [part.b.ids[part.b.mask] for part in (one, left, right)]
        assert torch.equal(texts[0], torch.cat(texts[1:]))


def test_sets_that_do_not_go_together_are_named_with_what_they_hold(tmp_path: Path) -> None:
    x, wide = build(tmp_path / "x", {"train": 20}), _wider(tmp_path / "wide")
    problem, other = blend_problems(data_of(x, {"x": (x, 0.5), "wide": (wide, 0.5)}), x)
    wide_has, x_has = f"data.blend.wide ({wide.folder}) has float32 (5)", f"data.blend.x ({x.folder})"
    assert f"field 'a': {wide_has}, {x_has} has float32 (3)" in problem
    assert "field 'b'" in other


def test_other_word_vectors_are_refused(tmp_path: Path) -> None:
    x, y = build_pooled(tmp_path / "x"), build_pooled(tmp_path / "y")
    for file in ("words.npy", "words.txt"):
        (y.folder / file).unlink()
    y = add_words(y, ("text",), "t" * 64)
    data = data_of(x, {"x": (x, 0.5), "y": (y, 0.5)}, a="text", b="video")
    (problem,) = blend_problems(data, x)
    assert "word vectors" in problem
    assert "s" * 64 in problem
    assert "t" * 64 in problem


def _wider(folder: Path) -> Manifest:
    from swamp_dist.data.writer import write_shards
    from tests.data.shard_sets import sample

    return write_shards({"train": [sample(i, dim=5) for i in range(20)]}, folder, "wide", {}, 10, 0, [])


def test_a_set_that_is_too_small_for_its_share_is_refused(tmp_path: Path) -> None:
    x, y = build(tmp_path / "x", {"train": 61}), build(tmp_path / "y", {"train": 3})
    data = data_of(x, {"x": (x, 0.5), "y": (y, 0.5)})
    with pytest.raises(UserError, match=r"takes up to 4 of its entries, but split 'train' .* has 3"):
        stream_of(data, x)


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ((0.7, 0.2), "found x 0.7, y 0.2: 0.9 together"),
        ((0.33333, 0.66667), "at most four decimals"),
        ((0.0, 1.0), "greater than 0"),
    ],
)
def test_shares_have_to_be_a_whole(sets: Any, shares: tuple[float, float], told: str) -> None:
    given = {name: (sets[name][0], share) for name, share in zip("xy", shares, strict=True)}
    with pytest.raises(ValueError, match=told):
        data_of(sets["x"][0], given)
