"""One stage from settings to result: what every backend's ranks run, and nothing else does."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from swamp_dist.config import StageSettings, TrainSettings
from swamp_dist.data.verify import verify_shards
from swamp_dist.data.words import check_table_hash
from swamp_dist.distributed import World, agree, on_main
from swamp_dist.errors import UserError
from swamp_dist.evaluate.figures import figures_line
from swamp_dist.evaluate.results import splits_text
from swamp_dist.long_work import told_while
from swamp_dist.model.dual_encoder import DualEncoder
from swamp_dist.progress import WorkProgress
from swamp_dist.records import Alarm, EvaluationResult, StageResult, StepReport
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.provenance import AVERAGED, PRODUCT_LIBRARY, SOLVE_PASSES, provenance
from swamp_dist.stage.build import (
    build_engine,
    build_model,
    build_stage_objective,
    build_stream,
    load_starts,
    open_validation,
)
from swamp_dist.stage.ensemble import TrainedStage, evaluate_with, open_trained
from swamp_dist.stage.ownership import CheckOwner, checked
from swamp_dist.stage.prototype_start import start_prototypes
from swamp_dist.stage.resolve import ResolvedStage, ResolvedTraining, drawn_lines, resolve
from swamp_dist.stage.run_about import about, show_end
from swamp_dist.stage.run_events import note_alarm, note_commit, note_training
from swamp_dist.train.checkpoint_folder import step_folders
from swamp_dist.train.checkpoint_weights import checkpoint_told
from swamp_dist.train.engine import Engine
from swamp_dist.train.fingerprint import EPOCHS
from swamp_dist.train.input_parts import UNIT_PARTS, unit_parts
from swamp_dist.train.loop import Preempted, TrainRun, train
from swamp_dist.train.metrics import open_metrics
from swamp_dist.train.set_marks import set_marks
from swamp_dist.train.state import TrainState, resume, selected_weights
from swamp_dist.train.weights import load_into, load_weights, logits_taken, save_weights
from swamp_dist.train.word_source import WORD_SOURCE

logger = logging.getLogger(__name__)
StopRequested = Callable[[], bool]
"""Whether a signal has asked this rank to save and stop."""


def run_stage(
    settings: StageSettings,
    run_dir: RunDir,
    world: World,
    stop_requested: StopRequested = lambda: False,
    check_owner: CheckOwner = lambda: None,
) -> StageResult:
    """Train (if asked), write the selected weights, evaluate them, and leave result.json. All ranks call it.

    A stage that was begun before continues from its newest checkpoint; one that is done returns its result.

    Raises:
        Preempted: a signal asked to stop; progress is committed.
        StoppedByAlarm: the training goes wrong and its settings say to stop; progress is committed.
        RunDirLost: what `check_owner` raised, before anything was written.
        UserError: settings, data or checkpoints that do not fit; nothing committed is touched.
    """
    began = time.time()
    on_main(world, run_dir.create)
    done = on_main(world, run_dir.read_result)
    if done is not None:
        return done

    # Resolve: rank 0 reads and checks, the others get the same stage.
    stage = on_main(world, lambda: resolve(settings, run_dir, world.size))
    on_main(world, lambda: _verify_data(stage))
    if settings.engine.threads is not None:
        torch.set_num_threads(settings.engine.threads)

    # Train, which leaves the selected weights in the run folder.
    trained, weights, steps = None, settings.weights, 0
    if stage.training is not None:
        trained = _train(stage, stage.training, run_dir, world, stop_requested, check_owner)
        weights, steps = run_dir.weights, trained.steps

    # Evaluate a model that knows nothing of the training but its weights file.
    model, sha256 = build_model(stage), None
    if weights is not None:
        loaded = load_weights(weights, trained.sha256 if trained else None)
        if trained is None:
            logger.info("evaluating %s%s", weights, checkpoint_told(weights))
        load_into(model, loaded, weights, "auto")
        sha256 = loaded.sha256
    else:
        load_starts(stage, model)
    others = [open_trained(source, settings.evaluate, world) for source in settings.average_with]
    evaluations = _evaluate_all(stage, model, others, steps, world, stop_requested)

    # The result is written last: from then on the stage is done.
    began_with = trained.began_with if trained else sha256
    hashes = stage.manifest.hash, stage.blend_hashes
    facts = provenance(stage.settings, *hashes, began_with, world, time.time() - began)
    if trained and trained.passes is not None:
        facts[SOLVE_PASSES] = trained.passes
    if trained and world.device.type == "cpu":
        facts[PRODUCT_LIBRARY] = trained.product_library
    if others:
        facts[AVERAGED] = {str(each.weights): each.sha256 for each in others}
    selected = trained.selected_step if trained else None
    alarms = trained.alarms if trained else ()
    result = StageResult(
        settings.name, run_dir.path, weights, selected, steps, evaluations, facts, sha256, alarms
    )
    on_main(world, checked(check_owner, lambda: show_end(stage, run_dir, result, world)))
    on_main(world, checked(check_owner, lambda: run_dir.write_result(result)))
    return result


@dataclass(frozen=True)
class _Trained:
    """What a training has left in the run folder."""

    selected_step: int
    steps: int
    """Updates done."""
    sha256: str
    """Of the selected weights."""
    began_with: str | None
    """sha256 of the weights of an earlier stage that it started from; None where it drew its own."""
    alarms: tuple[Alarm, ...]
    """All that were raised."""
    passes: str | None
    """What passed over the scores of the solve; None without one."""
    product_library: str
    """As `Engine.product_library`."""


def _verify_data(stage: ResolvedStage) -> None:
    """The bytes of word tables, which are small, and of all shards where the settings ask for it."""
    for manifest in stage.manifests:
        if (words := manifest.record.words) is not None:
            check_table_hash(manifest.folder, words)
        problems = verify_shards(manifest.folder) if stage.settings.data.verify else []
        if problems:
            listed = "\n  ".join(str(problem) for problem in problems[:10])
            raise UserError(
                f"shard set {manifest.folder}: {len(problems)} bad file(s)\n  {listed}\n"
                "Copy or build them again."
            )


def _train(
    stage: ResolvedStage,
    training: ResolvedTraining,
    run_dir: RunDir,
    world: World,
    stop_requested: StopRequested,
    check_owner: CheckOwner,
) -> _Trained:
    """Train to the end and write the selected weights."""
    settings = training.settings
    is_fresh = on_main(world, lambda: not step_folders(run_dir.checkpoints))
    with told_while(logger, "preparing model, data and engine"):
        model, began_with = _initial_model(stage, training, world, is_fresh)

        # Stream, engine and objective, in their state at the newest checkpoint.
        stream = build_stream(stage, training, world)
        engine = build_engine(stage, training, model, world)
        objective = build_stage_objective(stage, training, world)
    logger.info(_opening_line(stage, training, engine))
    planned = training.fingerprint.get(EPOCHS, settings.epochs)
    if planned != settings.epochs:
        logger.info("the learning rate stays where its schedule of %s epochs ends", planned)
    for line in drawn_lines(stage.settings, training):
        logger.info("%s", line)
    checkpoints, marks = run_dir.checkpoints, dict(training.fingerprint)
    described = {key: value for key, value in _description(stage, 0).items() if key != "step"}
    state = TrainState(
        engine, objective, stage.settings, settings, checkpoints, marks, world, check_owner, described
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(stream))
        bar = stack.enter_context(
            WorkProgress(
                stage.settings.name, "step {done} of {total}", shown=world.is_main, line_seconds=10.0
            )
        )
        validate = stack.enter_context(open_validation(stage, training, engine, world))
        progress = resume(state)
        metrics = open_metrics(about(stage, run_dir, world), world, progress.step, settings.loggers)
        stack.enter_context(contextlib.closing(metrics))
        first_is_done = stack.enter_context(told_while(logger, "the first step"))

        # The loop.
        run = TrainRun(
            state,
            stream,
            metrics,
            validate=validate,
            keys_of=lambda ids: training.blend.keys(ids.cpu().numpy()),
            stop_requested=stop_requested,
            on_step=partial(_show_step, bar, first_is_done),
            on_commit=lambda now, seconds: note_commit(run_dir, world, now, seconds),
            on_alarm=lambda alarm: note_alarm(run_dir, world, alarm),
        )
        note_training(run_dir, world, settings, progress, training.total_steps)
        progress = train(run, progress)

    # The selected weights, with what a next stage has to know of them.
    tensors, step = selected_weights(state, progress)
    header = _description(stage, step)
    save = checked(check_owner, lambda: save_weights(run_dir.weights, tensors, header))
    sha256 = on_main(world, save)
    alarms = tuple(progress.alarms.alarms.values())
    passes, library = objective.passes, engine.product_library
    return _Trained(step, progress.step, sha256, began_with, alarms, passes, library)


def _initial_model(
    stage: ResolvedStage, training: ResolvedTraining, world: World, is_fresh: bool
) -> tuple[DualEncoder, str | None]:
    """The model, from the weights of an earlier stage where the settings name them; and their sha256.

    `is_fresh`: nothing was committed yet, so that prototypes may be started from data. A run that goes on
    reads all of its weights from its checkpoint.
    """
    model, settings, sha256, taken = build_model(stage), training.settings, None, False
    if settings.init_from is not None:
        sha256, taken = _take_over(model, settings, settings.init_from)
    elif is_fresh:
        load_starts(stage, model)
    if taken and stage.settings.objective.swamp.prototypes_start == "kmeans":
        logger.info("prototypes_start = kmeans: not done, the prototypes of %s go on", settings.init_from)
    elif is_fresh:
        start_prototypes(model, stage.settings, training.blend, world)
    return model, sha256


def _take_over(model: DualEncoder, settings: TrainSettings, source: Path) -> tuple[str, bool]:
    """Load weights of an earlier stage; their sha256, and whether prototypes were among them."""
    weights = load_weights(source)
    taken = load_into(model, weights, source, settings.init_prototypes)
    prototypes = "taken over" if taken else "fresh"
    logits = logits_taken(model, weights)
    told = f"{prototypes}; {logits}" if logits else prototypes
    logger.info("starting from %s%s, prototypes %s", source, checkpoint_told(source), told)
    return weights.sha256, taken


def _show_step(
    bar: WorkProgress, first_is_done: Callable[[], None], step: int, total: int, report: StepReport | None
) -> None:
    first_is_done()
    bar.show(step, total, None if report is None else f"loss {report.figures['loss/total']:.4f}")


def _description(stage: ResolvedStage, step: int) -> dict[str, str]:
    """What the header of a weights file says."""
    settings, vectors = stage.settings, stage.word_source
    described = {"stage": settings.name, "step": str(step), "seed": str(settings.seed)}
    described |= {WORD_SOURCE: vectors} if vectors is not None else {}
    return described | {UNIT_PARTS: unit_parts(settings.model)} | set_marks(settings.model)


def _opening_line(stage: ResolvedStage, training: ResolvedTraining, engine: Engine) -> str:
    return (
        f"{stage.settings.name}: {engine.num_parameters:,} parameters, {training.batches.world_size} ranks, "
        f"{training.batches.pairs} pairs per step, {training.settings.epochs} epochs of "
        f"{training.steps_per_epoch} steps"
    )


def _evaluate_all(
    stage: ResolvedStage,
    model: DualEncoder,
    others: Sequence[TrainedStage],
    steps: int,
    world: World,
    stop_requested: StopRequested,
) -> tuple[EvaluationResult, ...]:
    """Every evaluation of the settings, in order; a signal is heard between two of them."""
    evaluations = []
    for each in stage.settings.evaluate:
        if agree(stop_requested(), world):
            raise Preempted(steps)
        with told_while(logger, f"evaluating on {each.split}"):
            evaluations.append(evaluate_with(stage, model, others, each, world))
        logger.info("evaluation on %s: %s", splits_text(evaluations[-1]), figures_line(evaluations[-1]))
    return tuple(evaluations)
