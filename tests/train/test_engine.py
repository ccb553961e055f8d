import contextlib
from pathlib import Path

import pytest
import torch

from swamp_dist.config import EngineSettings, MlpSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from swamp_dist.distributed import World, mean_over_ranks
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.model.logits import LogitStart
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan
from swamp_dist.train.engine import Engine
from tests.ranks import run_on_ranks

PAIRS = 32


def _train(
    world: World, stage: int, precision: str, steps: int
) -> tuple[list[float], dict[str, torch.Tensor], float]:
    """Loss curve, final weights and last gradient norm of the mean loss at epsilon 0.05 on fixed data."""
    model = ModelSettings(embedding_dim=8, a=MlpSettings(hidden=(16,)), b=MlpSettings(hidden=(16,)))
    objective = ObjectiveSettings.model_validate(
        {
            "swamp": {
                "prototypes": 12,
                "queue": {"size": 48, "start_when_filled": 0},
                "sinkhorn": {"iterations": 3},
            }
        }
    )
    settings = EngineSettings(zero_stage=stage, precision=precision)  # type: ignore[arg-type]
    engine = Engine(
        build_dual_encoder(model, (10,), (10,), 12, normalize_prototypes=True, seed=0),
        OptimizerSettings(lr=2e-3, clip_norm=1.0),
        settings,
        PAIRS // world.size,
        world,
    )
    plan = BatchPlan(entries=PAIRS, pairs_per_entry=1, lanes=PAIRS, world_size=world.size)
    compute = build_objective(objective, plan, 8, world.device, rank=world.rank)
    data = torch.randn(steps, 2, PAIRS, 10, generator=torch.Generator().manual_seed(1))
    rows = slice(world.rank * plan.local_pairs, (world.rank + 1) * plan.local_pairs)
    ids = torch.arange(PAIRS)[rows]
    curve = []
    for step in range(steps):
        a, b = data[step, 0, rows], data[step, 0, rows] + 0.3 * data[step, 1, rows]
        terms = compute(engine.embed_pairs(a, b), ids, ids, step, world)
        curve.append(float(mean_over_ranks(terms.total.detach().clone(), world)))
        engine.backward(terms.total)
        engine.step(2e-3)
    return curve, engine.weights(), engine.gradient_norm()


@pytest.fixture(scope="module")
def reference() -> tuple[list[float], dict[str, torch.Tensor], float]:
    """One rank, stage 0, float32."""
    result: tuple[list[float], dict[str, torch.Tensor], float] = run_on_ranks(_train, 1, 0, "fp32", 50)[0]
    return result


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_on_two_ranks_follows_the_single_process(stage: int, reference) -> None:  # type: ignore[no-untyped-def]
    curve, weights, norm = run_on_ranks(_train, 2, stage, "fp32", 50)[0]
    torch.testing.assert_close(torch.tensor(curve[:1]), torch.tensor(reference[0][:1]), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(reference[0]), rtol=0, atol=1e-5)
    assert weights.keys() == reference[1].keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, reference[1][name], rtol=0, atol=1e-4)
    assert norm == pytest.approx(reference[2], rel=1e-3)
    assert curve[-1] < 0.8 * curve[0]


def test_bf16_stays_in_its_band(reference) -> None:  # type: ignore[no-untyped-def]
    curve, weights, _ = run_on_ranks(_train, 2, 1, "bf16", 50)[0]
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(reference[0]), rtol=0.02, atol=0)
    assert all(value.dtype == torch.float32 for value in weights.values())


def _norms(world: World, stage: int) -> tuple[float, str]:
    """Of a step that measures it, and what one says that does not."""
    model = ModelSettings(embedding_dim=4, a=MlpSettings(hidden=(4,)), b=MlpSettings(hidden=(4,)))
    encoder = build_dual_encoder(model, (3,), (3,), None, normalize_prototypes=True, seed=0)
    engine = Engine(encoder, OptimizerSettings(), EngineSettings(zero_stage=stage), 2, world)  # type: ignore[arg-type]
    found, said = [], ""
    for measures_norm in (True, False):
        engine.backward(engine.embed_pairs(torch.ones(2, 3), torch.ones(2, 3)).a.sum())  # type: ignore[union-attr]
        engine.step(0.0, measures_norm=measures_norm)
        try:
            found.append(engine.gradient_norm())
        except ValueError as error:
            said = str(error)
    assert len(set(found)) == 1
    return found[0], said


def test_a_norm_that_was_not_measured_is_not_made_up() -> None:
    norm, said = run_on_ranks(_norms, 1, 0)[0]
    assert norm > 0
    assert "measures_norm" in said
    zero_stage, nothing = run_on_ranks(_norms, 1, 1)[0]  # DeepSpeed measures it in each step
    assert (zero_stage, nothing) == (pytest.approx(norm, rel=1e-5), "")


