"""The two encoders, and what becomes of the sets that they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Width
from swamp_dist.config.sets import CrossAttentionSettings, SetsSettings
from swamp_dist.encoders import EncoderSettings
from swamp_dist.encoders.cost import EncoderCost, Layer
from swamp_dist.encoders.encoder import Encoder
from swamp_dist.encoders.gated import GatedSettings
from swamp_dist.records import InputSpec
from swamp_dist.settings import Settings


class Doodle2SearchSettings(Settings):
    """Heads of Doodle2Search (Dey et al. 2019), which `objective.semantic` and `objective.domain` ask in
    training; an embedding does not pass them."""

    word_hidden: Width = 300
    """Hidden layer of the MLP to the vectors of class names."""
    domain_hidden: Width = 64
    """Both hidden layers of the MLP that tells sketches from photos."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout after the first hidden layer of each."""

    def cost(self, rows: int, embedding_dim: int, word_dim: int) -> EncoderCost:
        """Of `rows` pairs with their negatives: products, and what goes into them."""
        each, word, domain = 3 * rows, self.word_hidden, self.domain_hidden
        layers = [Layer(each, embedding_dim, word), Layer(each, word, word_dim)]
        layers += [Layer(each, embedding_dim, domain), Layer(each, domain, domain), Layer(each, domain, 1)]
        dropped = 3 if self.dropout > 0 else 1
        saved = 2 * embedding_dim + dropped * (word + domain) + domain + word_dim + 1
        return EncoderCost(layers, 0, each * saved)


class ModelSettings(Settings):
    """The two encoders; the prototypes live with the objective's settings."""

    embedding_dim: Width | None = 4096
    """Length D of the shared embedding; both encoders end in vectors of this size. null takes it from the
    weights that the stage starts from (`train.init_from`, `weights`)."""
    length: Literal["unit", "free"] = "unit"
    """`unit`: embeddings have length 1; `free`: that which the encoders give them, for Euclidean distances,
    as Doodle2Search compares. Inside the contrastive and the SwAMP term rows are of unit length anyway."""
    a: EncoderSettings = GatedSettings()
    """Encoder of modality A."""
    b: EncoderSettings = GatedSettings()
    """Encoder of modality B."""
    sets: SetsSettings | None = None
    """What makes an embedding of the sets of vectors (regions, words) that encoders give, shared by both;
    null for encoders that give one vector per item."""
    doodle2search: Doodle2SearchSettings | None = None
    """Heads for the semantic and the domain loss, used in training alone; null makes none."""

    @property
    def embeds(self) -> bool:
        """Whether items have embeddings, and are not scored pair by pair."""
        return self.sets is None or self.sets.embeds

    def width(self, encoder: Encoder, spec: InputSpec, embedding_dim: int) -> int:
        """What an encoder is built for: D or, where it gives sets, the length of an element."""
        if self.sets is None or not encoder.gives_sets(spec):
            return embedding_dim
        return self.sets.width(embedding_dim)

    def sets_problem(self, specs: Sequence[InputSpec]) -> str | None:
        """Why `sets` and the encoders do not belong together, with the fix; None where they do.

        Args:
            specs: items of a and of b, which the encoders take.
        """
        giving = [
            side
            for side, encoder, spec in zip("ab", (self.a, self.b), specs, strict=True)
            if encoder.gives_sets(spec)
        ]
        if giving and self.sets is None:
            named = " and ".join(f"model.{side}" for side in giving)
            return (
                f"{named}: the encoder gives a set of vectors for every item, and model.sets = null makes no "
                "embedding of it.\nFix: model.sets={kind: par}, or {kind: mean}; or an encoder of one vector"
            )
        if self.sets is not None and not self.sets.embeds and len(giving) == 1:
            other = "b" if giving == ["a"] else "a"
            return (
                f"model.sets = {self.sets.kind}: it compares sets with sets, and the encoder of "
                f"model.{other} gives one vector for every item.\n"
                "Fix: an encoder that gives sets (linear of a ragged field, gru with output: words, cnn with "
                "places: true), or model.sets={kind: par}"
            )
        if self.sets is not None and not giving:
            return (
                f"model.sets = {self.sets.kind}: neither encoder gives sets of vectors (model.a = "
                f"{self.a.kind}, model.b = {self.b.kind}).\nFix: model.sets=null; or encoders that do: "
                "linear of a ragged field, gru with output: words, cnn with places: true"
            )
        return None

    def costs(self, rows: int, specs: Sequence[InputSpec], embedding_dim: int) -> list[EncoderCost]:
        """Of a and of b, and of what pools their sets, on `rows` items each."""
        found = []
        for encoder, spec in zip((self.a, self.b), specs, strict=True):
            width = self.width(encoder, spec, embedding_dim)
            found.append(encoder.cost(rows, spec, width))
            if self.sets is not None and encoder.gives_sets(spec):
                found.append(self.sets.cost(rows, encoder.most_elements(spec), width))
        if self.sets is not None:
            found.append(EncoderCost([], self.sets.parameters(self.sets.width(embedding_dim)), 0))
        return found

    def score_cost(self, pairs: int, specs: Sequence[InputSpec], embedding_dim: int) -> EncoderCost | None:
        """Of scoring so many pairs of items; None where the model embeds."""
        if not isinstance(self.sets, CrossAttentionSettings):
            return None
        both = zip((self.a, self.b), specs, strict=True)
        a, b = (encoder.most_elements(spec) for encoder, spec in both)
        queries, contexts = (a, b) if self.sets.queries == "a" else (b, a)
        return self.sets.pair_cost(pairs, queries, contexts, self.sets.width(embedding_dim))

    @model_validator(mode="after")
    def _widths_divide(self) -> ModelSettings:
        if self.sets is not None and self.embedding_dim is not None:
            self.sets.width(self.embedding_dim)
        return self
