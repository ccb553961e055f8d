"""Every item once, in manifest order, with the same number of calls on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from swamp_dist.data.entry import Entry
from swamp_dist.data.field_inputs import FieldInputs, field_inputs
from swamp_dist.data.manifest import WordsRecord
from swamp_dist.data.reader import open_reader
from swamp_dist.data.words import WordTable, write_word_table
from swamp_dist.distributed import World, alone, sum_over_ranks
from swamp_dist.errors import UserError
from swamp_dist.evaluate.embedding import Embedded, embed_split
from swamp_dist.records import Inputs, Sets, Words
from tests.data.ragged_sets import build_ragged, regions
from tests.ranks import run_on_ranks


@dataclass(frozen=True)
class FakeReader:
    """Entries made on the fly; every item is a vector that names its entry and its place there."""

    items: tuple[int, ...]
    """Items of each entry; 0 means a field without the leading axis."""
    seen: list[int]

    def read(self, indices: Sequence[int]) -> list[Entry]:
        self.seen.extend(indices)
        return [self._entry(i) for i in indices]

    def misfit(self, index: int, finding: str, is_damaged: bool = True) -> UserError:
        return UserError(f"entry {index}: {finding}")

    def _entry(self, i: int) -> Entry:
        rows = np.array([[i, j, 1.0] for j in range(max(1, self.items[i]))], dtype=np.float32)
        array = rows if self.items[i] else rows[0]
        return Entry(i, f"e{i}", i % 3, {"x": array}, {})


def embed_all(world: World, items: tuple[int, ...], chunk: int) -> tuple[Embedded, list[int], list[int]]:
    """The embedding, the rows of every call, and the entries this rank read."""
    calls: list[int] = []

    def embed(inputs: Tensor) -> Tensor:
        calls.append(len(inputs))
        assert not torch.is_grad_enabled()
        sum_over_ranks(torch.ones(1), world)  # ZeRO-3 gathers parameters in every call: must be equally many
        return inputs * 2

    reader = FakeReader(items, [])
    return (
        embed_split(embed, reader, FieldInputs("x"), len(items), items[0] > 0, chunk, world),
        calls,
        reader.seen,
    )


def expected_rows(items: tuple[int, ...]) -> list[list[float]]:
    return [[2.0 * i, 2.0 * j, 2.0] for i, n in enumerate(items) for j in range(max(1, n))]


@pytest.mark.parametrize("num_entries", [1, 2, 7, 8, 9, 37])
@pytest.mark.parametrize("several", [False, True])
def test_every_item_comes_once_and_in_order(num_entries: int, several: bool) -> None:
    items = tuple((i * 5) % 4 + 1 if several else 0 for i in range(num_entries))
    found, calls, seen = embed_all(alone(), items, 4)
    assert found.rows.tolist() == expected_rows(items)
    assert found.entry.tolist() == [i for i, n in enumerate(items) for _ in range(max(1, n))]
    assert found.label.tolist() == [i % 3 for i in found.entry.tolist()]
    assert set(calls) == {4}  # the encoder always sees the full chunk
    assert seen == list(range(num_entries))


CASES = [(tuple([0] * n), chunk) for n in (1, 3, 8, 37) for chunk in (1, 4, 64)]
CASES += [((3, 1, 9, 1, 1, 2, 1, 30, 1, 1, 1), 2), ((1, 5), 4), ((7,), 3)]


def _values(embedded: Embedded) -> list[list[float]]:
    """Plain values: tensors would need this process alive until the test has read them."""
    return [embedded.rows.tolist(), embedded.entry.tolist(), embedded.label.tolist()]


def _embed_cases(world: World) -> list[tuple[list[list[float]], list[int], list[int]]]:
    found = [embed_all(world, *case) for case in CASES]
    return [(_values(embedded), calls, seen) for embedded, calls, seen in found]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_result_is_the_same_on_every_rank_of_every_world(size: int) -> None:
    by_rank = run_on_ranks(_embed_cases, size)
    for (items, chunk), *found in zip(CASES, *by_rank, strict=True):
        alone_found, _, _ = embed_all(alone(), items, chunk)
        for embedded, calls, _ in found:
            assert embedded == _values(alone_found)
            assert calls == found[0][1]
        read = sorted(i for _, _, seen in found for i in seen)
        fillers = len(read) - len(items)
        assert sorted([*range(len(items)), *[0] * fillers]) == read
        assert fillers < size


def test_sets_are_padded_inside_a_chunk_and_equal_ones_end_alike(tmp_path: Path) -> None:
    manifest = build_ragged(tmp_path / "set", {"train": 11})
    reader = open_reader(manifest, "train", ("regions",))

    def embed(inputs: Inputs) -> Tensor:
        assert isinstance(inputs, Sets)
        assert len(inputs.values) == 4
        assert not inputs.values[~inputs.mask].any()
        return inputs.values.sum(1) + inputs.mask.sum(1, keepdim=True)

    found = embed_split(embed, reader, field_inputs(manifest, "regions"), 11, False, 4, alone())
    expected = [regions(int(key[-4:])) for key in manifest.split("train").keys(range(11))]
    assert found.entry.tolist() == list(range(11))
    for row, elements in zip(found.rows, expected, strict=True):
        np.testing.assert_allclose(row, elements.sum(0) + len(elements), rtol=1e-6)


@dataclass(frozen=True)
class WordReader:
    """Entries of one caption; captions 0, 3, 6, ... are the same."""

    seen: list[int]

    def read(self, indices: Sequence[int]) -> list[Entry]:
        self.seen.extend(indices)
        return [Entry(i, f"e{i}", -1, {"text": self.ids(i)}, {}) for i in indices]

    def misfit(self, index: int, finding: str, is_damaged: bool = True) -> UserError:
        return UserError(f"entry {index}: {finding}")

    @staticmethod
    def ids(i: int) -> np.ndarray:
        known = [3, 1] if i % 3 == 0 else [i % 5 + 1] * (i % 4)
        return np.array(known + [0] * (4 - len(known)), dtype=np.int32)


def embed_words(world: World, folder: Path, chunk: int) -> tuple[Embedded, list[int]]:
    """Embeddings that also depend on a chunk's neighbours, as rounding does; rows of vectors a call."""
    record = WordsRecord.model_validate_json((folder / "words.json").read_text())
    sizes: list[int] = []

    def embed(inputs: Inputs) -> Tensor:
        assert isinstance(inputs, Words)
        assert len(inputs.ids) == chunk
        assert not inputs.vectors[0].any()
        sizes.append(len(inputs.vectors))
        rows = inputs.vectors[inputs.ids].sum(dim=1)
        return rows + 1e-3 * inputs.ids.float().mean()

    inputs = FieldInputs("text", "words", WordTable(folder, record))
    return embed_split(embed, WordReader([]), inputs, 11, False, chunk, world), sizes


