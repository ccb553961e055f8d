"""Mean of the vectors of a text's words, one Linear."""

from __future__ import annotations

from torch import Tensor, nn

from swamp_dist.records import Tokens


class BagOfWords(nn.Module):
    """A learned vector for each bucket of words; row 0 stands for padding and counts for nothing."""

    def __init__(self, buckets: int, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(buckets + 1, width, mode="mean", padding_idx=0)
        self.project = nn.Linear(width, embedding_dim)

    def forward(self, tokens: Tokens) -> Tensor:
        """Ids (b, W) and mask (b, W) -> (b, embedding_dim), not yet of unit length; a text without words has
        the mean 0."""
        rows: Tensor = self.project(self.bag(tokens.ids.masked_fill(~tokens.mask, 0)))
        return rows
