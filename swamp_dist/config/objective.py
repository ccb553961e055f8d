"""The objective: contrastive term, queue, solve, swapped targets. Defaults are the paper's video-text
ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ByteSize, Field, model_validator

from swamp_dist.bounds import Count, CountOrNone, Factor, Memory, Scale
from swamp_dist.config.contrastive import LARGEST_SCALE as LARGEST_SCALE
from swamp_dist.config.contrastive import LEAST_TEMPERATURE as LEAST_TEMPERATURE
from swamp_dist.config.contrastive import ContrastiveSettings as ContrastiveSettings
from swamp_dist.config.terms import DomainSettings, OwnRowsSettings, SemanticSettings, TripletSettings
from swamp_dist.config.terms import TermSettings as TermSettings
from swamp_dist.settings import SAME_RESULT, Settings


class SinkhornSettings(Settings):
    """How the balanced assignment is solved."""

    iterations: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Fixed number of iterations; null stops at `tolerance`."""
    max_iterations: Annotated[int, Field(ge=1, le=10**6)] = 50
    """Upper limit when stopping at `tolerance`."""
    tolerance: Annotated[float, Field(ge=1e-15, le=1e3)] = 0.01
    """Stop when the mean relative error of the prototype marginal is below this."""
    check_every: Annotated[int, Field(ge=1, le=10**6)] = 5
    """Iterations between two looks at the error (the only host reads of the solve)."""
    warm_start: bool = True
    """Start from the prototype potentials of the previous step; false = cold start, the paper's
    and SwAV's order, which equals POT iteration by iteration."""
    start: Literal["scores", "literal"] = "scores"
    """What a cold start takes its first masses from, under u = 1: `scores`, exp(s / epsilon), as SwAV does;
    `literal`, the paper's cost -log softmax(s / temperature) under eta, so softmax(s / temperature)^eta. Both
    converge to the same targets; a solve cut at a few iterations does not. With `warm_start` only the first
    solve of a stage starts cold."""
    momentum: bool = False
    """Measure the masses ahead of the potentials (Nesterov's acceleration, started over where the error
    grows): two to four times fewer iterations to a small error at epsilon 0.005 and below, little change at
    0.05. Other iterates than the paper's, the same fixed point."""
    score_precision: Literal["float32", "bfloat16"] = "float32"
    """Operands of the queue's score product; sums and scores stay float32. `bfloat16` is many times faster on
    a GPU and moves an exponent of the solve by at most 2^-7 / epsilon; refused below epsilon = 0.02."""
    score_memory: Annotated[Memory, SAME_RESULT] = ByteSize(4 * 2**30)
    """Bytes (or 4GiB) for scores and kernel per rank. Where rows times prototypes need more, they are made
    anew from the embeddings in every iteration, a block of rows at a time: slower, same targets."""


class QueueSettings(Settings):
    """The queue of recent embeddings that joins the batch in the solve."""

    size: CountOrNone = 2048
    """Queue size Q in pairs."""
    counts_batch: bool = True
    """true: the solved set is the newest max(Q, B) rows, the batch included (Algorithm 1);
    false: the newest Q rows before the batch, plus the batch (Appendix E: 1,280 + 128)."""
    start_when_filled: CountOrNone | None = None
    """Rows that must be valid before the SwAMP term counts; null = min(K, capacity), 0 = from step 1."""
    unique_items: bool = False
    """Solve one row of each item (an entry or, with `data.clips`, a caption of one): a row of the queue does
    not count once its item is in the batch or in a newer row, and keeps its slot; all rows of the batch
    count. `start_when_filled` then asks for rows that count; a term that has started stays on. Off, all rows
    count, as in the paper."""
    layout: Annotated[Literal["auto", "replicated", "sharded"], SAME_RESULT] = "auto"
    """Where rows live. `replicated`: every rank holds the whole queue; `sharded`: each holds the rows it
    made, and only vectors of K are exchanged to solve them. `auto` replicates where the contrastive term
    gathers one side of the batch anyway (its weight is above 0) and the full queue, 8 * D + 8 bytes per row,
    takes at most 1 GiB; it shards otherwise."""
    solve: Annotated[Literal["auto", "split", "whole"], SAME_RESULT] = "auto"
    """`split`: each rank takes a share of the rows and only K-vectors are reduced; `whole`: each rank
    solves all rows without traffic, which needs the replicated layout. Same targets; `auto` takes the
    cheaper by counted cost."""

    @model_validator(mode="after")
    def _whole_needs_all_rows(self) -> QueueSettings:
        if self.layout == "sharded" and self.solve == "whole":
            raise ValueError(
                "solve = whole with layout = sharded: no rank holds all rows; use solve: split or layout: "
                "replicated"
            )
        return self


