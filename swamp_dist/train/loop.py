"""The training loop. Pretrain, finetune and smoke are this loop with different YAML."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from swamp_dist.data.stream import PairStream
from swamp_dist.evaluate.retrieval import better, metric_value
from swamp_dist.records import EvaluationResult, StepReport
from swamp_dist.train.metrics import MetricsWriter
from swamp_dist.train.schedule import learning_rate
from swamp_dist.train.state import Progress, TrainState, keep_best, save_commit
from swamp_dist.train.step import StepOutcome, diagnostics, train_step


class Preempted(Exception):
    """A signal asked the run to stop; everything up to `step` is committed."""

    def __init__(self, step: int) -> None:
        super().__init__(f"asked to stop; committed at step {step}")
        self.step = step


@dataclass(frozen=True)
class TrainRun:
    """A training state and everything around it that the loop talks to."""

    state: TrainState
    stream: PairStream
    metrics: MetricsWriter
    validate: Callable[[], EvaluationResult]
    keys_of: Callable[[Tensor], list[str]]
    """Sample keys of (b,) entry ids, for error messages."""
    stop_requested: Callable[[], bool]
    on_step: Callable[[int, int, StepReport | None], None]
    """Called after every step with steps done, total steps and, on logged steps, the report."""
    on_commit: Callable[[Progress, float], None] = lambda progress, seconds: None
    """Called on every rank after a commit, with the seconds that saving took."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.state.plan.epochs * self.stream.steps_per_epoch


def train(run: TrainRun, progress: Progress) -> Progress:
    """Train from `progress` to the end of the run.

    Order at a step edge: log, validate, commit, then stop if asked; so a resumed run repeats nothing.

    Raises:
        Preempted: a signal reached some rank; all ranks committed first.
        UserError: the loss is not finite on some rank.
    """
    state = run.state
    if _out_of_patience(run, progress):  # killed after its last commit, before its result was written
        return progress
    waiting_since = time.perf_counter()
    for batch in run.stream.batches(progress.step, run.total_steps):
        data_seconds = time.perf_counter() - waiting_since
        rate = _learning_rate(run, batch.step)
        outcome = train_step(
            state.engine,
            state.objective,
            batch,
            rate,
            state.settings.seed,
            run.stop_requested(),
            run.keys_of,
            state.world,
        )
        progress = replace(progress, step=batch.step + 1)
        _log(run, progress.step, outcome, rate, data_seconds)
        if _due_to_validate(run, progress.step):
            progress = _validate(run, progress)
        finished = progress.step == run.total_steps or _out_of_patience(run, progress)
        if finished or outcome.stop_requested or progress.step % state.plan.checkpoint.every == 0:
            run.metrics.flush()
            saving_since = time.perf_counter()
            save_commit(state, progress)
            run.on_commit(progress, time.perf_counter() - saving_since)
        if finished:
            break
        if outcome.stop_requested:
            raise Preempted(progress.step)
        waiting_since = time.perf_counter()
    return progress


def _learning_rate(run: TrainRun, step: int) -> float:
    plan = run.state.plan
    return learning_rate(
        step,
        run.stream.steps_per_epoch,
        run.total_steps,
        plan.optimizer.lr,
        plan.schedule.kind,
        plan.schedule.warmup_steps,
        plan.schedule.decay,
        plan.schedule.decay_every,
        plan.schedule.floor,
    )


def _log(run: TrainRun, step: int, outcome: StepOutcome, rate: float, data_seconds: float) -> None:
    """Metrics every `log_every` steps, histograms every `histogram_every`, both at the end of the run too; the
    console decides for itself."""
    state, report = run.state, None
    if step % state.plan.log_every == 0 or step == run.total_steps:
        figures = dict(outcome.losses) | diagnostics(outcome.terms, state.world)
        figures |= {"optim/lr": rate, "optim/grad_norm": state.engine.gradient_norm()}
        figures |= {"perf/step_seconds": outcome.seconds, "perf/data_seconds": data_seconds}
        figures["perf/pairs_per_second"] = run.stream.plan.pairs / (outcome.seconds + data_seconds)
        report = StepReport(step, figures)
        run.metrics.log(report)
    usage = state.objective.last_usage
    if usage is not None and (step % state.plan.histogram_every == 0 or step == run.total_steps):
        run.metrics.histogram("swamp/prototype_use", usage, step)
    run.on_step(step, run.total_steps, report)


def _due_to_validate(run: TrainRun, step: int) -> bool:
    plan = run.state.plan.validate_on
    return plan is not None and step % (plan.every * run.stream.steps_per_epoch) == 0


def _validate(run: TrainRun, progress: Progress) -> Progress:
    """Evaluate, keep the weights if they are the best so far, and count how long they have not been."""
    state, plan = run.state, run.state.plan.validate_on
    assert plan is not None
    with state.engine.evaluating():
        result = run.validate()
    run.metrics.evaluation(plan.split, result, progress.step)
    value = metric_value(result, plan.metric)
    if progress.best_value is not None and not better(plan.metric, value, progress.best_value):
        return replace(progress, stale=progress.stale + 1)
    if state.plan.select == "best":
        keep_best(state, progress.step)
    return replace(progress, best_value=value, best_step=progress.step, stale=0)


def _out_of_patience(run: TrainRun, progress: Progress) -> bool:
    plan = run.state.plan.validate_on
    return plan is not None and plan.early_stop is not None and progress.stale >= plan.early_stop