def _saved_files(world: World, folder: Path, stage: int) -> list[str]:
    model = ModelSettings(embedding_dim=4, a=MlpSettings(hidden=(4,)), b=MlpSettings(hidden=(4,)))
    encoder = build_dual_encoder(model, (3,), (3,), None, normalize_prototypes=True, seed=0)
    engine = Engine(encoder, OptimizerSettings(), EngineSettings(zero_stage=stage), 2, world)  # type: ignore[arg-type]
    engine.backward((engine.embed_pairs(torch.ones(2, 3), torch.ones(2, 3)).a).sum())
    engine.step(1e-3)
    return [str(path.relative_to(folder)) for path in engine.save(folder)]


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_every_saved_file_is_reported_by_exactly_one_rank(tmp_path: Path, stage: int) -> None:
    reported = [name for part in run_on_ranks(_saved_files, 2, tmp_path, stage) for name in part]
    on_disk = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.pt"))
    assert sorted(reported) == on_disk
    assert not list(tmp_path.rglob("latest*"))


def _scales(world: World, stage: int, precision: str) -> list[tuple[float, float]]:
    """Logit scale and bias after each of ten updates up, ten down, and two without a gradient."""
    model = ModelSettings(embedding_dim=4, a=MlpSettings(hidden=(4,)), b=MlpSettings(hidden=(4,)))
    encoder = build_dual_encoder(
        model, (3,), (3,), None, normalize_prototypes=True, seed=0, logits=LogitStart(98.0, -10.0, True)
    )
    settings = EngineSettings(zero_stage=stage, precision=precision)  # type: ignore[arg-type]
    optimizer = OptimizerSettings(lr=0.01, betas=(0.0, 0.0), weight_decay=0.5)
    engine = Engine(encoder, optimizer, settings, 2, world)
    found = []
    for direction in [-1.0] * 10 + [1.0] * 10 + [0.0] * 2:
        rows = engine.embed_pairs(torch.ones(2, 3), torch.ones(2, 3))
        assert rows.logit_scale is not None
        assert rows.logit_bias is not None
        assert rows.logit_scale.dtype == rows.logit_bias.dtype == torch.float32
        engine.backward(direction * (rows.logit_scale + rows.logit_bias) + (rows.a + rows.b).sum())
        engine.step(0.01)
        weights = engine.weights()
        if world.is_main:
            found.append((float(weights["logits.log_scale"].exp()), float(weights["logits.bias"])))
    return found


def _all_scales(world: World) -> list[list[tuple[float, float]]]:
    return [_scales(world, stage, "bf16" if stage == 1 else "fp32") for stage in (0, 1, 2, 3)]


def test_a_learned_logit_scale_stays_below_its_bound_comes_back_and_does_not_decay() -> None:
    for found in (*run_on_ranks(_all_scales, 2)[0], run_on_ranks(_scales, 1, 0, "fp32")[0]):
        up, down, still = found[:10], found[10:20], found[20:]
        assert [scale <= 100.0 for scale, _ in up] == [True] * 10
        assert [scale for scale, _ in up[2:]] == pytest.approx([100.0] * 8, rel=1e-5)
        assert [scale for scale, _ in down] == pytest.approx([100.0 * 0.99005**n for n in range(1, 11)], 1e-4)
        assert [bias for _, bias in up] == pytest.approx([-10 + 0.01 * n for n in range(1, 11)])
        assert still == [down[-1]] * 2


def _alone(world: World) -> list[tuple[int, int, dict[str, torch.Tensor]]]:
    """Of one rank, without and with DeepSpeed's average: all-reduces, parameters without a gradient, and
    weights. No loss asks the prototypes in the second half."""
    import torch.distributed as dist

    found, reduce = [], dist.all_reduce
    for averages in (False, True):
        model = ModelSettings(embedding_dim=8, a=MlpSettings(hidden=(16,)), b=MlpSettings(hidden=(16,)))
        dual = build_dual_encoder(model, (10,), (10,), 12, normalize_prototypes=True, seed=0)
        engine = Engine(dual, OptimizerSettings(clip_norm=1.0, weight_decay=0.01), EngineSettings(), 4, world)
        if averages:
            engine._averages, engine._engine.enable_backward_allreduce = True, True
        calls: list[int] = []
        dist.all_reduce = lambda *args, calls=calls, **how: calls.append(1) or reduce(*args, **how)
        try:
            for step in range(6):
                data = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(step))
                given = engine.embed_pairs(*data)
                asked = given.prototypes.sum() if step < 3 else 0.0
                with engine.one_reduction() if step % 2 else contextlib.nullcontext():
                    engine.backward((given.a - given.b).square().sum() + asked)
                without = {name for name, p in dual.named_parameters() if p.grad is None}
                engine.step(1e-2)
        finally:
            dist.all_reduce = reduce
        found.append((len(calls), len(without), engine.weights()))
    return found


def test_one_rank_averages_nothing_and_has_the_same_bits() -> None:
    (calls, missing, weights), (usual, _, reference) = run_on_ranks(_alone, 1)[0]
    assert (usual - calls, missing) == (6, 0)
    for name, value in reference.items():
        assert torch.equal(weights[name], value), name