class KMeansSettings(Settings):
    """Embeddings that `prototypes_start: kmeans` gathers prototypes from."""

    items: Count = 10_000
    """Entries of the training split, drawn by the seed: one pair of each, both modalities; at most all."""
    iterations: Count = 50
    """Upper limit; it stops when no embedding changes its centre."""


class SwampSettings(TermSettings):
    """The swapped-assignment term (paper, section 3)."""

    weight: Factor = 0.25
    """lambda of eq. 6; 0 skips its work: no prototypes, no queue, no solve."""
    weight_as: Literal["literal", "gradient_ratio"] = "literal"
    """`literal`: the term's factor is `weight`, whatever the contrastive term beside it is reduced to.
    `gradient_ratio`: it is min(weight, gradient_ratio * |g_c| / |g_s|), the norms of the gradients that reach
    the embeddings of the whole batch from the weighted contrastive term and from SwAMP, measured in steps
    before; the first step takes `weight`."""
    gradient_ratio: Scale = 0.3
    """How strongly SwAMP may pull beside the contrastive term, with `weight_as: gradient_ratio`."""
    measure_every: Count | None = 10
    """Steps between two measurements of |g_c| and |g_s|; the last one is the figure swamp/effective_ratio. It
    changes no gradient. null measures nothing."""
    prototypes: Count = 500
    """Number of latent classes K."""
    normalize_prototypes: bool = True
    """Scale prototypes to unit length in the forward pass; false for the synthetic experiment."""
    temperature: Scale = 0.25
    """tau of the classifier (eq. 2)."""
    eta: Scale = 5.0
    """Inverse weight of the entropic regulariser (section 3); the solve sees epsilon = tau / eta."""
    prototypes_start: Literal["random", "kmeans"] = "random"
    """`random` unit vectors, or centres of a spherical k-means over embeddings of the encoders as the stage
    starts. Never where a run goes on, nor over prototypes of `train.init_from` that are taken over. An option
    only: it helped on none of the simulated sets."""
    kmeans: KMeansSettings = KMeansSettings()
    assignment: Literal["soft", "hard"] = "soft"
    """Soft targets, or the arg-max of each row."""
    queue: QueueSettings = QueueSettings()
    sinkhorn: SinkhornSettings = SinkhornSettings()

    @model_validator(mode="after")
    def _ratio_is_measured(self) -> SwampSettings:
        if self.weight_as == "gradient_ratio" and self.measure_every is None:
            raise ValueError(
                "measure_every = null with weight_as = gradient_ratio: a weight that follows gradients "
                "has to measure them; set measure_every: 10, or weight_as: literal"
            )
        default = type(self).model_fields["gradient_ratio"].default
        if self.weight_as == "literal" and self.gradient_ratio != default:
            raise ValueError(
                f"gradient_ratio = {self.gradient_ratio:g} with weight_as = literal: it would not count; set "
                f"weight_as: gradient_ratio, or leave gradient_ratio at {default:g}"
            )
        return self

    def same_result(self) -> frozenset[str]:
        """A weight that does not follow the measurements does not depend on when they are made."""
        return frozenset({"measure_every"} if self.weight_as == "literal" else ())

    @property
    def epsilon(self) -> float:
        """Entropic regularisation on raw scores: -log softmax(s/tau) times eta is s*eta/tau up to a
        row factor that Sinkhorn absorbs."""
        return self.temperature / self.eta


