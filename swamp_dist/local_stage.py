"""One stage on this machine, from settings to its result: `swamp run`, and the functions that do the same.

The ranks are processes of their own, so a script needs no `if __name__ == "__main__"` and a notebook keeps
its memory. Rank 0 writes to the console of this process; the logs of all ranks are in the run folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from swamp_dist.config import LocalCluster, StageSettings
from swamp_dist.errors import ExitCode, RunDirHeld, UserError, system_error
from swamp_dist.file_names import checkpoint_of, weights_file
from swamp_dist.loading import from_values, load_dumped, override_texts
from swamp_dist.printable import printable
from swamp_dist.records import StageResult
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.stage_file import load_stage
from swamp_dist.train.named_weights import stage_file_of

logger = logging.getLogger(__name__)
Job = Path | str | Mapping[str, Any] | StageSettings
"""A job file, or what it would say: nested dictionaries, or settings."""


def train(job: Job, *, run_dir: Path | str | None = None, ranks: int = 1, **overrides: Any) -> StageResult:
    """Run a stage on this machine and wait for it, as `swamp run` does: train, select, evaluate.

        result = train("jobs/finetune/synthetic.yaml", ranks=2, train={"epochs": 3}, seed=1)

    The same call again goes on where an earlier one was stopped, and returns the result of one that is done.
    Ctrl-C saves at the next step; a second one kills.

    Args:
        job: job file, or its content as nested dictionaries or settings.
        run_dir: run folder; default: runs/NAME of the job.
        ranks: processes on this machine, one per GPU.
        overrides: settings to change: sections as dictionaries, or dotted keys
            (`**{"train.optimizer.lr": 3e-5}`).

    Raises:
        UserError: settings, data or ranks that do not fit, a run that failed, or one that was stopped and has
            saved. RunDirHeld, which is one: another run works in the folder.
    """
    settings = _read(job, overrides)
    if settings.train is None:
        raise UserError(
            f"stage {settings.name} has no `train` section: there is nothing to train.\n"
            "Fix: give train={...}, or call swamp_dist.evaluate"
        )
    return _run(settings, Path(run_dir) if run_dir is not None else Path("runs") / settings.name, ranks)


def evaluate(
    source: Job,
    split: str | None = None,
    *,
    relevance: Sequence[Literal["pair", "class"]] = ("pair",),
    run_dir: Path | str | None = None,
    ranks: int = 1,
    **overrides: Any,
) -> StageResult:
    """Evaluate trained weights on this machine, as a stage that does not train.

        evaluate("runs/mine", "test").evaluations[0].metrics["pair/a_to_b"].r_at_1

    `load_model(...).evaluate(...)` gives the same figures in this process, and leaves no folder.

    Args:
        source: run folder of a stage, a step of it (`RUN@STEP`), a weights file, or a job that names
            `weights`.
        split: what to evaluate on; default: the evaluations that the stage names.
        relevance: with `split`, what counts as right: an item's partners, items of its class, or both.
        run_dir: folder of this evaluation; default: that of the stage with the split at its end, or runs/NAME
            of a job.
        ranks: processes on this machine, one per GPU.
        overrides: as for `train`.

    Raises:
        UserError: as `train`.
    """
    settings, default = evaluation_of(source, split, override_texts(overrides), relevance)
    return _run(settings, Path(run_dir) if run_dir is not None else default, ranks)


def evaluation_of(
    source: Job,
    split: str | None,
    overrides: Sequence[str] = (),
    relevance: Sequence[Literal["pair", "class"]] = ("pair",),
) -> tuple[StageSettings, Path]:
    """The stage that evaluates trained weights, and its default run folder; arguments as of `evaluate`.

    Args:
        overrides: `key=value` texts.

    Raises:
        UserError: there is no such run, or it has no weights.
    """
    folder = _run_folder(source)
    changes: dict[str, Any] = {"train": None}
    if split is not None:
        changes["evaluate"] = [{"split": split, "relevance": list(relevance)}]
    if folder is None:
        settings = _read(source, changes, overrides)
        default = Path("runs") / settings.name
    else:
        stage = load_dumped(folder.stage_yaml, StageSettings)
        settings = _read(stage, {"weights": _weights_of(source, stage), **changes}, overrides)
        default = folder.path.with_name(f"{folder.path.name}-{split or 'evaluation'}")
    if settings.weights is None:
        raise UserError(
            f"stage {settings.name} names no weights to evaluate.\n"
            "Fix: give the run folder of a stage in place of the job, or weights=..."
        )
    return settings, default


def run_here(
    settings: StageSettings,
    folder: RunDir,
    ranks: int,
    report: Callable[[str], None],
    warn: Callable[[StageSettings], None],
) -> int:
    """Check a stage and run it on this machine to its end; an `ExitCode`.

    Args:
        report: told what the user is to read.
        warn: told of a stage that is about to start.

    Raises:
        UserError: it cannot start.
    """
    from swamp_dist.backends.jobs import job_finder, job_lives
    from swamp_dist.backends.protocols import StageRef
    from swamp_dist.backends.registry import open_backend
    from swamp_dist.costs.memory import refuse_what_does_not_fit, room_here
    from swamp_dist.stage.longer import go_on
    from swamp_dist.stage.open import open_run

    stage = open_run(folder, settings, ranks, job_finder(), job_lives(folder))
    if stage is not None:
        refuse_what_does_not_fit(settings, ranks, room_here(ranks))
        warn(settings)
        for line in go_on(folder, settings, stage):
            report(line)
        folder.write_stage(settings)
    return open_backend(LocalCluster(ranks=ranks)).run(StageRef(settings.name, folder), report)


def _run(settings: StageSettings, path: Path, ranks: int) -> StageResult:
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise UserError(f"ranks: expected a whole number of at least 1, found {ranks!r}")
    folder, said = RunDir(path), list[str]()
    try:
        code = run_here(settings, folder, ranks, said.append, _log_warnings)
    except OSError as error:
        raise UserError(system_error(error)) from error
    if code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    result = folder.read_result() if code == ExitCode.DONE else None
    if result is not None:
        return result
    raise (RunDirHeld if code == ExitCode.HELD else UserError)(_reason(code, folder, said))


def _log_warnings(settings: StageSettings) -> None:
    from swamp_dist.stage.advice import stage_warnings

    for text in stage_warnings(settings):
        logger.warning("%s", text)


def _reason(code: int, folder: RunDir, said: Sequence[str]) -> str:
    """Why a stage is not done, in its own words where it left some."""
    if code == ExitCode.REQUEUE:
        return f"{folder.path}: stopped with its progress saved; the same call continues"
    last = folder.read_events()[-1:]
    told = [str(each["reason"]) for each in last if each["event"] == "failed" and "reason" in each]
    words = next(iter([*told, *said[-1:]]), f"ended with code {code}")
    return printable(f"{folder.path}: {words}\nThe logs of all ranks: {folder.logs}")


def _read(job: Job, overrides: Mapping[str, Any], more: Sequence[str] = ()) -> StageSettings:
    texts = [*override_texts(overrides), *more]
    if isinstance(job, StageSettings):
        return from_values(job.model_dump(mode="json"), StageSettings, "job", texts)
    if isinstance(job, Mapping):
        return from_values(job, StageSettings, "job", texts)
    return load_stage(Path(job), texts)


def _run_folder(source: Job) -> RunDir | None:
    """The run folder that a source names; None of a job."""
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        return None
    return RunDir(stage_file_of(path).parent)


def _weights_of(source: Job, stage: StageSettings) -> Path:
    """The weights of a stage that trained, or those that a stage without training has evaluated."""
    path = Path(str(source))
    own = stage.weights is None or checkpoint_of(path) is not None or weights_file(path).is_file()
    return path if own or stage.weights is None else stage.weights
