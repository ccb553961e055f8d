"""The training loop. Pretrain, finetune and smoke are this loop with different YAML."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from swamp_dist.config import ValidateSettings
from swamp_dist.data.stream import PairStream
from swamp_dist.evaluate.figures import figures_line
from swamp_dist.evaluate.retrieval import better, metric_value
from swamp_dist.long_work import told_while
from swamp_dist.objective.reversals import reversals
from swamp_dist.objective.signs import signs
from swamp_dist.records import Alarm, EvaluationResult, StepReport
from swamp_dist.train.alarms import StoppedByAlarm, after_step, alarm_line, in_grace
from swamp_dist.train.commit_meta import Progress
from swamp_dist.train.metrics import MetricsWriter
from swamp_dist.train.pace import Pace
from swamp_dist.train.schedule import learning_rate
from swamp_dist.train.state import TrainState, keep_best, save_checkpoint
from swamp_dist.train.step import StepResult, diagnostics, train_step

logger = logging.getLogger(__name__)


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
    on_alarm: Callable[[Alarm], None] = lambda alarm: None
    """Called on every rank when an alarm is raised or cleared."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.state.training.epochs * self.stream.steps_per_epoch


def train(run: TrainRun, progress: Progress) -> Progress:
    """Train from `progress` to the end of the run.

    Order at a step edge: log, watch, validate, commit, then stop if asked; so a resumed run repeats nothing.

    Raises:
        Preempted: a signal reached some rank; all ranks committed first.
        StoppedByAlarm: an alarm stands and the settings say to stop; all ranks committed first.
        UserError: the loss is not finite on some rank.
    """
    state = run.state
    _stop_by_alarm(run, progress)
    if _out_of_patience(run, progress):  # killed before its result, or asked for more
        logger.info(
            "nothing more is trained: no better validation among the last %d (train.validate_on.early_stop)",
            progress.stale,
        )
        return progress
    pace = Pace(run.stream.plan.pairs)
    waiting_since = time.perf_counter()
    for batch in run.stream.batches(progress.step, run.total_steps):
        data_seconds = time.perf_counter() - waiting_since
        # 1. Update the weights by one global batch; negatives are embedded for those who ask.
        if not state.settings.objective.takes_triplets:
            batch = replace(batch, negatives=None)
        rate = learning_rate(
            batch.step,
            peak=state.training.optimizer.lr,
            schedule=state.training.schedule,
            steps_per_epoch=run.stream.steps_per_epoch,
            total_steps=state.planned_epochs * run.stream.steps_per_epoch,
        )
        result = train_step(
            state.engine,
            state.objective,
            batch,
            learning_rate=rate,
            seed=state.settings.seed,
            stop_requested=run.stop_requested(),
            keys_of=run.keys_of,
            world=state.world,
            reversals=reversals(state.settings.objective, batch.step, run.stream.steps_per_epoch),
            is_logged=_is_logged(run, batch.step + 1),
        )
        pace.add(result.seconds, data_seconds)
        progress = replace(progress, step=batch.step + 1)
        # 2. Log it.
        with _writing_after(progress.step):
            _log(run, progress.step, result, rate, pace)
        # 3. See whether it still learns.
        with _writing_after(progress.step):
            progress = _watch(run, progress, result)
        # 4. Validate at the edges of epochs that ask for it.
        wanted = _due_validation(run, progress.step)
        if wanted is not None:
            progress = _validate(run, wanted, progress)
        # 5. Commit a checkpoint every so often, at the end, and before a stop.
        finished = progress.step == run.total_steps or _out_of_patience(run, progress)
        alarmed = _stops_by_alarm(run, progress)
        if (
            finished
            or alarmed
            or result.stop_requested
            or progress.step % state.training.checkpoint.every == 0
        ):
            with _writing_after(progress.step):
                _commit(run, progress)
        # 6. End, or stop if an alarm or a signal asks for it.
        _stop_by_alarm(run, progress)
        if finished:
            break
        if result.stop_requested:
            raise Preempted(progress.step)
        waiting_since = time.perf_counter()
    return progress


@contextlib.contextmanager
def _writing_after(step: int) -> Iterator[None]:
    """Name the step after which the run folder refused a write."""
    try:
        yield
    except OSError as error:
        error.add_note(f"after step {step}")
        raise


