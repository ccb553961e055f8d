import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swamp_dist.config import StageSettings
from swamp_dist.distributed import World
from swamp_dist.errors import UserError
from swamp_dist.records import StageResult
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.run import run_stage
from swamp_dist.train.loop import Preempted
from tests.ranks import run_on_ranks
from tests.train.test_metrics import events_of
from tests.train.tiny import StopAfter, tiny_stage

STEPS = 32  # 4 epochs of floor(200 / 24) steps


def _run(
    world: World, settings: StageSettings, folder: Path, stops: list[int], only_rank: int = 0
) -> StageResult:
    """Run a stage to its end through interruptions at the given steps."""
    for stop in stops:
        with pytest.raises(Preempted):
            run_stage(settings, RunDir(folder), world, StopAfter(stop if world.rank == only_rank else -1))
    return run_stage(settings, RunDir(folder), world)


def _losses(folder: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss/total"]) for row in rows if "loss/total" in row]


@pytest.mark.parametrize(
    "stops", [[7, 2], *(pytest.param(stops, marks=pytest.mark.slow) for stops in ([1], [8], [31]))], ids=str
)
def test_a_run_stopped_and_resumed_is_bit_identical(
    tiny_shards: Path, tmp_path: Path, stops: list[int]
) -> None:
    settings = tiny_stage(tiny_shards)
    run_on_ranks(_run, 1, settings, tmp_path / "whole", [])
    run_on_ranks(_run, 1, settings, tmp_path / "parts", stops)
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("stage", [*(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 1, 2)), 3])
def test_two_ranks_stop_together_when_one_is_asked_and_resume_exactly(
    tiny_shards: Path, tmp_path: Path, stage: int
) -> None:
    settings = tiny_stage(tiny_shards, engine__zero_stage=stage, data__workers=1, data__cache="none")
    run_on_ranks(_run, 2, settings, tmp_path / "whole", [])
    run_on_ranks(_run, 2, settings, tmp_path / "parts", [11], 1)
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")


SIGMOID = {"form": "sigmoid", "positives": "class", "learn_temperature": True, "reduction": "sum"}
INFONCE = {"form": "infonce", "positives": "class", "learn_temperature": True, "chunk": 7}


@pytest.mark.parametrize(
    ("form", "engine"),
    [
        (INFONCE, {"zero_stage": 3, "micro_batch": 4}),
        *(
            pytest.param(form, {"zero_stage": stage} | more, marks=pytest.mark.slow)
            for form in (INFONCE, SIGMOID)
            for stage in (0, 1, 2, 3)
            for more in ({}, {"precision": "bf16"}, {"micro_batch": 4})
        ),
    ],
    ids=str,
)
def test_logits_and_classes_go_on_exactly(
    tiny_shards: Path, tmp_path: Path, form: dict[str, Any], engine: dict[str, Any]
) -> None:
    settings = tiny_stage(tiny_shards, objective__contrastive=form, engine=engine)
    run_on_ranks(_run, 2, settings, tmp_path / "whole", [])
    run_on_ranks(_run, 2, settings, tmp_path / "parts", [11], 1)
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")
    weights = load_file(tmp_path / "whole" / "weights.safetensors")
    assert float(weights["logits.log_scale"]) != pytest.approx(math.log(10), abs=1e-4)


