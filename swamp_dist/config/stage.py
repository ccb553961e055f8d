"""One job file: a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from swamp_dist.bounds import Count, Seed
from swamp_dist.config.data import DataSettings
from swamp_dist.config.model import ModelSettings
from swamp_dist.config.names import FolderName
from swamp_dist.config.normalise import NormaliseSettings
from swamp_dist.config.objective import ObjectiveSettings
from swamp_dist.config.training import EngineSettings, TrainSettings
from swamp_dist.settings import SAME_RESULT, WORKING_FOLDER, Settings

WarningName = Literal["plateau", "stale_queue", "high_floor", "seen_classes", "no_validation"]
"""Names of the warnings of `objective/advice.py` and `stage/advice.py`."""


class FoldSettings(Settings):
    """Consecutive blocks of a split's entries, each ranked by itself; figures are their means."""

    count: Annotated[int, Field(ge=2, le=1000)] = 5
    """Blocks."""
    entries: Count = 1000
    """Entries of a block; those beyond the last block are left out."""


class EvaluateSettings(Settings):
    """Retrieval on one split with the selected weights."""

    split: str
    """Split to evaluate on."""
    gallery: str | None = None
    """Split that holds modality B where `split` holds modality A alone: photos for the sketches of `split`.
    Takes `relevance: [class]`; null: `split` holds both."""
    relevance: tuple[Literal["pair", "class"], ...] = ("pair",)
    """`pair`: only an item's own partners count; `class`: every item of the same class counts."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """What items are ranked by: the cosine of their embeddings, or the Euclidean distance of embeddings as
    the model gives them."""
    ties: Literal["pessimistic", "miech"] = "pessimistic"
    """`pessimistic` ranks equal scores before the right answer; `miech` counts every tied position
    (the published code's rule, which lets a collapsed model score well)."""
    precision_at: tuple[Count, ...] = ()
    """Cut-offs k of class-based precisions: `p_at_k` divides the relevant items among the first k by k. The
    sum of precisions at these items over min(relevant items, k) is `map_at_k`, over their own number
    `map_at_k_hits` (the published code of Doodle to Search; 0 where there is none)."""
    hit_at: tuple[Count, ...] = ()
    """Places n, counted from 1, of class-based `hit_at_n`: whether the item there is relevant. The P@200 of
    Doodle to Search's code is that of the 201st item, hit_at: [201]."""
    median_rank: Literal["exact", "floor"] = "exact"
    """Of an even number of ranks `exact` is the mean of the middle two; `floor` rounds it down, as the
    published code of VSE++ and SCAN does."""
    folds: FoldSettings | None = None
    """Rank blocks of entries in the order of their keys: {count: 5, entries: 1000} on all 5,000 test images
    is the 1K protocol of MS-COCO (Karpathy and Fei-Fei 2015). null ranks the whole split."""
    normalise: NormaliseSettings | None = None
    """Normalise scores by a bank of training queries before they are ranked: a row of figures of its own,
    which tables name. null: cosines or distances as they are."""
    chunk: Count = 256
    """Items embedded at a time; part of the numbers' definition, not of the cluster."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that are read."""
        return (self.split,) if self.gallery is None else (self.split, self.gallery)

    @model_validator(mode="after")
    def _bank_fits(self) -> EvaluateSettings:
        if self.normalise is None:
            return self
        bank, asked = self.normalise.bank, f"normalise = {self.normalise.method}"
        if bank in self.splits:
            raise ValueError(
                f"{asked} with bank = {bank}, which is evaluated: figures would rest on the queries that "
                "they judge; name the training split, bank: train"
            )
        if self.gallery is not None:
            raise ValueError(
                f"{asked} with gallery = {self.gallery}: the bank is one split that holds both modalities; "
                "set normalise: null, or evaluate a split that holds both"
            )
        if self.distance != "cosine":
            raise ValueError(
                f"{asked} with distance = {self.distance}: beta and epsilon are in units of cosines; set "
                "distance: cosine, or normalise: null"
            )
        return self


class StageSettings(Settings):
    """One job file: what is trained (if `train` is given) and what is evaluated afterwards."""

    name: FolderName
    """Name of the stage; the default name of its run folder: letters, digits, single blanks inside and
    . _ + - = , @, at most 200 bytes."""
    seed: Seed = 0
    """Fixes initial weights, sample order and every other random choice."""
    data: DataSettings
    model: ModelSettings = ModelSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    train: TrainSettings | None = None
    """Training; null makes an evaluation-only stage, which needs `weights`."""
    weights: Annotated[Path | None, WORKING_FOLDER] = None
    """Evaluation-only stages: what to evaluate, relative to the working folder: a run folder (of a run that
    has not ended: its newest checkpoint), RUN@STEP, a checkpoint's folder or a .safetensors file."""
    random_weights: Annotated[bool, SAME_RESULT] = False
    """Evaluation-only stages: evaluate freshly drawn weights where `weights` is null, to see what no training
    reaches; false refuses that."""
    average_with: Annotated[tuple[Path, ...], WORKING_FOLDER] = ()
    """Evaluation-only stages: runs, or weights in them, whose scores of all pairs are averaged with those of
    `weights`, like the "t-i + i-t" rows of SCAN. Each has its own encoders; the splits hold the same
    entries."""
    evaluate: tuple[EvaluateSettings, ...] = ()
    """Evaluations after training, in order."""
    engine: EngineSettings = EngineSettings()
    known_warnings: Annotated[dict[WarningName, str], SAME_RESULT] = {}
    """Warnings that are known of this job, each with the reason why it is as it is: the reason is told in
    place of the warning. `plateau`: hardest negatives without a warm-up; `stale_queue`: a queue of more than
    half of the items; `high_floor`: a temperature at which the SwAMP loss stays above 1; `seen_classes`:
    classes of training among those of an evaluation by class with a gallery split; `no_validation`: fewer
    epochs than there are between two validations."""

    @property
    def shard_sets(self) -> dict[Path, Path | None]:
        """Folders of all shard sets that the stage reads, `data.shards` first, each with its recipe."""
        drawn = {} if self.train is None else self.data.training_sets
        return {self.data.shards: self.data.recipe} | {
            each.shards: each.recipe for each in drawn.values() if each.shards != self.data.shards
        }

    @property
    def tested_splits(self) -> set[str]:
        """Splits that the evaluations read."""
        return {name for each in self.evaluate for name in each.splits}

    @model_validator(mode="after")
    def _parts_fit(self) -> StageSettings:
        if self.train is not None and self.weights is not None:
            raise ValueError(
                "weights is for evaluation-only stages: to start training from them use train.init_from"
            )
        if self.random_weights and (self.weights is not None or self.train is not None):
            raise ValueError("random_weights = true is for evaluation-only stages without weights")
        if self.average_with and self.weights is None:
            raise ValueError("average_with is for evaluation-only stages with weights")
        initial = self.weights if self.train is None else self.train.init_from
        if self.model.embedding_dim is None and initial is None:
            raise ValueError(
                "model.embedding_dim = null takes the size from the weights that the stage starts from, but "
                "neither train.init_from nor weights is given: set it to a number, 4096 for example"
            )
        if self.train is None and not self.evaluate:
            raise ValueError("neither train nor evaluate is given: the stage would do nothing")
        if self.train is not None and (problem := self._problem_of_scores()) is not None:
            raise ValueError(problem)
        if self.train is not None and self.train.select == "best" and self.train.validate_on is not None:
            chosen_on = [name for name in self.train.validate_on.splits if name in self.tested_splits]
            if chosen_on:
                raise ValueError(
                    f"select = best on split {chosen_on[0]!r}, which evaluate reports on "
                    "too: the reported figure would be chosen on the test data; validate on another split"
                )
        return self

    def _problem_of_scores(self) -> str | None:
        """What a training asks for that takes embeddings, where the model only scores pairs; None where
        nothing."""
        if self.model.sets is None or self.model.sets.embeds:
            return None
        contrastive, named = self.objective.contrastive, f"with model.sets = {self.model.sets.kind}"
        if self.objective.swamp.weight > 0:
            return (
                f"objective.swamp.weight = {self.objective.swamp.weight:g} {named}: the model scores pairs "
                "and makes no embeddings, so there is nothing to assign to prototypes; set "
                "objective.swamp.weight = 0, or model.sets: {kind: par}"
            )
        if contrastive.weight == 0 or contrastive.form not in ("all", "hardest"):
            return (
                f"objective.contrastive.form = {contrastive.form}, weight = {contrastive.weight:g} {named}: "
                "expected a hinge, all or hardest, with a weight above 0, as published"
            )
        if self.data.pairs_per_entry > 1 and contrastive.form == "all" and contrastive.in_entry_share:
            return f"objective.contrastive.in_entry_share {named}: expected null"
        if contrastive.columns == "ring" or contrastive.chunk is not None:
            return (
                f"objective.contrastive.columns = {contrastive.columns}, chunk = {contrastive.chunk} "
                f"{named}: sets are gathered; leave both out, model.sets.memory_mib bounds the memory"
            )
        if self.objective.precision != "ieee":
            return (
                f"objective.precision = {self.objective.precision} {named}: it rounds products of "
                "embeddings, of which there are none; set objective.precision: ieee"
            )
        if self.engine.micro_batch is not None:
            return (
                f"engine.micro_batch = {self.engine.micro_batch} {named}: the gradient is cached at "
                "embeddings, of which there are none; leave it out"
            )
        return None
