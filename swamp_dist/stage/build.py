"""What a stage is made of: its model, and for a training its stream, engine, objective and validation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch

from swamp_dist.config import ContrastiveSettings, DataSettings, EvaluateSettings, ObjectiveSettings
from swamp_dist.data.class_vectors import class_vectors
from swamp_dist.data.field_inputs import FieldInputs, stage_inputs, tokenizers
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.stream import PairStream, open_blended_stream
from swamp_dist.distributed import World
from swamp_dist.evaluate.readers import BankReader, Readers, open_bank, open_readers
from swamp_dist.evaluate.retrieval import evaluate_set_split, evaluate_split
from swamp_dist.evaluate.scored import Encoders, encoders_for
from swamp_dist.model.cross_attention import pair_score
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.model.logits import LogitStart
from swamp_dist.objective.checks import check_negatives
from swamp_dist.objective.objective import build_objective
from swamp_dist.objective.set_objective import SetObjective
from swamp_dist.objective.term import StepObjective
from swamp_dist.records import EvaluationResult, PairScores
from swamp_dist.stage.resolve import ResolvedStage, ResolvedTraining
from swamp_dist.train.engine import Engine


def build_model(stage: ResolvedStage) -> DualEncoder:
    """The freshly initialised model of a stage; without prototypes where the SwAMP term is off."""
    settings, swamp = stage.settings, stage.settings.objective.swamp
    has_prototypes = swamp.weight > 0 and stage.training is not None
    has_heads = settings.model.doodle2search is not None and stage.training is not None
    vectors = class_vectors(stage.manifest) if has_heads else None
    return build_dual_encoder(
        settings.model,
        *stage.inputs,
        swamp.prototypes if has_prototypes else None,
        swamp.normalize_prototypes,
        settings.seed,
        logit_start(settings.objective.contrastive) if stage.training is not None else None,
        word_dim(settings.objective, vectors) if has_heads else None,
    )


def word_dim(objective: ObjectiveSettings, vectors: np.ndarray | None) -> int:
    """Values that the head of class vectors gives; one where no term asks it."""
    return 1 if vectors is None or objective.semantic.weight == 0 else int(vectors.shape[1])


def load_starts(stage: ResolvedStage, model: DualEncoder) -> None:
    """Weights that the encoders' own settings name, for a stage that starts from none of an earlier one."""
    settings = stage.settings.model
    settings.a.load_start(model.a)
    settings.b.load_start(model.b)


def logit_start(contrastive: ContrastiveSettings) -> LogitStart | None:
    """How scale and bias of the logits begin; None where the form has none."""
    if not contrastive.has_logits:
        return None
    bias = contrastive.logit_bias if contrastive.form == "sigmoid" else None
    return LogitStart(1 / contrastive.temperature, bias, contrastive.learn_temperature)


def build_stream(stage: ResolvedStage, training: ResolvedTraining, world: World) -> PairStream:
    """This rank's share of every batch of the training data."""
    return open_blended_stream(
        training.blend,
        stage.settings.data,
        training.batches,
        seed=stage.settings.seed,
        rank=world.rank,
        device=world.device,
        tokenizers=tokenizers(stage.settings.model),
    )


def build_engine(
    stage: ResolvedStage, training: ResolvedTraining, model: DualEncoder, world: World
) -> Engine:
    """DeepSpeed around the model."""
    optimizer, local_pairs = training.settings.optimizer, training.batches.local_pairs
    return Engine(model, optimizer, stage.settings.engine, local_pairs, world)


def build_stage_objective(stage: ResolvedStage, training: ResolvedTraining, world: World) -> StepObjective:
    """The objective of a training, with an empty queue; without embeddings, that of scores."""
    score = pair_score(stage.settings.model)
    if score is not None:
        check_negatives(stage.settings.objective.contrastive, training.batches)
        return SetObjective(stage.settings.objective, training.batches, score)
    objective = build_objective(
        stage.settings.objective, training.batches, stage.embedding_dim, world.device, rank=world.rank
    )
    if stage.settings.objective.semantic.weight > 0:
        vectors = class_vectors(stage.manifest)
        assert vectors is not None, "stage_problems refuses sets without them"
        objective.class_vectors = torch.from_numpy(vectors).float().to(world.device)
    return objective


@contextlib.contextmanager
def open_validation(
    stage: ResolvedStage, training: ResolvedTraining, engine: Engine, world: World
) -> Iterator[Callable[[], EvaluationResult]]:
    """The validation of the loop, over a reader that stays open while training."""
    data, validation = stage.settings.data, training.validation
    if validation is None:
        yield lambda: EvaluationResult("", {})
        return
    inputs = stage_inputs(stage.manifest, data, stage.settings.model)
    score = pair_score(stage.settings.model)
    encoders = encoders_for((engine.embed_a, engine.embed_b), stage.settings.model, validation)
    with open_readers(stage.manifest, validation, data, in_memory=True) as readers:
        yield lambda: _evaluate(encoders, score, stage.manifest, validation, data, world, readers, inputs)


def _evaluate(
    encoders: Encoders,
    score: PairScores | None,
    manifest: Manifest,
    evaluation: EvaluateSettings,
    data: DataSettings,
    world: World,
    readers: Readers,
    inputs: tuple[FieldInputs, FieldInputs],
    bank: BankReader | None = None,
) -> EvaluationResult:
    """By embeddings, or by the scores of all pairs where the encoders give sets to be scored."""
    if score is None:
        return evaluate_split(*encoders, manifest, evaluation, *data.names, world, readers, inputs, bank)
    return evaluate_set_split(encoders, score, manifest, evaluation, *data.names, world, readers, inputs)


def evaluate(
    stage: ResolvedStage, model: DualEncoder, evaluation: EvaluateSettings, world: World
) -> EvaluationResult:
    """Evaluate plain weights, without the engine: world size and ZeRO stage end at a stage's edge."""
    model = model.to(world.device).eval()
    data = stage.settings.data
    both = (lambda rows: model(rows, None)), (lambda rows: model(None, rows))
    encoders = encoders_for(both, stage.settings.model, evaluation)
    inputs, score = stage_inputs(stage.manifest, data, stage.settings.model), pair_score(stage.settings.model)
    opened = open_bank(stage.manifest, evaluation, data)
    with open_readers(stage.manifest, evaluation, data) as readers, opened as bank, torch.no_grad():
        return _evaluate(encoders, score, stage.manifest, evaluation, data, world, readers, inputs, bank)