def _assert_same_run(whole: Path, parts: Path) -> None:
    assert [step for step, _ in _losses(parts)] == list(range(1, STEPS + 1))
    assert _losses(parts) == _losses(whole)
    expected, found = load_file(whole / "weights.safetensors"), load_file(parts / "weights.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, parts)]
    assert results[0]["evaluations"] == results[1]["evaluations"]
    assert results[0]["selected_step"] == results[1]["selected_step"]


def test_what_is_logged_does_not_depend_on_how_often(tiny_shards: Path, tmp_path: Path) -> None:
    often = tiny_stage(tiny_shards, train__histogram_every=1)
    seldom = tiny_stage(tiny_shards, train__log_every=6, train__histogram_every=5)
    for settings, name in ((often, "often"), (seldom, "seldom")):
        run_on_ranks(_run, 1, settings, tmp_path / name, [11])
    expected, found = _figures(tmp_path / "often"), _figures(tmp_path / "seldom")
    assert list(expected) == list(range(1, STEPS + 1))
    assert list(found) == [6, 12, 18, 24, 30, STEPS]
    assert {"optim/grad_norm", "swamp/used_prototypes", "swamp/target_entropy"} <= set(found[6])
    assert found == {step: expected[step] for step in found}
    expected_use, use = (_prototype_use(tmp_path / name) for name in ("often", "seldom"))
    assert list(use) == [5, 10, 15, 20, 25, 30, STEPS]
    assert use == {step: expected_use[step] for step in use}
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("often", "seldom")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def _figures(folder: Path) -> dict[int, dict[str, float]]:
    """By logged step, all but what a clock tells."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss/total" in row]
    untimed = [{name: row[name] for name in row if not name.startswith(("perf/", "time"))} for row in rows]
    return {int(row["step"]): row for row in untimed}


def _prototype_use(folder: Path) -> dict[int, list[float]]:
    """By step, how many prototypes are used how often."""
    return {
        event.step: list(event.histogram_value.bucket) + list(event.histogram_value.bucket_limit)
        for event in events_of(folder).Histograms("swamp/prototype_use")
    }


def test_world_sizes_agree(tiny_shards: Path, tmp_path: Path) -> None:
    settings = tiny_stage(tiny_shards, model__a={"kind": "mlp", "hidden": [16], "dropout": 0.0})
    one, two = (run_on_ranks(_run, n, settings, tmp_path / str(n), [])[0] for n in (1, 2))
    torch.testing.assert_close(
        torch.tensor(_losses(tmp_path / "1")), torch.tensor(_losses(tmp_path / "2")), rtol=0, atol=1e-5
    )
    assert one.steps == two.steps == STEPS


def _resume_with(world: World, first: StageSettings, second: StageSettings, folder: Path) -> str:
    with pytest.raises(Preempted):
        run_stage(first, RunDir(folder), world, StopAfter(3))
    with pytest.raises(UserError) as caught:
        run_stage(second, RunDir(folder), world)
    return str(caught.value)


def test_a_checkpoint_of_another_config_is_refused_by_name(tiny_shards: Path, tmp_path: Path) -> None:
    changed = tiny_stage(tiny_shards, objective__swamp__eta=7.0)
    message = run_on_ranks(_resume_with, 1, tiny_stage(tiny_shards), changed, tmp_path)[0]
    assert "objective.swamp.eta" in message
    assert "7" in message
    assert (tmp_path / "checkpoints" / "step-3" / "MANIFEST.json").is_file()


def test_early_stop_ends_a_run_and_a_restart_does_not_train_on(tiny_shards: Path, tmp_path: Path) -> None:
    validate = {"split": "validation", "early_stop": 1}
    settings = tiny_stage(tiny_shards, train__epochs=40, train__validate_on=validate)
    first = run_on_ranks(_run, 1, settings, tmp_path, [])[0]
    assert first.steps < 40 * 8
    (tmp_path / "result.json").unlink()
    again = run_on_ranks(_run, 1, settings, tmp_path, [])[0]
    assert (again.steps, again.selected_step) == (first.steps, first.selected_step)


def _poisoned(world: World, settings: StageSettings, folder: Path) -> str:
    from swamp_dist.train.engine import Engine

    embed = Engine.embed_pairs

    def poisoned(self: Engine, a: torch.Tensor, *others: Any) -> Any:
        calls.append(1)
        return embed(self, a * float("nan") if len(calls) == 4 and world.rank == 1 else a, *others)

    calls: list[int] = []
    Engine.embed_pairs = poisoned  # type: ignore[method-assign]
    with pytest.raises(UserError) as caught:
        run_stage(settings, RunDir(folder), world)
    return str(caught.value)


def test_a_non_finite_loss_on_one_rank_stops_all_before_the_update(tiny_shards: Path, tmp_path: Path) -> None:
    settings = tiny_stage(tiny_shards, train__checkpoint={"every": 1, "keep": 2})
    messages = run_on_ranks(_poisoned, 2, settings, tmp_path)
    assert messages[0] == messages[1]
    assert "step 3 is not finite" in messages[0]
    assert "12 of 24 samples" in messages[0]
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("step-*")) == ["step-2", "step-3"]


def test_a_batch_larger_than_the_data_names_both_numbers(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)UserError.*400.*200|UserError.*200.*400"):
        run_on_ranks(_run, 1, tiny_stage(tiny_shards, data__entries=400), tmp_path, [])
