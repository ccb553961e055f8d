"""One stage on one rank: what `swamp run`, a pipeline and a cluster all start.

`python -m swamp_dist.launch.task STAGE_YAML RUN_DIR` on every rank. Exit codes: 0 done, 2 a user's
mistake, 3 run folder held by another job, 75 saved and asked to be started again, 1 anything else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from swamp_dist.config import EvaluateSettings, StageSettings, TrainSettings
from swamp_dist.data.inputs import input_specs
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.stream import open_stream
from swamp_dist.data.verify import verify_shards
from swamp_dist.data.words import check_table_hash
from swamp_dist.distributed import World, agree, configure_logging, join, leave, on_main
from swamp_dist.evaluate.retrieval import evaluate_split
from swamp_dist.launch.embedding_dim import with_embedding_dim
from swamp_dist.launch.ending import failed, say, stop_signals
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.notes import note_commit, note_start, note_training
from swamp_dist.launch.preflight import check_stage, training_marks, training_split, validation, word_source
from swamp_dist.launch.progress import ProgressBar
from swamp_dist.launch.provenance import provenance
from swamp_dist.launch.rundir import RunDir, RunDirHeld
from swamp_dist.loading import load
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.objective.swamp import build_objective
from swamp_dist.records import BatchPlan, EvaluationResult, PairEmbeddings, StageResult, UserError
from swamp_dist.train.engine import Engine
from swamp_dist.train.input_parts import UNIT_PARTS, unit_parts
from swamp_dist.train.loop import Preempted, TrainRun, train
from swamp_dist.train.metrics import open_metrics
from swamp_dist.train.state import TrainState, resume, selected_weights
from swamp_dist.train.weights import load_into, load_weights, save_weights
from swamp_dist.train.word_source import WORD_SOURCE

logger = logging.getLogger(__name__)


def run_stage(
    settings: StageSettings,
    run_dir: RunDir,
    world: World,
    stop_requested: Callable[[], bool] = lambda: False,
) -> StageResult:
    """Train (if asked), write the selected weights, evaluate them, and leave result.json. All ranks call it.

    A stage that was begun before continues from its newest commit; one that is done returns its result.

    Raises:
        Preempted: a signal asked to stop; progress is committed.
        UserError: settings, data or checkpoints that do not fit; nothing committed is touched.
    """
    began = time.time()
    on_main(world, run_dir.create)
    done = on_main(world, run_dir.read_result)
    if done is not None:
        return done
    if settings.engine.threads is not None:
        torch.set_num_threads(settings.engine.threads)
    manifest = on_main(world, lambda: check_stage(settings, run_dir, world.size))
    words = manifest.record.words
    if words is not None:
        on_main(world, lambda: check_table_hash(manifest.folder, words))
    settings = on_main(world, lambda: with_embedding_dim(settings))
    if settings.data.verify:
        on_main(world, lambda: _verify(manifest))
    model = build_model(settings, manifest)
    selected_step, steps = None, 0
    if settings.train is not None:
        selected_step, steps = _train(
            settings, settings.train, manifest, model, run_dir, world, stop_requested
        )
        model = build_model(settings, manifest)
    weights = run_dir.weights if settings.train is not None else settings.weights
    if weights is not None:
        load_into(model, load_weights(weights), weights, "auto")
    evaluations = []
    for each in settings.evaluate:
        if agree(stop_requested(), world):
            raise Preempted(steps)
        evaluations.append(_evaluate(model, manifest, settings, each, world))
    result = StageResult(
        settings.name,
        run_dir.path,
        weights,
        selected_step,
        steps,
        tuple(evaluations),
        provenance(settings, manifest.hash, world, time.time() - began),
    )
    on_main(world, lambda: run_dir.write_result(result))
    return result


def build_model(settings: StageSettings, manifest: Manifest) -> DualEncoder:
    """The freshly initialised model of a stage; without prototypes where the SwAMP term is off."""
    swamp = settings.objective.swamp
    a, b = input_specs(manifest, settings.data)
    return build_dual_encoder(
        settings.model,
        a,
        b,
        swamp.prototypes if swamp.weight > 0 and settings.train is not None else None,
        swamp.normalize_prototypes,
        settings.seed,
    )


def _verify(manifest: Manifest) -> None:
    problems = verify_shards(manifest.folder)
    if problems:
        listed = "\n  ".join(str(problem) for problem in problems[:10])
        raise UserError(
            f"shard set {manifest.folder}: {len(problems)} bad file(s)\n  {listed}\nCopy or build them again."
        )


def _train(
    settings: StageSettings,
    plan: TrainSettings,
    manifest: Manifest,
    model: DualEncoder,
    run_dir: RunDir,
    world: World,
    stop_requested: Callable[[], bool],
) -> tuple[int, int]:
    """Train to the end and write the selected weights; (selected step, steps done)."""
    if plan.init_from is not None:
        taken = load_into(model, load_weights(plan.init_from), plan.init_from, plan.init_prototypes)
        logger.info("starting from %s, prototypes %s", plan.init_from, "taken over" if taken else "fresh")
    data = settings.data
    split = training_split(settings, manifest)
    batches = plan_batches(data.entries, data.pairs_per_entry, data.num_lanes, world.size, len(split))
    stream = open_stream(
        manifest,
        split.name,
        data.a,
        data.b,
        batches,
        seed=settings.seed,
        rank=world.rank,
        device=world.device,
        cache=data.cache,
        reading=data.reading,
        workers=data.workers,
        prefetch=data.prefetch,
        full_shuffle_below=data.full_shuffle_below,
        shuffle_block=data.shuffle_block,
        clips=data.clips,
    )
    engine = Engine(model, plan.optimizer, settings.engine, batches.local_pairs, world)
    assert settings.model.embedding_dim is not None
    objective = build_objective(
        settings.objective, batches, settings.model.embedding_dim, world.device, rank=world.rank
    )
    logger.info(_opening_line(settings, batches, stream.steps_per_epoch, engine))
    marks = training_marks(settings, manifest.hash)
    state = TrainState(engine, objective, settings, run_dir.checkpoints, marks, world)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(stream))
        bar = stack.enter_context(ProgressBar(settings.name, world))
        validate = stack.enter_context(_validator(settings, manifest, engine, world))
        progress = resume(state)
        metrics = stack.enter_context(contextlib.closing(open_metrics(run_dir.path, world, progress.step)))
        run = TrainRun(
            state,
            stream,
            metrics,
            validate=validate,
            keys_of=lambda ids: split.keys(ids.cpu().numpy()),
            stop_requested=stop_requested,
            on_step=bar.advance,
            on_commit=lambda now, seconds: note_commit(run_dir, world, now, seconds),
        )
        note_training(run_dir, world, plan, progress.step, run.total_steps)
        progress = train(run, progress)
    tensors, step = selected_weights(state, progress)
    described = {"stage": settings.name, "step": str(step), "seed": str(settings.seed)}
    vectors = word_source(settings, manifest)
    described |= {WORD_SOURCE: vectors} if vectors is not None else {}
    described[UNIT_PARTS] = unit_parts(settings.model)
    on_main(world, lambda: save_weights(run_dir.weights, tensors, described))
    return step, progress.step


@contextlib.contextmanager
def _validator(
    settings: StageSettings, manifest: Manifest, engine: Engine, world: World
) -> Iterator[Callable[[], EvaluationResult]]:
    """The validation of the loop, over a reader that stays open while training."""
    data, plan = settings.data, validation(settings)
    if not plan:
        yield lambda: EvaluationResult("", {})
        return
    reader = open_reader(manifest, plan[0].split, (data.a, data.b), data.reading, data.cache)
    with contextlib.closing(reader):
        yield lambda: evaluate_split(
            engine.embed_a, engine.embed_b, manifest, plan[0], data.a, data.b, world, reader
        )


def _opening_line(settings: StageSettings, batches: BatchPlan, steps_per_epoch: int, engine: Engine) -> str:
    assert settings.train is not None
    return (
        f"{settings.name}: {engine.num_parameters:,} parameters, {batches.world_size} ranks, "
        f"{batches.pairs} pairs a step, {settings.train.epochs} epochs of {steps_per_epoch} steps"
    )


def _evaluate(
    model: DualEncoder,
    manifest: Manifest,
    settings: StageSettings,
    evaluation: EvaluateSettings,
    world: World,
) -> EvaluationResult:
    """Evaluate plain weights, without the engine: world size and ZeRO stage end at a stage's edge."""
    model = model.to(world.device).eval()
    data = settings.data
    reader = open_reader(manifest, evaluation.split, (data.a, data.b), data.reading)
    with contextlib.closing(reader), torch.no_grad():
        return evaluate_split(
            lambda rows: _rows(model(rows, None)),
            lambda rows: _rows(model(None, rows)),
            manifest,
            evaluation,
            data.a,
            data.b,
            world,
            reader,
        )


