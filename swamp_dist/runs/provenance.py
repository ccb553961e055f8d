"""What a result was made from: versions, git state, hashes. Never the whole environment: it may hold
secrets."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swamp_dist.config import ClusterSettings, StageSettings
from swamp_dist.data.images import decoder_versions
from swamp_dist.errors import UserError, system_error
from swamp_dist.file_names import weights_file
from swamp_dist.runs.folder import RunDir

if TYPE_CHECKING:
    from swamp_dist.distributed import World  # brings torch, which the command line does without

AVERAGED = "averaged_with"
"""Of a result: sha256 of the weights whose scores were averaged with those of its own, by their source."""
ENCODER_FILES = "encoder_files_sha256"
"""Of a result: as `encoder_files_sha256` gives them."""
PRODUCT_LIBRARY = "product_library"
"""Of a result: what made the float32 products of its training, on a CPU (`product_library`)."""
SOLVE_PASSES = "solve_passes"
"""Of a result: the program that passed over the scores of its solves (`objective.solve.passes`)."""
_LIBRARIES = ("swamp-dist", "torch", "deepspeed", "webdataset", "numpy", "pillow")


def provenance(
    settings: StageSettings,
    shards_hash: str,
    blend_hashes: Mapping[str, str],
    initial_sha256: str | None,
    world: World,
    seconds: float,
) -> dict[str, object]:
    """Facts to keep beside a stage's figures.

    Args:
        blend_hashes: of the sets of a blend by name.
        initial_sha256: of the weights that it began with.
    """
    return {
        "seed": settings.seed,
        "world_size": world.size,
        "device": world.device.type,
        "seconds": round(seconds, 3),
        "shards_sha256": shards_hash,
        **({"blend_sha256": dict(blend_hashes)} if blend_hashes else {}),
        "initial_weights_sha256": initial_sha256,
        **_encoder_files(settings),
        "versions": _versions(settings) | decoder_versions(),
        "python": platform.python_version(),
        "git": git_state(),
    }


def _encoder_files(settings: StageSettings) -> dict[str, object]:
    found = encoder_files_sha256(settings)
    return {ENCODER_FILES: found} if found else {}


def _versions(settings: StageSettings) -> dict[str, str]:
    """Versions of what computes the stage, the libraries of its encoders included."""
    own = (*settings.model.a.libraries(), *settings.model.b.libraries())
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    for name in own:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # torchvision may be absent
            found[name] = importlib.metadata.version(name)
    return found


def submission_facts(
    settings: StageSettings,
    shards_hash: str | None,
    blend_hashes: Mapping[str, str],
    ranks: int,
    command: Sequence[str],
) -> dict[str, object]:
    """Facts to keep of a submission, before anything has run; hashes as in `write_submission`."""
    initial = settings.train.init_from if settings.train is not None else settings.weights
    return {
        "command": list(command),
        "ranks": ranks,
        "shards_sha256": shards_hash,
        **({"blend_sha256": dict(blend_hashes)} if blend_hashes else {}),
        "initial_weights_sha256": None if initial is None else weights_sha256(initial),
        **_encoder_files(settings),
        "versions": _versions(settings),
        "python": platform.python_version(),
        "git": git_state(),
    }


def write_submission(
    settings: StageSettings,
    cluster: ClusterSettings,
    run_dir: RunDir,
    shards_hash: str | None,
    command: Sequence[str],
    blend_hashes: Mapping[str, str] | None = None,
) -> None:
    """Leave in the run folder what a job runs and what it was made from.

    Args:
        shards_hash: None where the shards are yet to be built.
        command: of the process that submits.
        blend_hashes: those of the sets of a blend that are built, by name.
    """
    run_dir.write_stage(settings)
    facts = submission_facts(settings, shards_hash, blend_hashes or {}, cluster.world_size, command)
    run_dir.write_submission(cluster, facts, source_patch())


def source_patch() -> str:
    """Uncommitted changes of tracked files of the checkout as a patch; "" where there are none."""
    return _git(Path(__file__).resolve().parents[2], "diff", "HEAD") or ""


def git_state() -> dict[str, object] | None:
    """Commit of the checkout that the package runs from and whether it was changed; None outside git."""
    root = Path(__file__).resolve().parents[2]
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def weights_sha256(source: Path) -> str | None:
    """Hash of a weights file, or of the one inside a run folder; None where there is none (yet).

    Raises:
        UserError: it cannot be read.
    """
    path = weights_file(source)
    if not path.is_file():
        return None
    return files_sha256([path])


def encoder_files_sha256(settings: StageSettings) -> dict[str, str]:
    """Hashes of the files that the encoders' settings name and this stage reads, by setting.

    Raises:
        UserError: one is absent or cannot be read.
    """
    initial = settings.weights if settings.train is None else settings.train.init_from
    return {
        f"model.{side}.{name}": files_sha256(files)
        for side, encoder in (("a", settings.model.a), ("b", settings.model.b))
        for name, files in encoder.own_files(from_files=initial is None).items()
    }


def files_sha256(files: Sequence[Path]) -> str:
    """Hash of a file or, of several, of their names and hashes.

    Raises:
        UserError: one cannot be read.
    """
    found = []
    for path in files:
        try:
            with path.open("rb") as file:
                found.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
        except OSError as error:
            raise UserError(system_error(error)) from None
    if len(found) == 1:
        return found[0][1]
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in found).encode()).hexdigest()