class ObjectiveSettings(Settings):
    """Total = contrastive.weight * L_c + swamp.weight * L_s (eq. 6), and the terms of Doodle2Search."""

    contrastive: ContrastiveSettings = ContrastiveSettings()
    swamp: SwampSettings = SwampSettings()
    triplet: TripletSettings = TripletSettings()
    semantic: SemanticSettings = SemanticSettings()
    domain: DomainSettings = DomainSettings()
    precision: Literal["ieee", "tf32", "bf16"] = "ieee"
    """Operands of the contrastive term's product and its gradient's, and of the gradient's of SwAMP's own
    scores: float32 as it is, or rounded to 11 (`tf32`) or 8 (`bf16`) significant bits; sums stay float32. A
    cosine moves by at most 0.00098 or 0.0078. A GPU multiplies them faster; a CPU rounds them first and takes
    longer. Own scores themselves, the solve, soft targets and evaluation stay `ieee`."""

    @property
    def compares_ranks(self) -> bool:
        """Whether a term asks for the pairs of all ranks with gradient. Every term may, but SwAMP and those
        of every pair by itself do not."""
        return self.contrastive.weight > 0 or self.other_comparisons

    @property
    def other_comparisons(self) -> bool:
        """Whether a term besides the contrastive one asks for the pairs of all ranks with gradient."""
        return any(
            value.weight > 0
            for name, value in self
            if isinstance(value, TermSettings)
            and not isinstance(value, OwnRowsSettings)
            and name not in ("contrastive", "swamp")
        )

    @property
    def asks_heads(self) -> bool:
        """Whether a term asks the heads of Doodle2Search."""
        return self.semantic.weight > 0 or self.domain.weight > 0

    @property
    def takes_triplets(self) -> bool:
        """Whether a term asks for negatives."""
        return self.triplet.weight > 0 or self.asks_heads

    def balance(self, pairs: int) -> str | None:
        """What lambda multiplies and what stands beside it in a batch of `pairs`, in words; None where one of
        both terms is off."""
        contrastive, swamp = self.contrastive, self.swamp
        if contrastive.weight == 0 or swamp.weight == 0:
            return None
        factor = f"{swamp.weight:g}"
        if swamp.weight_as == "gradient_ratio":
            factor = f"min({swamp.weight:g}, {swamp.gradient_ratio:g} |g_c| / |g_s|)"
        line = (
            f"lambda = {factor} multiplies SwAMP's mean over the batch, beside {contrastive.weight:g} times "
            f"the contrastive term's {contrastive.reduction} over the batch"
        )
        if contrastive.reduction == "sum":
            line += f": as lambda / {pairs} beside its mean"
        return line

    @model_validator(mode="after")
    def _ratio_has_two_terms(self) -> ObjectiveSettings:
        if (
            self.swamp.weight > 0
            and self.swamp.weight_as == "gradient_ratio"
            and self.contrastive.weight == 0
        ):
            raise ValueError(
                "swamp.weight_as = gradient_ratio with contrastive.weight = 0: there is no gradient of a "
                "contrastive term to hold SwAMP's against; set contrastive.weight: 1, or swamp.weight_as: "
                "literal"
            )
        return self

    @model_validator(mode="after")
    def _weights_have_targets(self) -> ObjectiveSettings:
        if self.contrastive.weighs_negatives and self.swamp.weight == 0:
            raise ValueError(
                "contrastive.negative_weights = swapped_targets with swamp.weight = 0: without the SwAMP "
                "term there are no targets to weigh negatives by; set swamp.weight above 0 (0.25 is the "
                "paper's), or contrastive.negative_weights: equal"
            )
        return self

    @model_validator(mode="after")
    def _precision_counts(self) -> ObjectiveSettings:
        if self.precision != "ieee" and self.contrastive.weight == 0 and self.swamp.weight == 0:
            raise ValueError(
                f"precision = {self.precision} with contrastive.weight = 0 and swamp.weight = 0: no other "
                "term has a product that it would count for; set precision: ieee"
            )
        return self

    @model_validator(mode="after")
    def _some_term_counts(self) -> ObjectiveSettings:
        terms = {name: value.weight for name, value in self if isinstance(value, TermSettings)}
        if not any(terms.values()):
            names = ", ".join(f"{name}.weight" for name in terms)
            raise ValueError(f"{names} are all 0: nothing would be trained")
        return self