def words_folder(folder: Path) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    record = write_word_table(folder, [f"w{i}" for i in range(5)], vectors, "", 4)
    (folder / "words.json").write_text(record.model_dump_json())
    return np.concatenate([np.zeros((1, 3), np.float32), vectors])


def test_captions_reach_the_encoder_as_words_and_equal_ones_get_one_embedding(tmp_path: Path) -> None:
    table = words_folder(tmp_path)
    found, sizes = embed_words(alone(), tmp_path, 4)
    exact = torch.stack([torch.from_numpy(table[WordReader.ids(i)].sum(axis=0)) for i in range(11)])
    assert torch.allclose(found.rows, exact, atol=5e-3)
    assert all(torch.equal(found.rows[i], found.rows[0]) for i in (3, 6, 9))
    assert not torch.equal(found.rows[1], found.rows[0])
    assert max(sizes) <= 6
    assert min(sizes) < 6  # a chunk's own words only


def _embed_words_values(world: World, folder: Path) -> list[list[list[float]]]:
    return [_values(embed_words(world, folder, chunk)[0]) for chunk in (1, 2, 4, 64)]


@pytest.mark.parametrize("size", [2, 4])
def test_embeddings_of_words_do_not_depend_on_the_world(tmp_path: Path, size: int) -> None:
    words_folder(tmp_path)
    expected = [_values(embed_words(alone(), tmp_path, chunk)[0]) for chunk in (1, 2, 4, 64)]
    for found in run_on_ranks(_embed_words_values, size, tmp_path):
        assert found == expected
