"""Domain loss of Doodle2Search (Dey et al. 2019, section 3.2): with z_r the logit that row r is a photo,

    L = mean over i and r in {a, b, n} of softplus(z_r,i) - y_r z_r,i,   y = 0 for sketches, 1 for photos.

Every row reaches the head through a reversal of its gradient (`model/doodle_heads.py`), whose strength
`objective/reversals.py` tells: the head learns to tell sketches from photos, the encoders to be alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from swamp_dist.config import DomainSettings
from swamp_dist.objective.term import Term, TermInputs

TAGS: Mapping[str, str] = {
    "loss/domain": "Domain loss of sketch, photo and negative before its weight, mean over ranks.",
    "domain/accuracy": "Share of rows that the head takes for what they are; 0.67 if always photos.",
}
_PHOTOS = (0.0, 1.0, 1.0)
"""Whether anchor, partner and negative are photos."""


def term(settings: DomainSettings, inputs: TermInputs) -> Term:
    """The loss of my triplets; nothing is computed where its weight is 0.

    Raises:
        ValueError: the model has no heads.
    """
    if settings.weight == 0:
        return Term()
    logits = inputs.mine.domains
    if logits is None:
        raise ValueError("the domain term needs model.doodle2search")
    truth = photos(logits)
    right = ((logits.detach() > 0) == (truth > 0)).to(logits.dtype)
    return Term(settings.weight, domain_loss(logits), {"domain/accuracy": right.mean()})


def photos(logits: Tensor) -> Tensor:
    """What is true of the logits (b, 3): 0 for anchors, 1 for partners and negatives."""
    return logits.new_tensor(_PHOTOS).expand_as(logits)


def domain_loss(logits: Tensor) -> Tensor:
    """Sigmoid cross-entropy of logits (b, 3), mean over all; 0-d."""
    return functional.binary_cross_entropy_with_logits(logits, photos(logits))
