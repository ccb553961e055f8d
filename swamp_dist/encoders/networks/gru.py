"""Texts by a GRU over their words, from one end or from both."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from swamp_dist.records import Sets, Tokens

Output = Literal["mean", "last", "words"]


class Gru(nn.Module):
    """The text encoders of SCAN (Lee et al. 2018, section 3.2) and VSE++ (Faghri et al. 2018).

    A word's feature is its state, of two directions the mean of both, as in SCAN. A text is the set of its
    words, their mean, or its last state, as in VSE++. Two GRUs of one direction, since the second reads every
    text from its own last word: padding then stands behind the words for both, and no state of a word sees
    it.
    """

    def __init__(
        self,
        words: int,
        width: int,
        embedding_dim: int,
        output: Output = "mean",
        directions: int = 2,
        unit: bool = False,
    ) -> None:
        """A new network.

        Args:
            words: those with a vector; number 0 is padding.
            width: length of a word's vector.
            embedding_dim: length of a state.
            output: mean, last or words.
            directions: 1 or 2.
            unit: bring every word's feature to unit length.
        """
        super().__init__()
        self.vectors = nn.Embedding(words, width, padding_idx=0)
        nn.init.uniform_(self.vectors.weight, -0.1, 0.1)  # as published
        self.forwards = nn.GRU(width, embedding_dim, batch_first=True)
        self.backwards = nn.GRU(width, embedding_dim, batch_first=True) if directions == 2 else None
        self._output, self._unit = output, unit

    def forward(self, tokens: Tokens) -> Tensor | Sets:
        """Ids and mask (b, W), padding behind the words -> (b, embedding_dim), not yet of unit length, or the
        words as a set (b, W, embedding_dim), zeros for padding; a text without words gets zeros."""
        lengths = tokens.mask.sum(1)
        x = self.vectors(tokens.ids.masked_fill(~tokens.mask, 0))
        if self._output == "last":
            return self._last(x, lengths)
        states = self._states(x, lengths)
        if self._unit:
            states = functional.normalize(states, dim=-1)
        if self._output == "words":
            return Sets(states.masked_fill(~tokens.mask.unsqueeze(2), 0), tokens.mask)
        total: Tensor = (states * tokens.mask.unsqueeze(2)).sum(1)
        return total / lengths.clamp(min=1).unsqueeze(1)

    def _states(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(b, W, D) the states at every place, of both directions their mean."""
        there: Tensor = self.forwards(x)[0]
        if self.backwards is None:
            return there
        back = self.backwards(_turned(x, lengths))[0]
        return (there + _turned(back, lengths)) / 2

    def _last(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(b, D) the state after a text's last word, of both directions the mean."""
        directions = [self.forwards(x)[0]]
        if self.backwards is not None:
            directions.append(self.backwards(_turned(x, lengths))[0])
        places = (lengths.clamp(min=1) - 1).view(-1, 1, 1).expand(-1, 1, directions[0].shape[2])
        last = [states.gather(1, places)[:, 0] for states in directions]
        return (torch.stack(last).mean(0)).masked_fill((lengths == 0).unsqueeze(1), 0)


def _turned(x: Tensor, lengths: Tensor) -> Tensor:
    """(b, W, n) with the first `lengths` (b,) places of every row in the reverse order, the others as they
    are."""
    places = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    turned = lengths.unsqueeze(1) - 1 - places
    index = torch.where(turned >= 0, turned, places)
    return x.gather(1, index.unsqueeze(2).expand_as(x))
