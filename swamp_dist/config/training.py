"""One training run and how DeepSpeed holds the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from swamp_dist.config.settings import Settings


class OptimizerSettings(Settings):
    """Adam over encoders and prototypes together."""

    lr: PositiveFloat = 1e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the moments."""
    eps: PositiveFloat = 1e-8
    """Adam's denominator floor."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay (AdamW); 0 is plain Adam."""
    clip_norm: PositiveFloat | None = None
    """Clip the global gradient norm to this; null = no clipping."""


class ScheduleSettings(Settings):
    """Learning rate as a pure function of the step."""

    kind: Literal["constant", "step", "cosine"] = "constant"
    """`step` multiplies by `decay` every `decay_every` epochs; `cosine` falls to `floor` at the end."""
    warmup_steps: NonNegativeInt = 0
    """Linear warm-up from 0 over this many steps, before any kind."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor of `step`."""
    decay_every: PositiveInt = 1
    """Epochs between two factors of `step`."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the peak that `cosine` ends at."""


class ValidateSettings(Settings):
    """Evaluation inside the training loop, on a split that is never the test split."""

    split: str
    """Split to validate on."""
    every: PositiveInt = 1
    """Epochs between validations."""
    metric: str = "pair/a_to_b/r_at_1"
    """What is compared: `<pair|class>/<a_to_b|b_to_a|mean>/<r_at_1|r_at_5|r_at_10|median_rank|map>`."""
    early_stop: PositiveInt | None = None
    """Stop after this many validations without improvement; null = never."""


class CheckpointSettings(Settings):
    """When progress is committed."""

    every: PositiveInt = 1000
    """Steps between commits; the last step is always committed."""
    keep: PositiveInt = 2
    """Newest commits kept; older ones are removed after the next commit is complete."""


class TrainSettings(Settings):
    """One training run over the shards."""

    epochs: PositiveInt = 15
    """Length of the run; an epoch is floor(entries of the split / batch) steps."""
    select: Literal["last", "best"] = "last"
    """Which weights the stage hands on; `best` needs `validate`."""
    init_from: Path | None = None
    """Run folder (or weights.safetensors) whose weights start this stage; optimiser, queue and
    step always start new."""
    init_prototypes: Literal["auto", "fresh", "require"] = "auto"
    """Prototypes of `init_from`: taken if of the same (K, D), never, or an error unless they fit."""
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    validate_on: ValidateSettings | None = None
    """Validation inside the loop; null = none."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    log_every: PositiveInt = 10
    """Steps between logged metrics."""
    histogram_every: PositiveInt = 200
    """Steps between TensorBoard histograms of prototype use; the last step has one too."""

    @model_validator(mode="after")
    def _best_needs_validation(self) -> TrainSettings:
        if self.select == "best" and self.validate_on is None:
            raise ValueError("select = best needs validate_on: there is nothing to choose by")
        if self.select == "best" and self.validate_on is not None and self.validate_on.every > self.epochs:
            raise ValueError(
                f"validate_on.every = {self.validate_on.every} is more than epochs = {self.epochs}: "
                "the run would never validate, so select = best would have nothing to choose by"
            )
        return self


class EngineSettings(Settings):
    """How DeepSpeed holds the model; never changes the numbers beyond rounding."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """0 replicates, 1 shards optimiser state, 2 also gradients, 3 also parameters. A resumed run may
    change it, like the number of ranks."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` autocasts the encoders; parameters, prototypes and the objective stay float32."""
    micro_batch: PositiveInt | None = None
    """Pairs encoded at a time on a rank, for batches whose activations do not fit; must divide the rank's
    pairs. The loss still sees the whole batch: micro-batches are encoded twice, so the encoders cost
    a third more. Dropout draws other masks for another size; null = all pairs of a rank at once."""
    threads: PositiveInt | None = None
    """Intra-op threads of a rank on a CPU; null leaves torch's choice. Ranks that share cores want 1."""
