"""Hands jobs to sbatch: stages, and commands alone or as arrays. submitit submits the scripts."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.slurm.advice import advice
from swamp_dist.backends.slurm.answer import Submitted, prove
from swamp_dist.backends.slurm.batch_script import (
    batch_script,
    command_script,
    comment,
    parts_comment,
    parts_script,
)
from swamp_dist.backends.slurm.commands import sbatch_environment
from swamp_dist.backends.slurm.queue import find, refuse_without_slurm, settings
from swamp_dist.config import SlurmCluster
from swamp_dist.environment import replaced_variables
from swamp_dist.errors import UserError
from swamp_dist.runs.folder import RunDir


def submit(name: str, cluster: SlurmCluster, run_dir: RunDir, after: Sequence[str] = ()) -> Submitted:
    """Submit the stage that `run_dir` holds.

    Raises:
        UserError: there is no SLURM here, or it refuses the job; its words are passed on.
    """
    return _send(batch_script(name, cluster, run_dir, after), comment(run_dir), cluster, run_dir)


def submit_command(
    name: str, command: Sequence[str], cluster: SlurmCluster, folder: RunDir, after: Sequence[str] = ()
) -> Submitted:
    """Submit a command as a job of one task, once other jobs have ended, well or not.

    Raises:
        UserError: as `submit`.
    """
    script = command_script(name, command, cluster, folder, after)
    return _send(script, comment(folder), cluster, folder)


def submit_parts(
    name: str, command: Sequence[str], cluster: SlurmCluster, folder: RunDir, parts: int
) -> Submitted:
    """Submit a command as an array, task I with `--part I/N` at its end, or find a live one.

    It carries another comment than the folder's other jobs, which wait for it.

    Raises:
        UserError: as `submit`.
        SchedulerError: no answer.
    """
    script = parts_script(name, command, cluster, folder, parts)
    live = find(parts_comment(folder), cluster.cluster)
    if live:  # of a submission that was killed before it came to the job that waits for it
        return Submitted(live[0].partition("_")[0], cluster.cluster)
    _refuse_long_array(parts)
    return _send(script, parts_comment(folder), cluster, folder)


def _refuse_long_array(parts: int) -> None:
    with contextlib.suppress(SchedulerError):  # sbatch has the last word
        most = settings().get("MaxArraySize", "")
        if most.isdecimal() and parts > int(most):
            raise UserError(
                f"--parts {parts}: this cluster takes arrays of at most {most} tasks (MaxArraySize of "
                f"`scontrol show config`).\nFix: --parts {most} or fewer."
            )


def _send(script: str, mark: str, cluster: SlurmCluster, run_dir: RunDir) -> Submitted:
    refuse_without_slurm()
    run_dir.job_logs.mkdir(parents=True, exist_ok=True)
    older = {str(e.get("job")) for e in run_dir.read_events() if e["event"] == "submitted"}
    found = prove(_answer(script, cluster), mark, cluster.cluster, older)
    (run_dir.job_logs / f"{found.id}_submission.sh").write_text(script)
    return found


def _answer(script: str, cluster: SlurmCluster) -> str:
    """What sbatch prints for a script.

    Raises:
        UserError: it refuses the job.
    """
    from submitit.core.utils import FailedJobError

    # submitit replaces %j and its kin in the folder's own name too: it gets one that has none.
    with tempfile.TemporaryDirectory(prefix="swamp-submit-") as folder:
        try:
            executor = _executor(folder, script)
            with contextlib.ExitStack() as stack:
                stack.enter_context(replaced_variables(sbatch_environment(cluster)))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))  # the error says the same
                executor._submit_command("")
        except FailedJobError as error:
            said = _sbatch_words(str(error))
            fix = advice(said)
            raise UserError(f"sbatch refused the job:\n{said}" + (f"\n{fix}" if fix else "")) from None
        return str(executor.answer)


def _executor(folder: str, script: str) -> Any:
    """submitit's executor for a script of our own. Not its `submit`, which would wrap a pickled function."""
    import submitit

    class Executor(submitit.SlurmExecutor):  # type: ignore[misc]
        answer = ""

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            return script

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            return ["sbatch", "--parsable", str(submission_file_path)]

        def _get_job_id_from_submission_command(self, string: str) -> str:
            """Only names submitit's copy of the script; its own reading takes any number for the id."""
            self.answer = string
            return "0"

    return Executor(Path(folder))


def _sbatch_words(error: str) -> str:
    lines = [line for line in error.splitlines() if line.startswith("sbatch:")]
    return "\n".join(dict.fromkeys(lines)) or error.strip()
