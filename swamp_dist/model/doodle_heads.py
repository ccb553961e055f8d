"""The heads of Doodle2Search (Dey et al. 2019, section 3.2): from embeddings to the vectors of class names,
and to whether a row is of a sketch or of a photo."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from swamp_dist.config import Doodle2SearchSettings
from swamp_dist.model.gradient_reversal import reverse_gradient
from swamp_dist.records import Reversals


@final
class DoodleHeads(nn.Module):
    """Two MLPs, each shared by anchors, positives and negatives.

    They take rows as the model gives them; their losses are `objective/terms/semantic.py` and `domain.py`.
    """

    def __init__(self, settings: Doodle2SearchSettings, embedding_dim: int, word_dim: int) -> None:
        """The heads.

        Args:
            word_dim: E, values of a class's vector.
        """
        super().__init__()
        word, domain, drop = settings.word_hidden, settings.domain_hidden, settings.dropout
        self.words = nn.Sequential(
            nn.Linear(embedding_dim, word), nn.ReLU(), nn.Dropout(drop), nn.Linear(word, word_dim)
        )
        self.domain = nn.Sequential(
            nn.Linear(embedding_dim, domain), nn.ReLU(), nn.Dropout(drop),
            nn.Linear(domain, domain), nn.ReLU(), nn.Linear(domain, 1),
        )  # fmt: skip

    def forward(self, a: Tensor, b: Tensor, negatives: Tensor, reversals: Reversals) -> tuple[Tensor, Tensor]:
        """Anchors, positives and negatives (b, D) -> vectors (b, 3, E), and logits of being a photo (b, 3).

        The gradient of the vectors is reversed for the negatives, that of the logits for all three.
        """
        unlike = reverse_gradient(negatives, reversals.semantic)
        words: Tensor = self.words(torch.stack([a, b, unlike], dim=1))
        all_three = reverse_gradient(torch.stack([a, b, negatives], dim=1), reversals.domain)
        logits: Tensor = self.domain(all_three)
        return words, logits.squeeze(2)
