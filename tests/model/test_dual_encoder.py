import pytest
import torch

from swamp_dist.config import GatedSettings, MlpSettings, ModelSettings
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.records import UserError

MODEL = ModelSettings(embedding_dim=6, a=MlpSettings(hidden=(8,)), b=GatedSettings())


def test_embeddings_and_prototypes_have_unit_length() -> None:
    model = build_dual_encoder(MODEL, (10,), (7,), 9, normalize_prototypes=True, seed=0)
    out = model(torch.randn(4, 10), torch.randn(4, 7))
    assert out.a.shape == out.b.shape == (4, 6)
    for rows in out:
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


def test_one_side_alone_equals_the_pair() -> None:
    model = build_dual_encoder(MODEL, (10,), (7,), None, normalize_prototypes=True, seed=0)
    a, b = torch.randn(4, 10), torch.randn(4, 7)
    both = model(a, b)
    assert both.prototypes is None
    assert torch.equal(model(a, None), both.a)
    assert torch.equal(model(None, b), both.b)


def test_the_seed_decides_the_weights_and_prototypes_do_not_disturb_encoders() -> None:
    with_prototypes = build_dual_encoder(MODEL, (10,), (7,), 5, normalize_prototypes=True, seed=3)
    without = build_dual_encoder(MODEL, (10,), (7,), None, normalize_prototypes=True, seed=3)
    for name, value in without.state_dict().items():
        assert torch.equal(value, with_prototypes.state_dict()[name])


def test_an_encoder_of_vectors_refuses_other_fields() -> None:
    with pytest.raises(UserError, match=r"\(36, 2048\)"):
        build_dual_encoder(MODEL, (36, 2048), (7,), None, normalize_prototypes=True, seed=0)
