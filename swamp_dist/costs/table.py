"""What a job's step costs on clusters of several sizes, side by side; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from swamp_dist.config import Settings, StageSettings
from swamp_dist.console import block, cell
from swamp_dist.costs.loading import loading_bytes
from swamp_dist.costs.triplets import heads_cost, negatives_cost
from swamp_dist.encoders.encoder import check_input
from swamp_dist.errors import UserError
from swamp_dist.file_names import MANIFEST_FILE
from swamp_dist.model.costs import FLOAT, engine_bytes, engine_traffic
from swamp_dist.objective.placement import expected_iterations
from swamp_dist.objective.step_cost import StepCost, step_cost
from swamp_dist.records import InputSpec
from swamp_dist.train.weights_header import stage_embedding_dim

_MOST_COLUMNS = 6


def cost_table(settings: Settings, nodes: int, gpus_per_node: int) -> Table:
    """Compute, memory and bytes sent per step and rank from one GPU up to `nodes` nodes; see `step_cost`.

    Raises:
        UserError: not a job that trains, or its batch cannot be shared out over so many ranks.
    """
    if not isinstance(settings, StageSettings) or settings.train is None:
        raise UserError("--cost is for a job that trains: this file has no `train` section of a stage")
    settings = with_known_vocabulary(settings)
    sizes, inputs = world_sizes(settings, nodes, gpus_per_node), known_inputs(settings)
    embedding_dim = stage_embedding_dim(settings)
    costs = [whole_cost(settings, embedding_dim, inputs, size) for size in sizes]
    return _table(settings, costs, [loading_bytes(settings, size) for size in sizes])


def world_sizes(settings: StageSettings, nodes: int, gpus_per_node: int) -> list[int]:
    """World sizes to show: one rank, one node, doubled up to `nodes` nodes, as far as the lanes allow.

    Raises:
        UserError: the largest does not divide the lanes.
    """
    largest, lanes = nodes * gpus_per_node, settings.data.num_lanes
    if lanes % largest:
        fitting = [str(n) for n in range(1, lanes + 1) if lanes % n == 0]
        raise UserError(
            f"--nodes {nodes} --gpus-per-node {gpus_per_node}: {largest} ranks do not divide "
            f"data.lanes = {lanes}.\n"
            f"Ranks that do: {', '.join(fitting[-12:])}; or raise data.entries (now {settings.data.entries}) "
            f"to a multiple of {largest}, for example "
            f"data.entries={largest * -(-settings.data.entries // largest)}"
        )
    doubled = [gpus_per_node * 2**power for power in range(nodes.bit_length())]
    fitting_sizes = sorted({1, largest, *(size for size in doubled if size < largest)})
    fitting_sizes = [size for size in fitting_sizes if lanes % size == 0]
    return fitting_sizes if len(fitting_sizes) <= _MOST_COLUMNS else [1, *fitting_sizes[1 - _MOST_COLUMNS :]]


@dataclass(frozen=True)
class ModelCost:
    """What encoders, prototypes and engine add to the objective's step on a rank."""

    flops: Mapping[str, int]
    memory: Mapping[str, int]
    sent: Mapping[str, int]
    loaded: int = 0
    """Bytes of a batch's pixels and sets, the latter at most and as float32."""


@dataclass(frozen=True)
class WholeCost:
    """A step on a rank. `model` is None where the widths of the inputs are not known."""

    step: StepCost
    model: ModelCost | None

    @property
    def flops(self) -> dict[str, int]:
        """Operations by part."""
        return {**({} if self.model is None else self.model.flops), **self.step.flops}

    @property
    def memory(self) -> dict[str, int]:
        """Bytes held by part."""
        return {**({} if self.model is None else self.model.memory), **self.step.memory}

    @property
    def sent(self) -> dict[str, int]:
        """Bytes sent by part."""
        parts = dict({} if self.model is None else self.model.sent)
        for collective in self.step.collectives:
            size = collective.sent(self.step.world_size)
            parts[collective.what] = parts.get(collective.what, 0) + size
        return parts


