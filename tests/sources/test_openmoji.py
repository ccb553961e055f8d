"""OpenMoji: concepts and splits on synthetic items, features on made pictures, and the real set if at
hand."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from swamp_dist.config import OpenMojiSource
from swamp_dist.data.sample_checks import check_sample, field_specs
from swamp_dist.errors import UserError
from swamp_dist.sources import concepts, efficientnet, features, minilm, openmoji
from swamp_dist.sources.packages import MARKER, Package

ROOT = Path(__file__).parents[2]
SETTINGS = OpenMojiSource(download=ROOT / "data" / "downloads")
ICONS = Package("npm", "openmoji", SETTINGS.version, SETTINGS.sha256)


# -- concepts and splits ---------------------------------------------------------------------------

GROUPINGS = st.lists(st.integers(0, 40), min_size=30, max_size=120).map(
    lambda raw: np.unique(raw, return_inverse=True)[1]
)


@given(numbers=GROUPINGS, share=st.floats(0, 0.99), seed=st.integers(0, 5))
def test_no_concept_is_on_two_sides(numbers: np.ndarray, share: float, seed: int) -> None:
    test, validation = 2, 2
    if numbers.max() + 1 < test + validation + 2:
        return
    parts = concepts.split(numbers, test, validation, share, seed)
    sides = [set(numbers[parts[name]]) for name in ("pretrain", "finetune", "validation", "test")]
    assert sum(len(side) for side in sides) == len(set().union(*sides))
    assert len(parts["test"]) == len(sides[3]) == test
    assert len(parts["validation"]) == len(sides[2]) == validation
    assert sorted([*parts["pretrain"], *parts["finetune"]]) == list(parts["train"])
    # Whatever is not a twin of a held-out item is trained on.
    assert set(parts["train"]) == set(np.flatnonzero(~np.isin(numbers, [*sides[2], *sides[3]])))
    assert len(sides[0]) == round(share * (len(sides[0]) + len(sides[1])))


@given(numbers=GROUPINGS, validation=st.integers(1, 3), share=st.floats(0, 0.99))
def test_the_test_split_depends_on_its_size_and_the_seed_alone(
    numbers: np.ndarray, validation: int, share: float
) -> None:
    if numbers.max() + 1 < 8:
        return
    expected = concepts.split(numbers, 3, 2, 0.5, seed=7)["test"]
    np.testing.assert_array_equal(concepts.split(numbers, 3, validation, share, seed=7)["test"], expected)


def test_another_seed_draws_another_test_split() -> None:
    numbers = np.arange(100)
    first, second = (concepts.split(numbers, 20, 10, 0.5, seed)["test"] for seed in (0, 1))
    assert set(first) != set(second)


def test_two_concepts_that_merge_do_not_reshuffle_the_others() -> None:
    numbers = np.arange(200)
    merged = concepts.join(200, np.array([[3, 150]]))
    before, after = (concepts.split(n, 50, 20, 0.5, seed=0) for n in (numbers, merged))
    for name, items in before.items():
        assert len(set(items) ^ set(after[name])) <= 4, name


def test_too_few_concepts_are_refused_with_their_number() -> None:
    with pytest.raises(UserError, match=r"12 items form 4 concepts, too few for test_items = 3"):
        concepts.split(np.arange(12) % 4, 3, 1, 0.5, seed=0)


@given(pairs=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25))
def test_concepts_are_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    reach = np.eye(20, dtype=bool)
    for i, j in pairs:
        reach[i, j] = reach[j, i] = True
    for _ in range(5):  # squaring five times covers chains of 32 links
        reach = reach @ reach
    numbers = concepts.join(20, np.array(pairs, dtype=np.int64).reshape(-1, 2))
    np.testing.assert_array_equal(numbers[:, None] == numbers[None, :], reach)
    assert set(numbers) == set(range(numbers.max() + 1))


def test_similar_pairs_are_those_above_the_threshold() -> None:
    rows = np.array([[1.0, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0, 0]])
    assert concepts.similar_pairs(rows, 0.85, centre=False).tolist() == [[0, 1]]
    # As a correlation, brightness and contrast do not count, and a flat row is like nothing.
    pictures = np.array([[0.1, 0.2, 0.3, 0.2], [0.5, 0.7, 0.9, 0.7], [0.3, 0.2, 0.1, 0.2], [1, 1, 1, 1]])
    assert concepts.similar_pairs(pictures, 0.95, centre=True).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("caption", "left"),
    [
        ("woman surfing", "surfing"),
        ("Man surfing, men, sport", "surfing, , sport"),
        ("person: beard", ": beard"),
        ("human, manhole", "human, manhole"),
        ("girl", "girl"),
    ],
)
def test_gender_words_are_dropped_unless_nothing_would_stay(caption: str, left: str) -> None:
    assert openmoji.without_gender(caption) == left


# -- features --------------------------------------------------------------------------------------


def test_thumbnails_are_cell_means() -> None:
    pictures = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    pictures[0, 0, 0] = 255  # one of the four pixels of the first cell
    pictures[0, 62:, 62:, 1] = 255  # one of three colours of the whole last cell
    thumbnail = features.thumbnails(pictures)[0]
    np.testing.assert_allclose(thumbnail[[0, -1]], [1 / 4, 1 / 3], rtol=1e-6)
    assert np.count_nonzero(thumbnail) == 2


def test_letter_trigrams_do_not_depend_on_case_or_spacing_and_tell_words_apart() -> None:
    rows = features.letter_trigrams(["Red  heart", "red heart", "red hearts", "anchor", ""])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 1, 0], rtol=1e-6)
    alike = rows @ rows.T
    assert alike[0, 1] == pytest.approx(1)
    assert 0.8 < alike[1, 2] < 1
    assert alike[1, 3] < 0.2


def test_centring_uses_the_training_rows_alone() -> None:
    rows = np.random.default_rng(0).normal(3, 2, (40, 6)).astype(np.float32)
    changed = rows.copy()
    changed[30:] += 50
    training = np.arange(30)
    out = features.centre(rows, training)
    np.testing.assert_array_equal(out[:30], features.centre(changed, training)[:30])
    np.testing.assert_allclose(np.square(out).mean(axis=1), 1, rtol=1e-5)
    direction = rows[0] - rows[:30].mean(axis=0)
    np.testing.assert_allclose(
        out[0] / np.linalg.norm(out[0]), direction / np.linalg.norm(direction), rtol=1e-4
    )


def test_a_cached_array_is_computed_once_for_each_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.full((2, 3), len(calls), dtype=np.float32)

    first = features.load_or_compute(tmp_path, "rows", ["hash", 1], compute)
    np.testing.assert_array_equal(features.load_or_compute(tmp_path, "rows", ["hash", 1], compute), first)
    assert len(calls) == 1
    features.load_or_compute(tmp_path, "rows", ["another hash", 1], compute)
    features.load_or_compute(tmp_path, "other", ["hash", 1], compute)
    monkeypatch.setattr(features, "CODE_VERSION", features.CODE_VERSION + 1)
    features.load_or_compute(tmp_path, "rows", ["hash", 1], compute)
    assert len(calls) == 4
    assert len(list(tmp_path.iterdir())) == 4


def test_a_failed_computation_leaves_no_cache_behind(tmp_path: Path) -> None:
    def fail() -> np.ndarray:
        raise UserError("no")

    with pytest.raises(UserError):
        features.load_or_compute(tmp_path, "rows", [], fail)
    assert list(tmp_path.iterdir()) == []


def _norm(channels: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {
        "weight": 1 + 0.2 * torch.randn(channels, generator=generator),
        "bias": 0.1 * torch.randn(channels, generator=generator),
        "running_mean": 0.1 * torch.randn(channels, generator=generator),
        "running_var": 1 + torch.rand(channels, generator=generator),
    }


@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 3, 2), (9, 3, 2), (8, 5, 2), (7, 5, 1)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_folding_batch_norm_changes_nothing(size: int, kernel: int, stride: int, depthwise: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 1 if depthwise else 6, kernel, kernel, generator=generator)
    norm = _norm(6, generator)
    state = {"c.weight": weight} | {f"n.{name}": value for name, value in norm.items()}
    x = torch.randn(2, 6, size, size, generator=generator)
    found = efficientnet._fold(state, "c", "n", stride)(x)
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)  # TensorFlow's "same"
    padded = functional.pad(x, (total // 2, total - total // 2) * 2)
    plain = functional.conv2d(padded, weight, None, stride, groups=6 if depthwise else 1)
    values = (norm[name] for name in ("running_mean", "running_var", "weight", "bias"))
    expected = functional.batch_norm(plain, *values, eps=efficientnet.BATCH_NORM_EPSILON)
    assert found.shape[-1] == -(-size // stride)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# -- reading the package ---------------------------------------------------------------------------


def _entry(code: str, group: str, subgroup: str, **more: str) -> dict[str, str]:
    fields = {"annotation": f"icon {code}", "tags": "", "openmoji_tags": "", "skintone": ""}
    return {"hexcode": code, "group": group, "subgroups": subgroup} | fields | more


def test_flags_components_and_skin_tones_are_left_out_and_classes_follow_the_alphabet(tmp_path: Path) -> None:
    entries = [
        _entry("B", "objects", "tool", tags="saw, cut", openmoji_tags="cut, wood, icon B"),
        _entry("C", "flags", "flag"),
        _entry("D", "component", "hair-style"),
        _entry("E", "people", "person", skintone="1"),
        _entry("F", "animals", "bird"),
        _entry("A", "extras", "tool"),
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "openmoji.json").write_text(json.dumps(entries))
    icons = openmoji.read_icons(tmp_path)
    assert [(icon.hexcode, icon.subgroup) for icon in icons] == [("B", 2), ("F", 0), ("A", 1)]
    assert icons[0].caption == "icon B, saw, cut, wood"
    assert icons[1].caption == "icon F"
    assert icons[0].svg == tmp_path / "color" / "svg" / "B.svg"


def test_pictures_and_captions_can_be_kept_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="resvg-py is not installed")
    svg = tmp_path / "1F7E5.svg"
    square = '<rect width="36" height="72" fill="#ff0000"/>'
    svg.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">{square}</svg>')
    icon = openmoji.Icon("1F7E5", svg, "red", "half, left", 3)

    sample = openmoji._Fields(text=None, image=None).sample(icon, 0)

    assert sample.fields["text"] == "red, half, left"
    picture = sample.fields["image"]
    assert isinstance(picture, bytes)
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    assert pixels.shape == (160, 160, 3)
    assert (pixels[80, 20] == (255, 0, 0)).all()
    assert (pixels[80, 140] == 255).all()
    np.testing.assert_array_equal(features.rasterise([svg], 160)[0], pixels)
    check_sample(sample, "train", field_specs(sample, frozenset()))


# -- the real packages -----------------------------------------------------------------------------


def _present(*packages: Package) -> bool:
    return all((SETTINGS.download / package.folder / MARKER).exists() for package in packages)


needs_network_weights = pytest.mark.skipif(
    not _present(efficientnet.PACKAGE, ICONS),
    reason="data/downloads has no picture network: build shards/openmoji.yaml",
)
needs_sentence_weights = pytest.mark.skipif(
    not _present(minilm.PACKAGE), reason="data/downloads has no sentence network: build shards/openmoji.yaml"
)
needs_everything = pytest.mark.skipif(
    not (
        _present(efficientnet.PACKAGE, minilm.PACKAGE, ICONS)
        and len(list((SETTINGS.download / "features").glob("*-*.npy"))) >= 4
    ),
    reason="data/downloads has no OpenMoji features: build shards/openmoji.yaml",
)


@needs_network_weights
def test_the_picture_network_knows_what_the_icons_show() -> None:
    pytest.importorskip("resvg_py", reason="resvg-py is not installed")
    icons = {
        icon.annotation: icon for icon in openmoji.read_icons(SETTINGS.download / ICONS.folder / "package")
    }
    imagenet = {
        "trumpet": 513,
        "banana": 954,
        "umbrella": 879,
        "violin": 889,
        "hammer": 587,
        "accordion": 401,
    }
    pictures = features.rasterise([icons[name].svg for name in imagenet], openmoji.PICTURE_SIZE)
    state = efficientnet.load(SETTINGS.download / efficientnet.PACKAGE.folder)
    rows = efficientnet.features(state, pictures)
    assert rows.shape == (6, efficientnet.DIM)
    scores = efficientnet.classify(state, rows)
    ranks = (scores > scores[range(6), list(imagenet.values())][:, None]).sum(axis=1) + 1
    # Of 1,000 classes, on line drawings that the network was never trained on.
    assert (ranks <= 20).all()
    assert (ranks == 1).sum() >= 3


@needs_sentence_weights
def test_the_sentence_network_puts_like_meanings_together_whatever_the_batch() -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    tokenizer, weights = minilm.load(SETTINGS.download / minilm.PACKAGE.folder)
    texts = ["cat", "kitten", "car", "a long sentence about a man who surfs on a very high wave in the sea"]
    rows = minilm.features(tokenizer, weights, texts)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    alone = np.concatenate([minilm.features(tokenizer, weights, [text]) for text in texts])
    np.testing.assert_allclose(rows, alone, atol=1e-5)  # padding must not count
    assert rows[0] @ rows[1] == pytest.approx(0.788, abs=0.005)  # the published model's own figure
    assert rows[0] @ rows[2] < 0.5


@needs_everything
def test_the_real_set_has_the_counted_items_and_no_leak(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="swamp_dist"):
        parts = {name: list(items) for name, items in openmoji.samples(SETTINGS).items()}
    assert "2186 icons, 117 subgroups, 15" in caplog.text
    sizes = {name: len(items) for name, items in parts.items()}
    assert (sizes["test"], sizes["validation"]) == (500, 200)
    assert 1200 < sizes["train"] < 1350  # another machine's rounding may join or part a concept
    keys = {name: {item.key for item in items} for name, items in parts.items()}
    assert keys["train"] == keys["pretrain"] | keys["finetune"]
    assert not keys["train"] & keys["validation"]
    assert not keys["test"] & (keys["train"] | keys["validation"])
    training = {openmoji.without_gender(item.text["text"]) for item in parts["train"]}
    assert not training & {openmoji.without_gender(item.text["text"]) for item in parts["test"]}
    for item in parts["test"][:5]:
        assert {name: (x.shape, x.dtype) for name, x in item.fields.items()} == {
            "text": ((384,), np.float32),
            "image": ((1280,), np.float32),
        }
        assert 0 <= item.label < 117
