"""Captions as words of a frozen table (Miech et al. 2019, section 4.1): linear, maximum, gated unit."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor, nn

from swamp_dist.compiled import has_numba
from swamp_dist.encoders.networks.gated import GatedUnit
from swamp_dist.records import Words

WORTH = 2**22
"""Values to look at from which on a CPU takes numba: with fewer, torch needs at most some milliseconds."""
_NUMBA = "swamp_dist.encoders.networks.words_numba"
_OTHERWISE = "maxima over words are found by torch, at a tenth of the speed"
_MAX = 2
"""embedding_bag's number for the mode that keeps the largest."""


class WordsNetwork(nn.Module):
    """What the networks of encoders of words derive from: their forward takes `records.Words`."""


class WordsEncoder(WordsNetwork):
    """relu(W v + b) of every word, the largest over a caption's W places, gated unit: (b, W) -> (b, D).

    As published, padding takes part in the maximum: a caption with a place to spare gets at least relu(b).
    """

    def __init__(self, word_dim: int, sentence_dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(word_dim, sentence_dim)
        self.unit = GatedUnit(sentence_dim, embedding_dim)

    def forward(self, words: Words) -> Tensor:
        """Ids (b, W) and vectors (U + 1, word_dim) -> (b, embedding_dim), not yet of unit length.

        The linear layer sees each distinct word once, the padding among them as row 0 of the vectors.
        """
        out: Tensor = self.unit(largest_rows(torch.relu(self.fc(words.vectors)), words.ids))
        return out


def largest_rows(rows: Tensor, ids: Tensor) -> Tensor:
    """max over w of rows[ids[:, w]], for each column alone: (n, S), (b, W) int64 -> (b, S).

    Never holds (b, W, S): what is kept for the backward pass is where each maximum came from. The gradient
    goes there whole, to the earliest place among equals. Its sums have one order: the backward pass of an
    index sorts on a GPU, where that of gather adds in the order of arrival; a CPU of several threads has it
    the other way round.
    """
    with torch.no_grad():
        chosen = _places(rows, ids)
    # Backward adds one row per place; in bfloat16 on a CPU a frequent word's sum would stop growing.
    wide = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    if rows.device.type == "cpu":
        return wide.gather(0, chosen)
    columns = torch.arange(rows.shape[1], device=rows.device)
    return wide.flatten()[chosen * rows.shape[1] + columns]


def _places(rows: Tensor, ids: Tensor) -> Tensor:
    """(b, S) int64: the row with the largest value of each column; the same in both ways."""
    is_plain = rows.device.type == "cpu" and rows.dtype == torch.float32 and rows.is_contiguous()
    if is_plain and ids.numel() * rows.shape[1] >= WORTH and has_numba(_NUMBA, _OTHERWISE):
        compiled: ModuleType = importlib.import_module(_NUMBA)
        places: Tensor = compiled.largest_places(rows, ids)
        return places
    starts = torch.arange(0, ids.numel(), ids.shape[1], device=ids.device)
    return torch.embedding_bag(rows, ids.flatten(), starts, False, _MAX)[3]
