import math

import pytest
import torch

from swamp_dist.config import MlpSettings, ModelSettings
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.model.logits import LARGEST_SCALE, Logits, LogitStart

MODEL = ModelSettings(embedding_dim=4, a=MlpSettings(hidden=(5,)), b=MlpSettings(hidden=(5,)))


def model(logits: LogitStart | None) -> DualEncoder:
    return build_dual_encoder(MODEL, (3,), (3,), 2, normalize_prototypes=True, seed=0, logits=logits)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("bias", [None, -10.0])
def test_scale_and_bias_come_with_the_embeddings_and_are_in_the_weights(
    learned: bool, bias: float | None
) -> None:
    made = model(LogitStart(1 / 0.07, bias, learned))
    out = made(torch.randn(2, 3), torch.randn(2, 3))
    assert out.logit_scale.shape == ()
    assert out.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-6)
    assert (None if out.logit_bias is None else out.logit_bias.item()) == bias
    names = {"logits.log_scale"} | ({"logits.bias"} if bias is not None else set())
    assert {name for name in made.state_dict() if name.startswith("logits")} == names
    assert {name for name, _ in made.named_parameters() if "logits" in name} == (names if learned else set())
    assert list(made.state_dict())[-len(names) :] == sorted(names, reverse=True)


def test_without_logits_weights_and_embeddings_are_those_of_before() -> None:
    made = model(None)
    assert not any("logits" in name for name in made.state_dict())
    out = made(torch.randn(2, 3), torch.randn(2, 3))
    assert (out.logit_scale, out.logit_bias) == (None, None)
    with_logits = model(LogitStart(10.0, -10.0, learned=True)).state_dict()
    assert all(torch.equal(value, with_logits[name]) for name, value in made.state_dict().items())


def test_a_learned_scale_has_a_bound_and_a_gradient_at_it() -> None:
    logits = Logits(LogitStart(100.0, learned=True))
    scale, _ = logits()
    assert 0.999999 * LARGEST_SCALE < scale.item() <= LARGEST_SCALE
    scale.backward()
    assert logits.log_scale.grad is not None
    assert logits.log_scale.grad.item() == pytest.approx(100.0, rel=1e-6)
    with torch.no_grad():
        logits.log_scale.fill_(math.log(500.0))  # of weights that held a fixed one
    assert logits()[0].item() <= LARGEST_SCALE


def test_a_fixed_scale_has_neither_bound_nor_gradient() -> None:
    scale, bias = Logits(LogitStart(1e4, -3.0))()
    assert scale.item() == pytest.approx(1e4, rel=1e-6)
    assert not scale.requires_grad
    assert bias is not None
    assert not bias.requires_grad


def test_half_precision_gives_float32_and_float64_stays() -> None:
    start = LogitStart(10.0, -10.0, learned=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(start)(torch.randn(2, 3), torch.randn(2, 3))
    assert out.logit_scale.dtype == out.logit_bias.dtype == torch.float32
    assert [x.dtype for x in Logits(start).bfloat16()()] == [torch.float32] * 2  # type: ignore[union-attr]
    assert [x.dtype for x in Logits(start).double()()] == [torch.float64] * 2  # type: ignore[union-attr]