def _rows(embedded: PairEmbeddings | Tensor) -> Tensor:
    assert isinstance(embedded, Tensor)
    return embedded


def main(arguments: Sequence[str], signals: Sequence[int] = ()) -> int:
    """Join the world the environment describes and run the stage; the exit code.

    `signals` are those that asked to stop before this module was imported.
    """
    stage_yaml, run_dir = Path(arguments[0]), RunDir(Path(arguments[1]))
    with stop_signals(signals) as stop_requested:  # before joining, which waits for the slowest rank
        try:
            world = join()
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            return ExitCode.USER_MISTAKE
        try:
            return _guarded(stage_yaml, run_dir, world, stop_requested)
        finally:
            leave()


def _guarded(stage_yaml: Path, run_dir: RunDir, world: World, stop_requested: Callable[[], bool]) -> int:
    """Run the stage under the folder's lock and turn its endings into exit codes and events."""
    with contextlib.ExitStack() as stack:
        try:
            on_main(world, run_dir.create)
            configure_logging(world, str(run_dir.log(world.rank)))
            settings = load(stage_yaml, StageSettings, ())
            on_main(world, lambda: stack.enter_context(run_dir.hold()) and None)
            note_start(run_dir, world)
            run_stage(settings, run_dir, world, stop_requested)
            on_main(world, lambda: run_dir.append_event("done"))
        except RunDirHeld as held:
            return say(ExitCode.HELD, str(held))
        except Preempted as preempted:
            step = preempted.step
            on_main(world, lambda: run_dir.append_event("preempted", step=step))
            return say(ExitCode.REQUEUE, f"{preempted}; the same command continues")
        except Exception as error:
            return failed(error, run_dir, world)
    return ExitCode.DONE


def exit_at_once(code: int) -> None:
    """End the process without tearing down native libraries.

    Everything is written and closed by now. A normal exit destroys the threads of torch and DeepSpeed
    in no certain order, and once in a while one of them aborts the process after all work was done.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    exit_at_once(main(sys.argv[1:]))
