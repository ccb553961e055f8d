"""Semantic loss of Doodle2Search (Dey et al. 2019, section 3.2): with v the vector of the anchor's class name
and w_a, w_b, w_n what the head makes of anchor, partner and negative,

    L = mean_i sum over r in {a, b, n} of (1 - cos(w_r,i, v_i)) / 2.

The negative reaches the head through a reversal of its gradient (`model/doodle_heads.py`), so its encoder
learns to be unlike the anchor's class.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from swamp_dist.config import SemanticSettings
from swamp_dist.objective.term import Term, TermInputs

TAGS: Mapping[str, str] = {
    "loss/semantic": "Semantic loss of sketch, photo and negative before its weight, mean over ranks.",
    "semantic/anchor": "Mean cosine of the head's answer for anchors and the vectors of their classes.",
    "semantic/positive": "The same for partners.",
    "semantic/negative": "Mean cosine of that for negatives and the vectors of the anchors' classes.",
}


def term(settings: SemanticSettings, inputs: TermInputs) -> Term:
    """The loss of my triplets; nothing is computed where its weight is 0.

    Raises:
        ValueError: the model has no heads, or the batch or the objective does not say classes.
    """
    if settings.weight == 0:
        return Term()
    words, labels, vectors = inputs.mine.words, inputs.labels, inputs.class_vectors
    if words is None or labels is None or vectors is None:
        raise ValueError("the semantic term needs model.doodle2search, labels and vectors of classes")
    found = cosines(words, vectors[labels].to(words.dtype))
    anchor, positive, negative = found.detach().mean(dim=0)
    figures = {"semantic/anchor": anchor, "semantic/positive": positive, "semantic/negative": negative}
    return Term(settings.weight, semantic_loss(found), figures)


def cosines(words: Tensor, targets: Tensor) -> Tensor:
    """Cosines (b, 3) of the head's answers (b, 3, E) and the vectors (b, E) of the anchors' classes."""
    return functional.cosine_similarity(words, targets[:, None, :], dim=2)


def semantic_loss(found: Tensor) -> Tensor:
    """Mean over pairs of the sum of (1 - cos) / 2 over the columns of (b, 3); 0-d."""
    return ((1 - found) / 2).sum(dim=1).mean()
