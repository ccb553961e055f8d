"""Texts by a bidirectional GRU over their words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swamp_dist.records import Tokens


class BidirectionalGru(nn.Module):
    """The text encoder of SCAN (Lee et al. 2018, section 3.2) for one vector per text.

    A word's feature is the mean of the states of both directions, as there; a text is the mean of its words.
    Two GRUs of one direction, since the second reads every text from its own last word: padding then stands
    behind the words for both, and no state of a word sees it.
    """

    def __init__(self, buckets: int, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(buckets + 1, width, padding_idx=0)
        nn.init.uniform_(self.vectors.weight, -0.1, 0.1)  # as published
        self.forwards = nn.GRU(width, embedding_dim, batch_first=True)
        self.backwards = nn.GRU(width, embedding_dim, batch_first=True)

    def forward(self, tokens: Tokens) -> Tensor:
        """Ids and mask (b, W), padding behind the words -> (b, embedding_dim), not yet of unit length; a text
        without words gets zeros."""
        lengths = tokens.mask.sum(1)
        x = self.vectors(tokens.ids.masked_fill(~tokens.mask, 0))
        there, _ = self.forwards(x)
        back, _ = self.backwards(_turned(x, lengths))
        states = (there + _turned(back, lengths)) / 2
        total: Tensor = (states * tokens.mask.unsqueeze(2)).sum(1)
        return total / lengths.clamp(min=1).unsqueeze(1)


def _turned(x: Tensor, lengths: Tensor) -> Tensor:
    """(b, W, n) with the first `lengths` (b,) places of every row in the reverse order, the others as they
    are."""
    places = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    turned = lengths.unsqueeze(1) - 1 - places
    index = torch.where(turned >= 0, turned, places)
    return x.gather(1, index.unsqueeze(2).expand_as(x))
