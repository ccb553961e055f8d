"""Two encoders and the shared prototypes: what DeepSpeed wraps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from swamp_dist.config import EncoderSettings, GatedSettings, MlpSettings, ModelSettings, WordsSettings
from swamp_dist.model.gated import GatedUnit
from swamp_dist.model.mlp import Mlp
from swamp_dist.model.words import WordsEncoder
from swamp_dist.records import Inputs, InputSpec, PairEmbeddings, UserError, Words


class Prototypes(nn.Module):
    """K class vectors shared by both modalities (paper, eq. 2), started as random unit vectors.

    Normalisation is functional, in the forward pass, so that it survives ZeRO-3, where the weight
    itself exists only in pieces.
    """

    def __init__(self, count: int, embedding_dim: int, normalize: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(functional.normalize(torch.randn(count, embedding_dim), dim=1))
        self.normalize = normalize

    def forward(self) -> Tensor:
        """(K, D) float32 (float64 of a float64 model), of unit length unless `normalize` is off."""
        weight = _at_least_float32(self.weight)
        return functional.normalize(weight, dim=1) if self.normalize else weight


class DualEncoder(nn.Module):
    """phi_A, phi_B and the prototypes P (paper, section 2): two inputs -> unit-length embeddings."""

    def __init__(self, encoder_a: nn.Module, encoder_b: nn.Module, prototypes: Prototypes | None) -> None:
        super().__init__()
        self.a = encoder_a
        self.b = encoder_b
        self.prototypes = prototypes

    def forward(
        self, a: Inputs | None, b: Inputs | None, on_a: Callable[[Tensor], None] | None = None
    ) -> PairEmbeddings | Tensor:
        """Embed a batch of pairs, or one side where the other is None (evaluation).

        `on_a` is handed the embeddings of A, with gradient, before those of B are computed.

        Embeddings are made float32 and unit length outside autocast, because the objective's
        exponents magnify rounding by 1/epsilon.
        """
        if a is None or b is None:
            if a is None and b is None:
                raise ValueError("at least one modality is needed")
            return self._embed(self.a, a) if b is None else self._embed(self.b, b)
        prototypes = None if self.prototypes is None else self.prototypes()
        rows_a = self._embed(self.a, a)
        if on_a is not None:
            on_a(rows_a)
        return PairEmbeddings(rows_a, self._embed(self.b, b), prototypes)

    @staticmethod
    def _embed(encoder: nn.Module, x: Inputs | None) -> Tensor:
        if isinstance(x, Words) != isinstance(encoder, WordsEncoder):
            takes, given = ("an array", "words") if isinstance(x, Words) else ("words", "an array")
            raise UserError(
                f"{type(encoder).__name__} takes {takes} and was given {given}.\nFix: model.a belongs to data.a and "
                "model.b to data.b; kind words is for a field of words, gated and mlp are for vectors."
            )
        rows: Tensor = encoder(x)
        return functional.normalize(_at_least_float32(rows), dim=1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def build_encoder(settings: EncoderSettings, spec: InputSpec, embedding_dim: int) -> nn.Module:
    """The encoder that `settings` describe for inputs like `spec`.

    Raises:
        UserError: words for an encoder of vectors or the reverse, not one vector an item, or parts that
            are not as wide as the vector.
    """
    _check_input(settings, spec)
    match settings:
        case MlpSettings():
            return Mlp(spec.shape[0], settings.hidden, embedding_dim, settings.dropout, settings.layer_norm)
        case GatedSettings():
            return GatedUnit(spec.shape[0], embedding_dim, settings.unit_parts)
        case WordsSettings():
            assert spec.word_dim is not None
            return WordsEncoder(spec.word_dim, settings.sentence_dim or embedding_dim, embedding_dim)


def _check_input(settings: EncoderSettings, spec: InputSpec) -> None:
    takes_words = isinstance(settings, WordsSettings)
    if takes_words != (spec.word_dim is not None):
        found, kind = ("an array", "gated or mlp") if takes_words else ("words of a word table", "words")
        raise UserError(
            f"encoder {settings.kind!r} takes {'words' if takes_words else 'one vector an item'}, but the field "
            f"holds {found} of shape {spec.shape}.\nFix: set the kind of this modality's encoder (model.a for "
            f"data.a, model.b for data.b) to {kind}, or name another field."
        )
    if len(spec.shape) != 1:
        raise UserError(
            f"encoder {settings.kind!r} takes one vector an item, but the field holds arrays of shape {spec.shape}"
        )
    parts = settings.unit_parts if isinstance(settings, GatedSettings) else None
    if parts is not None and sum(parts) != spec.shape[0]:
        raise UserError(
            f"unit_parts = {list(parts)}: expected widths that add up to the {spec.shape[0]} values of the "
            f"field, found {sum(parts)}"
        )


def build_dual_encoder(
    model: ModelSettings,
    spec_a: InputSpec | tuple[int, ...],
    spec_b: InputSpec | tuple[int, ...],
    num_prototypes: int | None,
    normalize_prototypes: bool,
    seed: int,
) -> DualEncoder:
    """A freshly initialised model; the same seed gives the same weights on every rank and world size.

    Encoders are drawn before the prototypes, so stages with and without the SwAMP term start from
    the same encoders. A spec that is a bare shape is one of arrays.
    """
    assert model.embedding_dim is not None, "a stage takes it from the weights before it builds the model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder_a = build_encoder(model.a, _spec(spec_a), model.embedding_dim)
        encoder_b = build_encoder(model.b, _spec(spec_b), model.embedding_dim)
        prototypes = None
        if num_prototypes is not None:
            prototypes = Prototypes(num_prototypes, model.embedding_dim, normalize_prototypes)
        return DualEncoder(encoder_a, encoder_b, prototypes)


def _spec(spec: InputSpec | tuple[int, ...]) -> InputSpec:
    return spec if isinstance(spec, InputSpec) else InputSpec(spec)
