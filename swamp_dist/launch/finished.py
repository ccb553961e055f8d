"""A finished stage is not run again; but only the stage that was asked for counts as finished."""

from __future__ import annotations

from swamp_dist.config import StageSettings
from swamp_dist.launch.provenance import weights_sha256
from swamp_dist.launch.rundir import RunDir
from swamp_dist.loading import describe, load
from swamp_dist.records import UserError

_FREE = (
    "data.recipe", "data.workers", "data.prefetch", "data.cache", "data.reading", "data.verify",
    "engine.zero_stage", "engine.threads", "train.log_every", "train.histogram_every", "train.checkpoint.",
    "objective.swamp.queue.layout", "objective.swamp.queue.solve",
)  # fmt: skip
"""Settings that change how a result is computed and not what it is."""


def check_finished(run_dir: RunDir, settings: StageSettings) -> None:
    """Refuse to pass off a finished stage as one with other settings or other initial weights.

    Does nothing where the stage is not finished.

    Raises:
        UserError: names the differing settings, what the result was made with and what was asked for.
    """
    result = run_dir.read_result()
    if result is None or not run_dir.stage_yaml.is_file():
        return
    made = _values(load(run_dir.stage_yaml, StageSettings, ()))
    asked = _values(settings)
    differences = [
        f"{key}: made with {made.get(key, 'null')}, asked for {asked.get(key, 'null')}"
        for key in sorted({*made, *asked})
        if made.get(key) != asked.get(key)
    ]
    initial = settings.train.init_from if settings.train is not None else settings.weights
    present = None if initial is None else weights_sha256(initial)
    if not differences and present not in (None, result.provenance.get("initial_weights_sha256")):
        differences = [f"{initial}: its weights have changed since"]
    if differences:
        listed = "\n  ".join(differences)
        raise UserError(
            f"{run_dir.path} holds a finished stage that was made otherwise:\n  {listed}\n"
            "Choose another --run-dir, or move that folder away to make it anew. To train a finished stage for "
            f"longer, remove {run_dir.result_json.name} in it first."
        )


def _values(settings: StageSettings) -> dict[str, str]:
    return {s.key: str(s.value) for s in describe(settings) if not s.key.startswith(_FREE)}
