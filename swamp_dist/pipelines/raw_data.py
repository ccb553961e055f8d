"""Raw data of all recipes of a pipeline, looked for before the first set is built."""

from __future__ import annotations

from swamp_dist.errors import UserError
from swamp_dist.file_names import MANIFEST_FILE
from swamp_dist.pipelines.plan import PipelinePlan
from swamp_dist.prepare.raw_paths import missing_raw_paths

_MOST = 25


def check_raw_data(plan: PipelinePlan) -> None:
    """Refuse a pipeline whose sets cannot be built.

    Raises:
        UserError: every file and folder that the recipes of sets that are not built name and that is missing.
    """
    lines, recipes = [], 0
    for shards in plan.shards:
        missing = [] if (shards.out / MANIFEST_FILE).is_file() else missing_raw_paths(shards.settings)
        recipes += bool(missing)
        lines += [f"  {shards.recipe}: {key} = {path}" for key, path in missing]
    if not lines:
        return
    more = [f"  ... and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    what = "recipe names" if recipes == 1 else f"{recipes} recipes name"
    raise UserError(
        f"raw data are missing that {what}; nothing was started:\n"
        + "\n".join([*lines[:_MOST], *more])
        + "\nFix: fetch them (shards/README.md says from where), or set the paths in the recipes."
    )
