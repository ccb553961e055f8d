"""Does a stage fit into the memory of its ranks? Asked before a rank starts, by the formulas of `--cost`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from swamp_dist.backends.rank_process import has_gpu
from swamp_dist.config import ClusterSettings, SizedCluster, StageSettings
from swamp_dist.costs.loading import loading_bytes
from swamp_dist.costs.table import binary, known_inputs, whole_cost, with_known_vocabulary
from swamp_dist.errors import UserError
from swamp_dist.model.costs import FLOAT
from swamp_dist.records import InputSpec
from swamp_dist.train.weights_header import stage_embedding_dim

_CGROUP = Path("/sys/fs/cgroup/memory.max")
PROCESS_BYTES = 450 * 2**20
"""Python, torch and DeepSpeed in the memory of a rank on a CPU, whatever it trains: the peak of the resident
set of a rank with 27,424 parameters, torch 2.13.0. What CUDA's context takes of a GPU is not counted."""
MOST_OF_A_GPU = 512 * 2**30
"""No GPU has more; what the one of a rank has is not asked without torch."""
MOST_OF_A_RANK = 64 * 2**40
"""No machine has more, where settings do not say what a rank gets."""


@dataclass(frozen=True)
class Room:
    """Memory that a rank can have at most."""

    bytes: int
    what: str
    """For people: `2 ranks share the 15.6 GiB of this machine`."""
    process: int = 0
    """Bytes of it that the rank's process takes before it holds a tensor."""
    machine: Room | None = None
    """Of a rank with a GPU: its share of the machine's own memory, in which data are loaded."""


def room_here(ranks: int) -> Room:
    """The share of one of so many ranks of this machine; of a GPU the most that one can have."""
    whole = psutil.virtual_memory().total + psutil.swap_memory().total
    limit = _CGROUP.read_text().strip() if _CGROUP.is_file() else ""
    whole = min(whole, int(limit)) if limit.isdecimal() else whole
    share = "1 rank has" if ranks == 1 else f"{ranks} ranks share"
    here = Room(whole // ranks, f"{share} the {binary(whole)} of this machine", PROCESS_BYTES)
    return _on_a_gpu(here) if has_gpu() else here


def room_on(cluster: ClusterSettings) -> Room:
    """What a rank gets where a cluster file sends it."""
    if not isinstance(cluster, SizedCluster):
        return room_here(cluster.world_size)
    given = cluster.memory_per_rank
    if given is not None:
        room = Room(given, f"the cluster file gives it {binary(given)}", PROCESS_BYTES)
    else:
        room = Room(MOST_OF_A_RANK, f"no machine has {binary(MOST_OF_A_RANK)}")
    return _on_a_gpu(room) if cluster.on_gpu else room


def _on_a_gpu(machine: Room) -> Room:
    return Room(MOST_OF_A_GPU, f"no GPU has {binary(MOST_OF_A_GPU)}", machine=machine)


def memory_problem(settings: StageSettings, world_size: int, room: Room) -> str | None:
    """Why a stage cannot fit, with the numbers and what to change; None where nothing speaks against it.

    Args:
        settings: of a stage whose starting weights may still be absent; then nothing can be said unless they
            name the size of the embedding.
    """
    if settings.model.embedding_dim is None:
        try:
            embedding_dim = stage_embedding_dim(settings)
        except UserError:  # weights that another stage has yet to write
            return None
    else:
        embedding_dim = settings.model.embedding_dim
    parts = {**_parts(settings, embedding_dim, world_size), "process": room.process}
    read = {_READ: loading_bytes(settings, world_size)}
    if room.machine is not None:  # tensors lie in the GPU
        machine = _problem(settings, {**read, "process": room.machine.process}, room.machine)
        return machine or _problem(settings, parts, room)
    return _problem(settings, parts | read, room)


def _problem(settings: StageSettings, parts: Mapping[str, int], room: Room) -> str | None:
    needed = sum(parts.values())
    if needed <= room.bytes:
        return None
    listed = ", ".join(f"{name} {binary(size)}" for name, size in parts.items() if size)
    fix = _READ_LESS if 2 * parts.get(_READ, 0) > needed else _TRAIN_LESS
    return (
        f"stage {settings.name} needs {binary(needed)} of memory per rank ({listed}), but {room.what}.\n"
        f"Fix: {fix} `swamp show --cost` prints the parts."
    )


_READ = "data that are read"
_TRAIN_LESS = (
    "lower model.embedding_dim, the encoders' widths, objective.swamp.prototypes, "
    "objective.swamp.queue.size or data.entries; set engine.micro_batch or engine.zero_stage; or take "
    "more ranks."
)
_READ_LESS = (
    "read entries by offset (data.reading=seek data.cache=none), or, where storage cannot seek, lower "
    "data.lanes, data.workers, data.shuffle_block or data.full_shuffle_below (lanes and shuffles change the "
    "order), or take more ranks."
)


def refuse_what_does_not_fit(settings: StageSettings, world_size: int, room: Room) -> None:
    """Ask `memory_problem`.

    Raises:
        UserError: there is one.
    """
    problem = memory_problem(settings, world_size, room)
    if problem is not None:
        raise UserError(problem)


def _parts(settings: StageSettings, embedding_dim: int, world_size: int) -> Mapping[str, int]:
    """Bytes per rank by part; of a stage that only evaluates, the weights alone."""
    try:
        settings = with_known_vocabulary(settings)
        inputs = known_inputs(settings)
    except UserError:  # encoders and fields that do not fit are told when the model is built
        inputs = None
    if settings.train is not None:
        return whole_cost(settings, embedding_dim, inputs, world_size).memory
    return {"weights": FLOAT * _parameters(settings, embedding_dim, inputs)}


def _parameters(
    settings: StageSettings, embedding_dim: int, inputs: tuple[InputSpec, InputSpec] | None
) -> int:
    swamp = settings.objective.swamp
    prototypes = swamp.prototypes * embedding_dim if swamp.weight > 0 else 0
    if inputs is None:
        return prototypes
    costs = settings.model.costs(1, inputs, embedding_dim)
    return prototypes + sum(cost.parameters + cost.frozen_parameters for cost in costs)
