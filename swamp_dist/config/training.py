"""One training run and how DeepSpeed holds the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Cores, Count, CountOrNone, Factor
from swamp_dist.settings import SAME_RESULT, WORKING_FOLDER, Settings

_Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(Settings):
    """One optimiser over encoders and prototypes together."""

    kind: Literal["adam", "sgd"] = "adam"
    """`adam`, or `sgd` with momentum, as Doodle2Search is trained."""
    lr: Annotated[float, Field(ge=1e-12, le=1e3)] = 1e-4
    """Peak learning rate."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    """Adam's decay rates of the moments."""
    eps: Annotated[float, Field(ge=1e-30, le=1)] = 1e-8
    """Adam's denominator floor."""
    fused: bool = False
    """`adam`: one pass over a parameter and its moments, a third to a sixth of the time on a CPU; the same
    formula, rounded in another way, so a run keeps to what it began with."""
    weight_decay: Factor = 0.0
    """Weight decay of every trained parameter but the logit scale and bias. `adam`: decoupled (AdamW), times
    the learning rate of its encoder, 0 is plain Adam; `sgd`: added to the gradient."""
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """`sgd`: share of the last update that goes on."""
    nesterov: bool = True
    """`sgd`: take the gradient's step ahead of the momentum's (Sutskever et al. 2013)."""
    clip_norm: Annotated[float, Field(ge=1e-9, le=1e9)] | None = None
    """Clip the global gradient norm to this; null = no clipping."""


class ScheduleSettings(Settings):
    """Learning rate as a pure function of the step."""

    kind: Literal["constant", "step", "cosine"] = "constant"
    """`step` multiplies by `decay` every `decay_every` epochs; `cosine` falls to `floor` at the end."""
    warmup_steps: CountOrNone = 0
    """Linear warm-up from 0 over this many steps, before any kind."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor of `step`."""
    decay_every: Count = 1
    """Epochs between two factors of `step`."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the peak that `cosine` ends at."""
    extend: Annotated[Literal["hold", "replan"], SAME_RESULT] = "hold"
    """What `cosine` does where a run goes on with more `epochs` than it was begun with: `hold` stays at the
    end of its schedule, `replan` lays the schedule over all epochs from where the run goes on."""


class ValidateSettings(Settings):
    """Evaluation inside the training loop, on a split that is never the test split."""

    split: str
    """Split to validate on."""
    gallery: str | None = None
    """Split that holds modality B, as of `evaluate`; null: `split` holds both."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """What items are ranked by, as of `evaluate`."""
    every: Count = 1
    """Epochs between validations; none follows the last epoch unless it is one of these."""
    metric: str = "pair/a_to_b/r_at_1"
    """What is compared: `<pair|class>/<a_to_b|b_to_a|mean>/<r_at_1|r_at_5|r_at_10|median_rank|map>`, or
    `<pair|class>/both/rsum`, the sum of the three recalls of both directions; by class also p_at_K, map_at_K,
    map_at_K_hits and hit_at_N for any numbers."""
    early_stop: Count | None = None
    """Stop after this many validations without improvement; null = never."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that are read."""
        return (self.split,) if self.gallery is None else (self.split, self.gallery)


class CheckpointSettings(Settings):
    """When progress is committed."""

    every: Count = 1000
    """Steps between checkpoints; the last step is always committed."""
    keep: Count = 2
    """Newest commits kept; older ones are removed after the next commit is complete."""


class AlarmSettings(Settings):
    """What is done when a training learns nothing, or SwAMP rules it: the loss or the scores stay where all
    scores are equal, or SwAMP pulls more strongly at the embeddings than the contrastive term."""

    action: Literal["warn", "stop"] = "warn"
    """`warn`: a line in the log, an event, a line in `swamp status` and in the result; `stop`: the same, then
    a commit, and the run ends with code 1."""
    grace_steps: CountOrNone = 200
    """First steps in which nothing is said, and as many after `all_negatives_steps`: a run begins where all
    scores are equal. Raise it where the learning rate warms up for longer."""
    count: Count = 20
    """Steps in a row that raise an alarm, and that clear it."""


LoggerName = Literal["tensorboard", "csv", "wandb", "trackio", "mlflow"]
"""Programs that a run's figures can be sent to."""


class TrainSettings(Settings):
    """One training run over the shards."""

    epochs: Count = 15
    """Length of the run; an epoch is floor(entries of the split / batch) steps."""
    select: Literal["last", "best"] = "last"
    """Which weights the stage hands on; `best` needs `validate`."""
    init_from: Annotated[Path | None, WORKING_FOLDER] = None
    """Whose weights start this stage, relative to the working folder: a run folder (of a run that has not
    ended: its newest checkpoint), RUN@STEP, a checkpoint's folder or a .safetensors file; optimiser, queue
    and step always start new."""
    init_prototypes: Literal["auto", "fresh", "require"] = "auto"
    """Prototypes of `init_from`: taken if of the same (K, D), never, or an error unless they fit."""
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    validate_on: ValidateSettings | None = None
    """Validation inside the loop; null = none."""
    checkpoint: Annotated[CheckpointSettings, SAME_RESULT] = CheckpointSettings()
    alarms: Annotated[AlarmSettings, SAME_RESULT] = AlarmSettings()
    log_every: Annotated[Count, SAME_RESULT] = 10
    """Steps between logged metrics; what they alone show is computed on these, so 1 makes steps longer."""
    histogram_every: Annotated[Count, SAME_RESULT] = 200
    """Steps between histograms of prototype use; the last step has one too."""
    loggers: Annotated[tuple[LoggerName, ...], SAME_RESULT] = ("tensorboard",)
    """Where figures go beside metrics.jsonl: `tensorboard` and `csv` write into the run folder; `wandb`,
    `trackio` and `mlflow` take their own environment variables (WANDB_MODE=offline, MLFLOW_TRACKING_URI) and
    have to be installed."""

    @model_validator(mode="after")
    def _best_needs_validation(self) -> TrainSettings:
        if self.select == "best" and self.validate_on is None:
            raise ValueError("select = best needs validate_on: there is nothing to choose by")
        if self.select == "best" and (every := self.never_reached) is not None:
            raise ValueError(
                f"validate_on.every = {every} is more than epochs = {self.epochs}: "
                "the run would never validate, so select = best would have nothing to choose by"
            )
        return self

    @property
    def never_reached(self) -> int | None:
        """Epochs between validations where the run has fewer and so never validates; else None."""
        every = None if self.validate_on is None else self.validate_on.every
        return every if every is not None and every > self.epochs else None


class EngineSettings(Settings):
    """How DeepSpeed holds the model; never changes the numbers beyond rounding."""

    zero_stage: Annotated[Literal[0, 1, 2, 3], SAME_RESULT] = 0
    """0 replicates, 1 shards optimiser state, 2 also gradients, 3 also parameters. A resumed run may
    change it, like the number of ranks."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` autocasts the encoders; parameters, prototypes and the objective stay float32."""
    micro_batch: Annotated[Count | None, SAME_RESULT] = None
    """Pairs encoded at a time per rank, for batches whose activations do not fit; must divide the rank's
    pairs. The loss still sees the whole batch: micro-batches are encoded twice, so the encoders cost
    a third more. Dropout draws other masks for another size; null = all pairs of a rank at once."""
    threads: Annotated[Cores | None, SAME_RESULT] = None
    """Intra-op threads per rank on a CPU; null leaves torch's choice. Ranks that share cores want 1."""