def _commit(run: TrainRun, progress: Progress) -> None:
    """Write a checkpoint; metrics first, because a resume keeps what the checkpoint covers."""
    run.metrics.flush()
    saving_since = time.perf_counter()
    save_checkpoint(run.state, progress)
    run.on_commit(progress, time.perf_counter() - saving_since)


def _is_logged(run: TrainRun, step: int) -> bool:
    """Whether metrics or histograms are written after so many steps."""
    training = run.state.training
    return step == run.total_steps or 0 in (step % training.log_every, step % training.histogram_every)


def _log(run: TrainRun, step: int, result: StepResult, rate: float, pace: Pace) -> None:
    """Metrics every `log_every` steps, histograms every `histogram_every`, both at the end of the run too;
    the console decides for itself."""
    state, report = run.state, None
    is_last = step == run.total_steps
    if step % state.training.log_every == 0 or is_last:
        figures = dict(result.losses) | diagnostics(result.terms, state.world)
        figures |= {"optim/lr": rate, "optim/grad_norm": state.engine.gradient_norm()}
        figures |= pace.figures()
        shares = run.stream.shares_drawn(step)
        figures |= {f"data/share/{name}": share for name, share in shares.items()}
        report = StepReport(step, figures)
        run.metrics.log(report)
    usage = state.objective.last_usage
    if usage is not None and (step % state.training.histogram_every == 0 or is_last):
        run.metrics.histogram("swamp/prototype_use", usage, step)
    run.on_step(step, run.total_steps, report)


def _watch(run: TrainRun, progress: Progress, result: StepResult) -> Progress:
    """Raise and clear alarms by what the step has shown."""
    settings, objective = run.state.training.alarms, run.state.settings.objective
    if in_grace(progress.step, settings, objective):
        return progress
    shown = signs(objective, run.stream.plan, progress.step - 1, result.losses, result.watched)
    alarms, changed = after_step(progress.alarms, shown, progress.step, settings)
    for alarm in changed:
        logger.warning("%s", alarm_line(alarm))
        run.on_alarm(alarm)
    return replace(progress, alarms=alarms)


def _stops_by_alarm(run: TrainRun, progress: Progress) -> bool:
    return run.state.training.alarms.action == "stop" and bool(progress.alarms.standing)


def _stop_by_alarm(run: TrainRun, progress: Progress) -> None:
    if _stops_by_alarm(run, progress):
        raise StoppedByAlarm(progress.step, progress.alarms.standing)


def _due_validation(run: TrainRun, step: int) -> ValidateSettings | None:
    """What is validated after this step; None where nothing is."""
    wanted = run.state.training.validate_on
    is_due = wanted is not None and step % (wanted.every * run.stream.steps_per_epoch) == 0
    return wanted if is_due else None


def _validate(run: TrainRun, wanted: ValidateSettings, progress: Progress) -> Progress:
    """Evaluate, keep the weights if they are the best so far, and count how long they have not been."""
    state = run.state
    # Evaluate the weights as they are.
    with told_while(logger, f"validating on {wanted.split}"), state.engine.evaluating():
        evaluation = run.validate()
    with _writing_after(progress.step):
        run.metrics.evaluation(wanted.split, evaluation, progress.step)
    value = metric_value(evaluation, wanted.metric)
    is_best = progress.best_value is None or better(wanted.metric, value, progress.best_value)
    logger.info("%s", _validation_line(evaluation, wanted, progress, value, is_best=is_best))
    # Not better than the best so far: count it.
    if not is_best:
        return replace(progress, stale=progress.stale + 1)
    # The best so far: keep it.
    with _writing_after(progress.step):
        sha256 = keep_best(state, progress.step) if state.training.select == "best" else None
    return replace(progress, best_value=value, best_step=progress.step, stale=0, best_sha256=sha256)


def _validation_line(
    evaluation: EvaluationResult, wanted: ValidateSettings, before: Progress, value: float, *, is_best: bool
) -> str:
    best = "the best so far" if is_best else f"the best is {before.best_value:.2f} at step {before.best_step}"
    return (
        f"validation on {wanted.split} after step {before.step}: {wanted.metric} {value:.2f}, {best} "
        f"({figures_line(evaluation)})"
    )


def _out_of_patience(run: TrainRun, progress: Progress) -> bool:
    wanted = run.state.training.validate_on
    return wanted is not None and wanted.early_stop is not None and progress.stale >= wanted.early_stop
