"""Two encoders, the shared prototypes and the logit scale: what DeepSpeed wraps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from swamp_dist.config import ModelSettings
from swamp_dist.encoders.encoder import Encoder, check_input
from swamp_dist.encoders.networks.words import WordsNetwork
from swamp_dist.errors import UserError
from swamp_dist.model.doodle_heads import DoodleHeads
from swamp_dist.model.logits import Logits, LogitStart, at_least_float32
from swamp_dist.model.sets import build_sets
from swamp_dist.records import Inputs, InputSpec, PairEmbeddings, PairSets, Reversals, Sets, Words


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
        weight = at_least_float32(self.weight)
        return functional.normalize(weight, dim=1) if self.normalize else weight


class DualEncoder(nn.Module):
    """phi_A, phi_B and the prototypes P (paper, section 2): two inputs -> embeddings, of unit length unless
    `is_free`."""

    def __init__(
        self,
        encoder_a: nn.Module,
        encoder_b: nn.Module,
        prototypes: Prototypes | None,
        logits: Logits | None = None,
        learning_rate_factors: tuple[float, float] = (1.0, 1.0),
        sets: nn.Module | None = None,
        embeds: bool = True,
        *,
        is_free: bool = False,
        heads: DoodleHeads | None = None,
    ) -> None:
        """The model of these parts.

        Args:
            sets: makes embeddings of the sets that encoders give; None where they give none.
            embeds: False: the sets stay as they are, for a score of pairs of them.
            is_free: embeddings keep the length that the encoders give them.
            heads: those of Doodle2Search, for training with negatives.
        """
        super().__init__()
        self.a = encoder_a
        self.b = encoder_b
        self.sets = sets
        self.embeds = embeds
        self.is_free = is_free
        self.prototypes = prototypes
        self.heads = heads
        self.logits = logits  # last: an optimiser's group of its own follows the order of the model
        self.learning_rate_factors = learning_rate_factors
        """Of the parameters of a and of b, multiples of the learning rate."""

    def forward(
        self,
        a: Inputs | None,
        b: Inputs | None,
        on_a: Callable[[Tensor], None] | None = None,
        negatives: Inputs | None = None,
        reversals: Reversals | None = None,
    ) -> PairEmbeddings | PairSets | Tensor | Sets:
        """Embed a batch of pairs, or one side where the other is None (evaluation). A model that does not
        embed gives the sets of its encoders.

        `on_a` is handed the embeddings of A, with gradient and of unit length, before those of B are
        computed. Where `is_free`, one side alone is of free length, and pairs come in both lengths.
        `negatives` are more inputs of B, one for each pair; `reversals` ask the heads besides.

        Embeddings are made float32 and unit length outside autocast, because the objective's
        exponents magnify rounding by 1/epsilon.
        """
        if a is None and b is None:
            raise ValueError("at least one modality is needed")
        if not self.embeds:
            return self._as_sets(a, b)
        if a is None or b is None:
            return self._embed(self.a, a, self.sets) if b is None else self._embed(self.b, b, self.sets)
        prototypes = None if self.prototypes is None else self.prototypes()
        scale, bias = (None, None) if self.logits is None else self.logits()
        rows_a = self._embed(self.a, a, self.sets)
        unit_a = unit_length(rows_a) if self.is_free else rows_a
        if on_a is not None:
            on_a(unit_a)
        rows_b = self._embed(self.b, b, self.sets)
        unit_b = unit_length(rows_b) if self.is_free else rows_b
        given = PairEmbeddings(unit_a, unit_b, prototypes, scale, bias)
        if self.is_free:
            given = given._replace(free_a=rows_a, free_b=rows_b)
        if negatives is None:
            return given
        unlike = self._embed(self.b, negatives, self.sets)
        if self.heads is None or reversals is None:
            return given._replace(negatives=unlike)
        words, domains = self.heads(rows_a, rows_b, unlike, reversals)
        return given._replace(negatives=unlike, words=words, domains=domains)

    def _as_sets(self, a: Inputs | None, b: Inputs | None) -> PairSets | Sets:
        """The elements as the encoders give them, whose `unit` says how long they are."""
        given = [encoder(x) for encoder, x in ((self.a, a), (self.b, b)) if x is not None]
        given = [Sets(at_least_float32(found.values), found.mask) for found in given]
        return given[0] if len(given) == 1 else PairSets(*given[0], *given[1])

    def _embed(self, encoder: nn.Module, x: Inputs | None, sets: nn.Module | None = None) -> Tensor:
        rows = encode_rows(encoder, x, sets)
        return rows if self.is_free else unit_length(rows)


def encode_rows(encoder: nn.Module, x: Inputs | None, sets: nn.Module | None = None) -> Tensor:
    """Embeddings (b, D) of one modality as the encoder gives them, at least float32; of sets, pooled.

    Raises:
        UserError: words for an encoder of arrays, or the reverse.
    """
    if isinstance(x, Words) != isinstance(encoder, WordsNetwork):
        takes, given = ("an array", "words") if isinstance(x, Words) else ("words", "an array")
        raise UserError(
            f"{type(encoder).__name__} takes {takes} and was given {given}.\n"
            "Fix: model.a belongs to data.a and model.b to data.b; "
            "kind words is for a field of words, gated and mlp are for vectors."
        )
    found: Tensor | Sets = encoder(x)
    rows: Tensor = _pooled(found, sets) if isinstance(found, Sets) else found
    return at_least_float32(rows)


def unit_length(rows: Tensor) -> Tensor:
    """Rows (..., D) brought to length 1."""
    return functional.normalize(rows, dim=-1)


def _pooled(found: Sets, sets: nn.Module | None) -> Tensor:
    if sets is None:
        raise UserError(
            "the encoder gives a set of vectors for every item, and the model makes no embedding of "
            "it.\nFix: model.sets={kind: par}, or {kind: mean}"
        )
    rows: Tensor = sets(found)
    return rows


def build_encoder(encoder: Encoder, spec: InputSpec, embedding_dim: int) -> nn.Module:
    """The network that an encoder's settings describe for inputs like `spec`.

    Raises:
        UserError: the encoder does not take such inputs.
    """
    check_input(encoder, spec)
    return encoder.build(spec, embedding_dim)


def build_dual_encoder(
    model: ModelSettings,
    spec_a: InputSpec | tuple[int, ...],
    spec_b: InputSpec | tuple[int, ...],
    num_prototypes: int | None,
    normalize_prototypes: bool,
    seed: int,
    logits: LogitStart | None = None,
    word_dim: int | None = None,
) -> DualEncoder:
    """A freshly initialised model; the same seed gives the same weights on every rank and world size.

    Encoders are drawn before the prototypes, so stages with and without the SwAMP term start from
    the same encoders, and heads too. A spec that is a bare shape is one of arrays. `logits`: None makes none.
    `word_dim`: values of a class's vector, for the heads of `model.doodle2search`; None makes none.

    Raises:
        UserError: an encoder does not take its inputs, or gives sets that nothing makes embeddings of.
    """
    dim = model.embedding_dim
    assert dim is not None, "a stage takes it from the weights before it builds the model"
    specs = _spec(spec_a), _spec(spec_b)
    for encoder, spec in zip((model.a, model.b), specs, strict=True):
        check_input(encoder, spec)
    if (problem := model.sets_problem(specs)) is not None:
        raise UserError(problem)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder_a = build_encoder(model.a, specs[0], model.width(model.a, specs[0], dim))
        encoder_b = build_encoder(model.b, specs[1], model.width(model.b, specs[1], dim))
        embeds = model.sets is None or model.sets.embeds
        sets = build_sets(model.sets, model.sets.width(dim)) if model.sets is not None and embeds else None
        heads = None
        if model.doodle2search is not None and word_dim is not None:
            heads = DoodleHeads(model.doodle2search, dim, word_dim)
        prototypes = None
        if num_prototypes is not None:
            prototypes = Prototypes(num_prototypes, dim, normalize_prototypes)
        made = None if logits is None else Logits(logits)
        factors = model.a.learning_rate_factor, model.b.learning_rate_factor
        is_free = model.length == "free"
        return DualEncoder(
            encoder_a, encoder_b, prototypes, made, factors, sets, embeds, is_free=is_free, heads=heads
        )


def _spec(spec: InputSpec | tuple[int, ...]) -> InputSpec:
    return spec if isinstance(spec, InputSpec) else InputSpec(spec)
