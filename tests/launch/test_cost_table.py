import io
from pathlib import Path

import pytest
from rich.console import Console

from swamp_dist.config import ShardSettings, StageSettings
from swamp_dist.launch.cost_table import binary, cost_table, operations, world_sizes
from swamp_dist.objective.costs import step_cost
from swamp_dist.records import UserError
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
