"""What the negatives and heads of Doodle2Search add to a step."""

from __future__ import annotations

from swamp_dist.config import StageSettings
from swamp_dist.encoders.cost import EncoderCost
from swamp_dist.records import InputSpec

_WORD_DIM = 300
"""Values of a class's vector: those of word2vec, which sets with vectors of classes hold."""


def negatives_cost(
    settings: StageSettings, rows: int, inputs: tuple[InputSpec, InputSpec], embedding_dim: int
) -> EncoderCost | None:
    """Encoding a negative beside each of `rows` pairs, whose weights are counted already; None where no term
    asks for them."""
    if not settings.objective.takes_triplets:
        return None
    model, spec = settings.model, inputs[1]
    return model.b.cost(rows, spec, model.width(model.b, spec, embedding_dim))


def heads_cost(settings: StageSettings, rows: int, embedding_dim: int) -> EncoderCost | None:
    """The heads on `rows` pairs with their negatives; None where there are none."""
    heads = settings.model.doodle2search
    return None if heads is None else heads.cost(rows, embedding_dim, _WORD_DIM)