def whole_cost(
    settings: StageSettings,
    embedding_dim: int,
    inputs: tuple[InputSpec, InputSpec] | None,
    world_size: int,
    on_gpu: bool = True,
) -> WholeCost:
    """The step of a stage that trains, on a rank of `world_size`.

    Args:
        inputs: items of a and of b; None where they are not known.
    """
    data = settings.data
    pairs = data.entries * data.pairs_per_entry
    step = step_cost(settings.objective, pairs, data.pairs_per_entry, embedding_dim, world_size, on_gpu)
    if inputs is None or not _fit(settings, inputs):
        return WholeCost(step, None)
    return WholeCost(step, model_cost(settings, inputs, embedding_dim, world_size))


def _fit(settings: StageSettings, inputs: tuple[InputSpec, InputSpec]) -> bool:
    """Whether the encoders take these inputs; if not, the stage is refused when its model is built."""
    sides = zip((settings.model.a, settings.model.b), inputs, strict=True)
    fit = all(encoder.input_problem(spec) is None for encoder, spec in sides)
    return fit and settings.model.sets_problem(inputs) is None


def with_known_vocabulary(settings: StageSettings) -> StageSettings:
    """The stage with the vocabulary of its shard set where an encoder takes that and the set is built.

    Raises:
        UserError: the set is damaged.
    """
    if not (settings.data.shards / MANIFEST_FILE).is_file():
        return settings
    from swamp_dist.data.manifest import load_manifest  # imports numpy
    from swamp_dist.data.vocabulary import with_vocabulary

    model = with_vocabulary(settings.model, load_manifest(settings.data.shards))
    return settings.model_copy(update={"model": model})


def known_inputs(settings: StageSettings) -> tuple[InputSpec, InputSpec] | None:
    """Items of a and of b: of the shard set if it is built, else what the encoders' settings tell; or None.

    Raises:
        UserError: the shard set is damaged, lacks a field, or an encoder does not take its field.
    """
    if (settings.data.shards / MANIFEST_FILE).is_file():
        from swamp_dist.data.inputs import input_specs  # imports numpy
        from swamp_dist.data.manifest import load_manifest

        specs = input_specs(load_manifest(settings.data.shards), settings.data)
        for encoder, spec in zip((settings.model.a, settings.model.b), specs, strict=True):
            check_input(encoder, spec)
        if (problem := settings.model.sets_problem(specs)) is not None:
            raise UserError(problem)
        return specs
    a, b = settings.model.a.configured_input(), settings.model.b.configured_input()
    return None if a is None or b is None else (a, b)


def model_cost(
    settings: StageSettings, inputs: tuple[InputSpec, InputSpec], embedding_dim: int, world_size: int
) -> ModelCost:
    """Encoders of these inputs and their engine, on a rank of `world_size`."""
    local = settings.data.entries * settings.data.pairs_per_entry // world_size
    at_once = min(settings.engine.micro_batch or local, local)
    whole, piece = (settings.model.costs(rows, inputs, embedding_dim) for rows in (local, at_once))
    swamp, heads = settings.objective.swamp, heads_cost(settings, local, embedding_dim)
    parameters = sum(side.parameters for side in (*whole, *([] if heads is None else [heads])))
    parameters += swamp.prototypes * embedding_dim if swamp.weight > 0 else 0
    frozen = sum(side.frozen_parameters for side in whole)
    for parts, rows in ((whole, local), (piece, at_once)):  # after their weights are counted
        more = (
            negatives_cost(settings, rows, inputs, embedding_dim),
            heads_cost(settings, rows, embedding_dim),
        )
        parts += [part for part in more if part is not None]
    twice = sum(side.forward_flops for side in whole) if at_once < local else 0
    activations = FLOAT * sum(side.saved_floats for side in piece)
    sent_in = (*inputs, inputs[1]) if settings.objective.takes_triplets else inputs
    pixels = local * sum(math.prod(spec.shape) for spec in sent_in if spec.kind in ("image", "frames"))
    sides = zip((settings.model.a, settings.model.b), inputs, strict=True)
    elements = sum(
        encoder.most_elements(spec) * math.prod(spec.shape) for encoder, spec in sides if spec.kind == "set"
    )
    held = engine_bytes(parameters, world_size, settings.engine.zero_stage, frozen)
    traffic = engine_traffic(parameters, world_size, settings.engine.zero_stage, frozen)
    flops = {"encoders": sum(side.flops for side in whole) + twice}
    memory = {**held, "activations": activations, **({"pixels": pixels} if pixels else {})}
    scored = settings.model.score_cost(local * local * world_size, inputs, embedding_dim)
    if scored is not None:
        flops["scores of pairs"] = scored.flops
        memory["scores of pairs"] = FLOAT * scored.saved_floats
    return ModelCost(
        flops,
        memory,
        {f"engine's {what}": size for what, size in traffic.items()} if world_size > 1 else {},
        pixels + FLOAT * local * elements,
    )


