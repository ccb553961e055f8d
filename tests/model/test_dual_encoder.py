import pytest
import torch

from swamp_dist.config import GatedSettings, MlpSettings, ModelSettings, WordsSettings
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import build_dual_encoder, build_encoder
from swamp_dist.records import InputSpec, Words

MODEL = ModelSettings(embedding_dim=6, a=MlpSettings(hidden=(8,)), b=GatedSettings())


def test_embeddings_and_prototypes_have_unit_length() -> None:
    model = build_dual_encoder(MODEL, (10,), (7,), 9, normalize_prototypes=True, seed=0)
    out = model(torch.randn(4, 10), torch.randn(4, 7))
    assert out.a.shape == out.b.shape == (4, 6)
    for rows in (out.a, out.b, out.prototypes):
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


WORDS = InputSpec((5,), word_dim=7)


def words(count: int = 4) -> Words:
    vectors = torch.randn(9, 7)
    vectors[0] = 0
    return Words(torch.randint(0, 9, (count, 5)), vectors)


def test_words_and_vectors_meet_their_own_encoders_only() -> None:
    settings = ModelSettings(embedding_dim=6, a=WordsSettings(), b=GatedSettings())
    model = build_dual_encoder(settings, WORDS, (7,), None, normalize_prototypes=True, seed=0)
    out = model(words(), torch.randn(4, 7))
    torch.testing.assert_close(out.a.norm(dim=1), torch.ones(4))
    with pytest.raises(UserError, match="WordsEncoder takes words and was given an array"):
        model(torch.randn(4, 7), None)
    with pytest.raises(UserError, match="GatedUnit takes an array and was given words"):
        model(None, words())


def test_a_field_of_the_other_kind_is_refused_when_the_model_is_built() -> None:
    with pytest.raises(UserError, match=r"'words' takes words, but the field holds an array of shape \(7,\)"):
        build_encoder(WordsSettings(), InputSpec((7,)), 6)
    for kind in (GatedSettings(), MlpSettings()):
        with pytest.raises(
            UserError, match=r"one vector per item, but the field holds words of a word table"
        ):
            build_encoder(kind, WORDS, 6)


def test_the_length_of_a_word_is_the_embeddings_unless_it_is_given() -> None:
    assert build_encoder(WordsSettings(), WORDS, 6).fc.weight.shape == (6, 7)
    assert build_encoder(WordsSettings(sentence_dim=3), WORDS, 6).unit.fc.weight.shape == (6, 3)


def test_parts_are_brought_to_unit_length_each_by_itself_and_zeros_stay() -> None:
    encoder = build_encoder(GatedSettings(unit_parts=(3, 4)), InputSpec((7,)), 6).double()
    plain = build_encoder(GatedSettings(), InputSpec((7,)), 6).double()
    plain.load_state_dict(encoder.state_dict())
    x = 5 * torch.randn(4, 7, dtype=torch.float64)
    x[1, :3] = 0
    x[2] = 0
    scaled = x.clone()
    for row in range(4):
        for part in (slice(0, 3), slice(3, 7)):
            scaled[row, part] = x[row, part] / max(float(x[row, part].norm()), 1e-12)
    torch.testing.assert_close(encoder(x), plain(scaled), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(encoder(x), plain(x))


def test_parts_that_do_not_add_up_are_named() -> None:
    with pytest.raises(UserError, match=r"unit_parts = \[3, 3\]: .* add up to the 7 values .* found 6"):
        build_encoder(GatedSettings(unit_parts=(3, 3)), InputSpec((7,)), 6)
