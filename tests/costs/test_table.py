import io
from pathlib import Path

import pytest
from rich.console import Console

from swamp_dist.config import EngineSettings, ModelSettings, ShardSettings, StageSettings
from swamp_dist.costs.table import binary, cost_table, known_inputs, model_cost, operations, world_sizes
from swamp_dist.errors import UserError
from swamp_dist.objective.step_cost import step_cost
from swamp_dist.records import InputSpec
from tests.train.tiny import tiny_stage


def _stage(entries: int, **changes: object) -> StageSettings:
    return tiny_stage(Path("nowhere"), data__entries=entries, **changes)


def _lines(settings: StageSettings, nodes: int, gpus: int) -> dict[str, list[str]]:
    printed = io.StringIO()
    Console(width=200, file=printed).print(cost_table(settings, nodes, gpus))
    rows = [line.split("\u2502")[1:-1] for line in printed.getvalue().splitlines()]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row}


def test_the_table_shows_the_formulas_for_several_sizes() -> None:
    settings = _stage(1024, data__lanes=1024, objective__swamp__queue={"size": 5000, "layout": "sharded"})
    assert world_sizes(settings, 128, 8) == [1, 64, 128, 256, 512, 1024]
    lines = _lines(settings, 128, 8)
    assert lines["queue"] == ["replicated"] + ["sharded"] * 5
    assert lines["rows solved"] == ["5,000", "80", "40", "20", "10", "5"]
    cost = step_cost(settings.objective, 1024, 1, settings.model.embedding_dim, 1024)
    assert lines["compute"][-1] == operations(sum(cost.flops.values()))
    assert lines["memory"][-1] == binary(sum(cost.memory.values()))
    assert lines["sent"][-1] == binary(cost.sent)
    assert lines["sent"][0] == "0 B"
    assert lines["collectives"][0] == "0"


def test_a_contrastive_stage_has_no_queue() -> None:
    lines = _lines(_stage(64, objective__swamp__weight=0), 2, 4)
    assert "queue" not in lines
    assert "memory: queue" not in lines
    assert lines["pairs"] == ["64", "16", "8"]


def test_what_cannot_be_counted_is_refused_with_a_way_out() -> None:
    with pytest.raises(UserError, match=r"16 ranks do not divide data.lanes = 24.*\n.*data.entries=32"):
        cost_table(_stage(24), 2, 8)
    recipe = ShardSettings.model_validate({"name": "x", "source": {"kind": "openmoji"}})
    with pytest.raises(UserError, match="for a job that trains"):
        cost_table(recipe, 1, 1)


def test_units() -> None:
    assert [operations(n) for n in (999, 1500, 2 * 10**12)] == ["999 FLOP", "1.5 kFLOP", "2.0 TFLOP"]
    assert [binary(n) for n in (0, 1536, 200 * 2**20)] == ["0 B", "1.5 KiB", "200 MiB"]


PARTS = {"kind": "gated", "unit_parts": [2048, 2048]}


def _with_model(embedding_dim: int, a: dict[str, object], b: dict[str, object]) -> StageSettings:
    model = ModelSettings.model_validate({"embedding_dim": embedding_dim, "a": a, "b": b})
    return _stage(64).model_copy(update={"model": model})


def test_encoders_and_engine_are_counted_where_the_inputs_lengths_are_known() -> None:
    settings = _with_model(512, {"kind": "words"}, PARTS)
    lines = _lines(settings, 2, 4)
    inputs = InputSpec((20,), word_dim=300), InputSpec((4096,))
    assert known_inputs(settings) == inputs
    rows, prototypes = 16, settings.objective.swamp.prototypes
    sides = (settings.model.a.cost(rows, inputs[0], 512), settings.model.b.cost(rows, inputs[1], 512))
    parameters = sum(side.parameters for side in sides) + prototypes * 512
    assert lines["compute: encoders"][1] == operations(sum(side.flops for side in sides))
    assert lines["memory: optimiser"][1] == binary(8 * parameters)
    assert lines["sent: engine's gradients"][1] == binary(2 * 4 * parameters * 3 // 4)
    assert lines["sent: engine's gradients"][0] == "0 B"
    sharded = _lines(settings.model_copy(update={"engine": EngineSettings(zero_stage=3)}), 2, 4)
    assert sharded["memory: optimiser"][1] == binary(12 * parameters // 4)
    assert sharded["sent: engine's weights"][1] == binary(4 * parameters * 3 // 4)
    assert sharded["memory: gathered weights"][1] == binary(4 * parameters)


def test_micro_batches_encode_twice_and_hold_less() -> None:
    settings, vector = _with_model(64, PARTS, PARTS), InputSpec((4096,))
    in_pieces = settings.model_copy(update={"engine": EngineSettings(micro_batch=16)})
    whole, pieces = (model_cost(s, (vector, vector), 64, 1) for s in (settings, in_pieces))
    forward = 2 * settings.model.a.cost(64, vector, 64).forward_flops
    assert pieces.flops["encoders"] == whole.flops["encoders"] + forward
    assert pieces.memory["activations"] * 4 == whole.memory["activations"]


def test_the_caption_says_that_encoders_are_not_counted() -> None:
    assert "compute: encoders" not in _lines(_stage(64), 1, 1)
    printed = io.StringIO()
    Console(width=200, file=printed).print(cost_table(_stage(64), 1, 1))
    assert "is not built (nowhere" in " ".join(printed.getvalue().split())


def test_sets_that_loaders_keep_ready_are_counted() -> None:
    """A batch of 128 pairs with 36 regions of 2,048 values takes 36 MiB in float32."""
    model = ModelSettings.model_validate({
        "embedding_dim": 8, "a": {"kind": "linear", "elements": 36}, "b": {"kind": "gru"},
        "sets": {"kind": "mean"},
    })  # fmt: skip
    base = tiny_stage(Path("shards"), data__entries=128, data__pairs_per_entry=1)
    stage = base.model_copy(update={"model": model})
    inputs = InputSpec((2048,), kind="set"), InputSpec((), kind="text")
    assert model_cost(stage, inputs, 8, 1).loaded == 128 * 36 * 2048 * 4
    assert model_cost(stage, inputs, 8, 4).loaded == 32 * 36 * 2048 * 4