def _table(settings: StageSettings, costs: Sequence[WholeCost], loaded: Sequence[int]) -> Table:
    shown = Table(title=cell(f"{settings.name}: a warm step on a rank"), title_justify="left")
    shown.add_column("ranks")
    for cost in costs:
        shown.add_column(f"{cost.step.world_size:,}", justify="right")
    for label, figure in _rows(costs):
        shown.add_row(label, *(figure(cost) for cost in costs))
    if any(loaded):
        shown.add_row("machine's memory: data that are read", *(binary(size) for size in loaded))
    shown.caption = block(_caption(settings, costs[0]))
    shown.caption_justify = "left"
    return shown


def _rows(costs: Sequence[WholeCost]) -> list[tuple[str, Callable[[WholeCost], str]]]:
    """Label and cell of every line; parts that no size has are left out."""
    rows: list[tuple[str, Callable[[WholeCost], str]]] = [("pairs", lambda c: f"{c.step.local_pairs:,}")]
    if any(c.step.placement is not None for c in costs):
        rows += [
            ("queue", lambda c: "" if c.step.placement is None else c.step.placement.layout),
            ("solve", lambda c: _solve(c.step)),
            ("rows solved", lambda c: f"{c.step.rows:,}"),
            ("score blocks", lambda c: f"{c.step.blocks:,}"),
        ]
    rows += [(f"compute: {part}", _flops(part)) for part in costs[0].flops]
    rows.append(("compute", lambda c: operations(sum(c.flops.values()))))
    rows += [(f"memory: {part}", _bytes(part)) for part in costs[0].memory]
    rows.append(("memory", lambda c: binary(sum(c.memory.values()))))
    rows.append(("collectives", lambda c: str(len(c.step.collectives))))
    rows += [(f"sent: {what}", _sent(what)) for what in _whats(costs)]
    rows.append(("sent", lambda c: binary(sum(c.sent.values()))))
    return rows


def _solve(cost: StepCost) -> str:
    if cost.placement is None:
        return ""
    return "split" if cost.placement.is_split else "whole"


def _flops(part: str) -> Callable[[WholeCost], str]:
    return lambda cost: operations(cost.flops[part])


def _bytes(part: str) -> Callable[[WholeCost], str]:
    return lambda cost: binary(cost.memory[part])


def _sent(what: str) -> Callable[[WholeCost], str]:
    return lambda cost: binary(cost.sent.get(what, 0))


def _whats(costs: Sequence[WholeCost]) -> list[str]:
    return list(dict.fromkeys(what for cost in costs for what in cost.sent))


def _caption(settings: StageSettings, cost: WholeCost) -> str:
    sinkhorn = settings.objective.swamp.sinkhorn
    iterations = expected_iterations(settings.objective)
    limit = "" if sinkhorn.iterations else f" (stopping at a tolerance: up to {sinkhorn.max_iterations})"
    counted = (
        f"Encoders count matrix products; words at most; engine at ZeRO stage {settings.engine.zero_stage}."
        if cost.model is not None
        else "Encoders, optimiser and their gradients are not counted: the shard set that says how long the "
        f"inputs are is not built ({settings.data.shards})."
    )
    batch = 0 if cost.model is None else cost.model.loaded
    ahead = settings.data.workers * settings.data.prefetch
    loaded = (
        f" Loader processes of a rank keep up to {ahead} batches of {binary(batch)} of pixels and sets "
        f"ready, in the machine's memory (data.workers, data.prefetch)."
        if batch and ahead
        else ""
    )
    return (
        f"{iterations} iterations a solve{limit}, without repeats; float32, full queue, the rank that does "
        f"most; bytes sent are those of a ring; collectives are the objective's. {counted}{loaded}"
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
