"""What a job's objective costs on clusters of several sizes, side by side; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table

from swamp_dist.config import Settings, StageSettings
from swamp_dist.launch.embedding_dim import with_embedding_dim
from swamp_dist.objective.costs import StepCost, expected_iterations, step_cost
from swamp_dist.records import UserError

_MOST_COLUMNS = 6


def cost_table(settings: Settings, nodes: int, gpus_per_node: int) -> Table:
    """Compute, memory and bytes sent a step and rank from one GPU up to `nodes` nodes; see `step_cost`.

    Raises:
        UserError: not a job that trains, or its batch cannot be shared out over so many ranks.
    """
    if not isinstance(settings, StageSettings) or settings.train is None:
        raise UserError("--cost is for a job that trains: this file has no `train` section of a stage")
    return _table(settings, [_cost(settings, size) for size in world_sizes(settings, nodes, gpus_per_node)])


def world_sizes(settings: StageSettings, nodes: int, gpus_per_node: int) -> list[int]:
    """World sizes to show: one rank, one node, doubled up to `nodes` nodes, as far as the lanes allow.

    Raises:
        UserError: the largest does not divide the lanes.
    """
    largest, lanes = nodes * gpus_per_node, settings.data.num_lanes
    if lanes % largest:
        fitting = [str(n) for n in range(1, lanes + 1) if lanes % n == 0]
        raise UserError(
            f"--nodes {nodes} --gpus-per-node {gpus_per_node}: {largest} ranks do not divide data.lanes = {lanes}.\n"
            f"Ranks that do: {', '.join(fitting[-12:])}; or raise data.entries (now {settings.data.entries}) "
            f"to a multiple of {largest}, for example data.entries={largest * -(-settings.data.entries // largest)}"
        )
    doubled = [gpus_per_node * 2**power for power in range(nodes.bit_length())]
    fitting_sizes = sorted({1, largest, *(size for size in doubled if size < largest)})
    fitting_sizes = [size for size in fitting_sizes if lanes % size == 0]
    return fitting_sizes if len(fitting_sizes) <= _MOST_COLUMNS else [1, *fitting_sizes[1 - _MOST_COLUMNS :]]


def _cost(settings: StageSettings, world_size: int) -> StepCost:
    data = settings.data
    pairs = data.entries * data.pairs_per_entry
    embedding_dim = with_embedding_dim(settings).model.embedding_dim
    assert embedding_dim is not None
    return step_cost(settings.objective, pairs, data.pairs_per_entry, embedding_dim, world_size)


def _table(settings: StageSettings, costs: Sequence[StepCost]) -> Table:
    shown = Table(title=f"{settings.name}: the objective, a warm step and rank", title_justify="left")
    shown.add_column("ranks")
    for cost in costs:
        shown.add_column(f"{cost.world_size:,}", justify="right")
    for label, cell in _rows(costs):
        shown.add_row(label, *(cell(cost) for cost in costs))
    shown.caption = _caption(settings)
    shown.caption_justify = "left"
    return shown


def _rows(costs: Sequence[StepCost]) -> list[tuple[str, Callable[[StepCost], str]]]:
    """Label and cell of every line; parts that no size has are left out."""
    rows: list[tuple[str, Callable[[StepCost], str]]] = [("pairs", lambda c: f"{c.local_pairs:,}")]
    if any(c.placement is not None for c in costs):
        rows += [
            ("queue", lambda c: "" if c.placement is None else c.placement.layout),
            ("solve", _solve),
            ("rows solved", lambda c: f"{c.rows:,}"),
            ("score blocks", lambda c: f"{c.blocks:,}"),
        ]
    rows += [(f"compute: {part}", _flops(part)) for part in costs[0].flops]
    rows.append(("compute", lambda c: operations(sum(c.flops.values()))))
    rows += [(f"memory: {part}", _bytes(part)) for part in costs[0].memory]
    rows.append(("memory", lambda c: binary(sum(c.memory.values()))))
    rows.append(("collectives", lambda c: str(len(c.collectives))))
    rows += [(f"sent: {what}", _sent(what)) for what in _whats(costs)]
    rows.append(("sent", lambda c: binary(c.sent)))
    return rows


def _solve(cost: StepCost) -> str:
    if cost.placement is None:
        return ""
    return "split" if cost.placement.is_split else "whole"


def _flops(part: str) -> Callable[[StepCost], str]:
    return lambda cost: operations(cost.flops[part])


def _bytes(part: str) -> Callable[[StepCost], str]:
    return lambda cost: binary(cost.memory[part])


def _sent(what: str) -> Callable[[StepCost], str]:
    return lambda cost: binary(sum(c.sent(cost.world_size) for c in cost.collectives if c.what == what))


def _whats(costs: Sequence[StepCost]) -> list[str]:
    return list(dict.fromkeys(c.what for cost in costs for c in cost.collectives))


def _caption(settings: StageSettings) -> str:
    sinkhorn = settings.objective.swamp.sinkhorn
    iterations = expected_iterations(settings.objective)
    limit = "" if sinkhorn.iterations else f" (stopping at a tolerance: up to {sinkhorn.max_iterations})"
    return (
        f"{iterations} iterations a solve{limit}, without repeats; float32, full queue, the rank that does most; "
        "bytes sent are those of a ring. Encoders, optimiser and their gradients are not counted."
    )


def operations(number: int) -> str:
    """`1.2 TFLOP`, three digits at most."""
    return _scaled(number, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"))


def binary(number: int) -> str:
    """`1.5 GiB`, in units of 1,024."""
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while number >= base and power < len(units) - 1:
        number, power = number / base, power + 1
    return f"{number:.0f} {units[power]}" if power == 0 or number >= 100 else f"{number:.1f} {units[power]}"
