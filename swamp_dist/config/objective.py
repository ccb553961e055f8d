"""The objective: contrastive term, queue, solve, swapped targets. Defaults are the paper's video-text ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    ByteSize,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from swamp_dist.config.settings import Settings


class ContrastiveSettings(Settings):
    """The contrastive term, in either reading."""

    weight: NonNegativeFloat = 1.0
    """Factor of the term in the total; 0 skips its work."""
    negatives: Literal["all", "hardest"] = "all"
    """`all`: mean over all negatives (Miech et al. 2019, used for video-text);
    `hardest`: the most violating negative of the batch, both ways (paper, eq. 1)."""
    margin: NonNegativeFloat = 0.1
    """Margin alpha of the hinge, in cosine units."""
    reduction: Literal["mean", "sum"] = "mean"
    """`sum` is exactly global batch size times `mean` (eq. 1 is written as a sum). `hardest` only."""
    all_negatives_steps: NonNegativeInt = 0
    """`hardest` only: use the mean over all negatives for this many first steps, against collapse."""
    in_entry_share: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    """`all` only, with several pairs per entry: share of the negative weight on pairs of the same
    entry (`hard_negative_rate` of Miech et al. 2019); null weights all negatives equally."""
    chunk: PositiveInt | None = None
    """Columns of the batch compared at a time, so that memory beyond the gathered embeddings does not
    grow with the batch: same losses and gradients up to rounding; null = all columns at once."""


class SinkhornSettings(Settings):
    """How the balanced assignment is solved."""

    iterations: PositiveInt | None = None
    """Fixed number of iterations; null stops at `tolerance`."""
    max_iterations: PositiveInt = 50
    """Upper limit when stopping at `tolerance`."""
    tolerance: PositiveFloat = 0.01
    """Stop when the mean relative error of the prototype marginal is below this."""
    check_every: PositiveInt = 5
    """Iterations between two looks at the error (the only host reads of the solve)."""
    warm_start: bool = True
    """Start from the prototype potentials of the previous step; false = cold start, the paper's
    and SwAV's order, which equals POT iteration by iteration."""
    momentum: bool = False
    """Measure the masses ahead of the potentials (Nesterov's acceleration, started over where the error grows): two
    to four times fewer iterations to a small error at epsilon 0.005 and below, little change at 0.05. Other iterates
    than the paper's, the same fixed point."""
    score_precision: Literal["float32", "bfloat16"] = "float32"
    """Operands of the queue's score product; sums and scores stay float32. `bfloat16` is many times faster on a GPU
    and moves an exponent of the solve by at most 2^-7 / epsilon; refused below epsilon = 0.02."""
    score_memory: Annotated[ByteSize, Field(gt=0)] = ByteSize(4 * 2**30)
    """Bytes (or 4GiB) for scores and kernel on a rank. Where rows times prototypes need more, they are made
    anew from the embeddings in every iteration, a block of rows at a time: slower, same targets."""


class QueueSettings(Settings):
    """The queue of recent embeddings that joins the batch in the solve."""

    size: NonNegativeInt = 2048
    """Queue size Q in pairs."""
    counts_batch: bool = True
    """true: the solved set is the newest max(Q, B) rows, the batch included (Algorithm 1);
    false: the newest Q rows before the batch, plus the batch (Appendix E: 1,280 + 128)."""
    start_when_filled: NonNegativeInt | None = None
    """Rows that must be valid before the SwAMP term counts; null = min(K, capacity), 0 = from step 1."""
    layout: Literal["auto", "replicated", "sharded"] = "auto"
    """Where rows live. `replicated`: every rank holds the whole queue; `sharded`: each holds the rows it made,
    and only vectors of K are exchanged to solve them. `auto` replicates where the contrastive term gathers the
    batch anyway (its weight is above 0) and the full queue, 8 * D + 8 bytes a row, takes at most 1 GiB;
    it shards otherwise."""
    solve: Literal["auto", "split", "whole"] = "auto"
    """`split`: each rank takes a share of the rows and only K-vectors are reduced; `whole`: each rank
    solves all rows without traffic, which needs the replicated layout. Same targets; `auto` takes the
    cheaper by counted cost."""

    @model_validator(mode="after")
    def _whole_needs_all_rows(self) -> QueueSettings:
        if self.layout == "sharded" and self.solve == "whole":
            raise ValueError(
                "solve = whole with layout = sharded: no rank holds all rows; use solve: split or layout: replicated"
            )
        return self


class SwampSettings(Settings):
    """The swapped-assignment term (paper, section 3)."""

    weight: NonNegativeFloat = 0.25
    """lambda of eq. 6; 0 skips its work: no prototypes, no queue, no solve."""
    prototypes: PositiveInt = 500
    """Number of latent classes K."""
    normalize_prototypes: bool = True
    """Scale prototypes to unit length in the forward pass; false for the synthetic experiment."""
    temperature: PositiveFloat = 0.25
    """tau of the classifier (eq. 2)."""
    eta: PositiveFloat = 5.0
    """Inverse weight of the entropic regulariser (section 3); the solve sees epsilon = tau / eta."""
    assignment: Literal["soft", "hard"] = "soft"
    """Soft targets, or the arg-max of each row."""
    queue: QueueSettings = QueueSettings()
    sinkhorn: SinkhornSettings = SinkhornSettings()

    @property
    def epsilon(self) -> float:
        """Entropic regularisation on raw scores: -log softmax(s/tau) times eta is s*eta/tau up to a
        row factor that Sinkhorn absorbs."""
        return self.temperature / self.eta


class ObjectiveSettings(Settings):
    """Total = contrastive.weight * L_c + swamp.weight * L_s (eq. 6)."""

    contrastive: ContrastiveSettings = ContrastiveSettings()
    swamp: SwampSettings = SwampSettings()

    @model_validator(mode="after")
    def _some_term_counts(self) -> ObjectiveSettings:
        if self.contrastive.weight == 0 and self.swamp.weight == 0:
            raise ValueError("contrastive.weight and swamp.weight are both 0: nothing would be trained")
        return self
