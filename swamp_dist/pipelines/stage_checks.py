"""Whether the stages of a pipeline can start, asked before any of them does."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from swamp_dist.costs.memory import Room, refuse_what_does_not_fit
from swamp_dist.errors import UserError
from swamp_dist.file_names import MANIFEST_FILE
from swamp_dist.pipelines.plan import PipelinePlan, run_dirs_before
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.open import FindJob, check_folder
from swamp_dist.stage.resolve import check_before_weights

_MOST = 10


def check_folders(plan: PipelinePlan, find_job: FindJob, *, follows: bool) -> None:
    """Ask of every stage's folder whether the stage may be run there; see `check_folder`.

    Raises:
        RunDirHeld: a job holds one; the message names it.
        UserError: a finished stage has other settings, or the scheduler gives no answer.
    """
    for stage in plan.stages:
        check_folder(RunDir(stage.run_dir), stage.settings, find_job, follows=follows)


def check_stages(plan: PipelinePlan, ranks: int, room: Room) -> None:
    """Check every stage that is not done as far as its shards are there and the weights it starts from.

    Args:
        room: memory of a rank.

    Raises:
        UserError: all problems of all stages in one message, each once with the stages that have it.
    """
    stages: dict[str, list[str]] = {}
    for key, problem in _problems(plan, ranks, room):
        stages.setdefault(problem, []).append(key)
    if not stages:
        return
    listed = []
    for problem, keys in stages.items():
        lines = textwrap.indent(problem, "  ").lstrip()
        listed.append(f"- {_named(keys)}: {lines}")
    more = [f"- and {len(listed) - _MOST} more"] if len(listed) > _MOST else []
    raise UserError("\n".join([f"the pipeline in {plan.run_dir} cannot go on:", *listed[:_MOST], *more]))


def _problems(plan: PipelinePlan, ranks: int, room: Room) -> Iterator[tuple[str, str]]:
    """Key and message of every stage that cannot start."""
    by_key = {stage.key: stage for stage in plan.stages}
    for stage in plan.stages:
        folder = RunDir(stage.run_dir)
        built = all((data / MANIFEST_FILE).is_file() for data in stage.settings.shard_sets)
        if folder.done or not built:
            continue
        promised = [d for d in run_dirs_before(stage, by_key) if not RunDir(d).done]
        try:
            check_before_weights(stage.settings, folder, ranks, promised)
            refuse_what_does_not_fit(stage.settings, ranks, room)
        except UserError as error:
            yield stage.key, str(error)


def _named(keys: Sequence[str]) -> str:
    """The first of the stages, and how many others."""
    others = len(keys) - 1
    return keys[0] + (f" and {others} other stage{'s' * (others > 1)}" if others else "")
