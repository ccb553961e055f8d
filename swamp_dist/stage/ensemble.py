"""Several trained models whose scores are averaged, as the published "t-i + i-t" rows of SCAN are.

Every model has settings, encoders and shard set of its own; what they share is the split: the same entries
with as many items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from swamp_dist.config import EvaluateSettings, StageSettings
from swamp_dist.data.field_inputs import stage_inputs
from swamp_dist.distributed import World, on_main
from swamp_dist.errors import UserError
from swamp_dist.evaluate.protocol_notes import with_note
from swamp_dist.evaluate.readers import open_readers
from swamp_dist.evaluate.retrieval import evaluate_scored
from swamp_dist.evaluate.scored import Scored, encoders_for, score_split
from swamp_dist.file_names import run_of
from swamp_dist.loading import load_dumped
from swamp_dist.model.cross_attention import pair_score
from swamp_dist.model.dual_encoder import DualEncoder
from swamp_dist.records import EvaluationResult
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.build import build_model, evaluate
from swamp_dist.stage.resolve import ResolvedStage, resolve
from swamp_dist.train.weights import load_into, load_weights


@dataclass(frozen=True)
class TrainedStage:
    """A model with its weights, and the stage that says what it takes."""

    stage: ResolvedStage
    model: DualEncoder
    weights: Path
    sha256: str


def open_trained(weights: Path, evaluations: Sequence[EvaluateSettings], world: World) -> TrainedStage:
    """The model of a run, by the settings that its folder holds. All ranks call it.

    Args:
        weights: a run folder, a checkpoint of it, or its weights file.
        evaluations: what it will be asked for.

    Raises:
        UserError: no run is there, or its shard set lacks a split.
    """
    folder = RunDir(run_of(weights))

    def read() -> ResolvedStage:
        if not folder.stage_yaml.is_file():
            raise UserError(
                f"average_with = {weights}: expected the run folder of a stage; {folder.stage_yaml} is not "
                "there"
            )
        settings = load_dumped(folder.stage_yaml, StageSettings)
        changes = {"train": None, "weights": weights, "evaluate": tuple(evaluations)}
        return resolve(settings.model_copy(update=changes), folder, world.size)

    stage = on_main(world, read)
    model, loaded = build_model(stage), load_weights(weights)
    load_into(model, loaded, weights, "auto")
    return TrainedStage(stage, model, weights, loaded.sha256)


def evaluate_with(
    stage: ResolvedStage,
    model: DualEncoder,
    others: Sequence[TrainedStage],
    evaluation: EvaluateSettings,
    world: World,
) -> EvaluationResult:
    """By the model of a stage alone or, where there are others, by the mean of all their scores."""
    if not others:
        return evaluate(stage, model, evaluation, world)
    weights = stage.settings.weights
    assert weights is not None, "average_with is for stages with weights"
    return evaluate_together([TrainedStage(stage, model, weights, ""), *others], evaluation, world)


def evaluate_together(
    models: Sequence[TrainedStage], evaluation: EvaluateSettings, world: World
) -> EvaluationResult:
    """Rank by the mean of the models' scores, each pair's in the order of the first; float32 on all ranks.

    Cosines and the scores of cross attention are averaged as they are, as in the published code.

    Raises:
        UserError: their splits have other entries, or entries other numbers of items.
    """
    found = [_score(each, evaluation, world) for each in models]
    for other, each in zip(found[1:], models[1:], strict=True):
        _check_same_items(found[0], other, models[0], each, evaluation.split)
    together = replace(found[0], scores=torch.stack([each.scores for each in found]).mean(0))
    first = models[0].stage
    return with_note(
        evaluate_scored(together, evaluation, *first.settings.data.names, world), first.manifest.record.source
    )


def _score(each: TrainedStage, evaluation: EvaluateSettings, world: World) -> Scored:
    model, data, manifest = each.model.to(world.device).eval(), each.stage.settings.data, each.stage.manifest
    both = (lambda rows: model(rows, None)), (lambda rows: model(None, rows))
    encoders = encoders_for(both, each.stage.settings.model, evaluation)
    score, inputs = (
        pair_score(each.stage.settings.model),
        stage_inputs(manifest, data, each.stage.settings.model),
    )
    with open_readers(manifest, evaluation, data) as readers, torch.no_grad():
        return score_split(encoders, score, manifest, evaluation, world, readers, inputs)


def _check_same_items(
    one: Scored, other: Scored, first: TrainedStage, second: TrainedStage, split: str
) -> None:
    """Two models may only be averaged over the same pairs."""
    here, there = first.stage.manifest.folder, second.stage.manifest.folder
    if list(one.keys) != list(other.keys):
        raise UserError(
            f"average_with = {second.weights}: split {split!r} of {here} and of {there} have other entries, "
            "or the same in another order.\n"
            "Fix: evaluate models whose sets were built from the same raw data with one shuffle_seed"
        )
    for side, mine, theirs in (("a", one.a, other.a), ("b", one.b, other.b)):
        if not torch.equal(mine.entry, theirs.entry):
            raise UserError(
                f"average_with = {second.weights}: data.{side} has {len(mine.entry):,} items in split "
                f"{split!r} of {here} and {len(theirs.entry):,} in that of {there}.\n"
                f"Fix: name the same modality data.{side} in both jobs"
            )
