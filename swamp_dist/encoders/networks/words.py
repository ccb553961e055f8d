"""Captions as words of a frozen table (Miech et al. 2019, section 4.1): linear, maximum, gated unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swamp_dist.encoders.networks.gated import GatedUnit
from swamp_dist.records import Words


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
    goes there whole, to the earliest place among equals. Deterministic on a GPU too: there the backward pass
    of an index sorts, where that of gather or of embedding_bag adds up in the order of arrival.
    """
    starts = torch.arange(0, ids.numel(), ids.shape[1], device=ids.device)
    with torch.no_grad():
        chosen = torch.embedding_bag(rows, ids.flatten(), starts, False, _MAX)[3]
    columns = torch.arange(rows.shape[1], device=rows.device)
    # Backward adds one row per place; in bfloat16 on a CPU a frequent word's sum would stop growing.
    wide = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    return wide.flatten()[chosen * rows.shape[1] + columns]


_MAX = 2
"""embedding_bag's number for the mode that keeps the largest."""
