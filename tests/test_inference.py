"""A trained model in a program: the figures and embeddings of the stage that made it, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from swamp_dist import TrainedModel, UserError, embed, load_model
from swamp_dist.config import (
    DataSettings,
    EvaluateSettings,
    GatedSettings,
    ModelSettings,
    PythonSource,
    ShardSettings,
    StageSettings,
    WordsBuildSettings,
    WordsSettings,
)
from swamp_dist.data.inputs import input_specs
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.loading import load
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.prepare.build import build_shards
from swamp_dist.runs.folder import RunDir
from swamp_dist.train.weights import save_weights
from tests.data.shard_sets import build
from tests.end_to_end.command import flip, swamp, write_job


@pytest.fixture(scope="module")
def run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage that was trained by the command."""
    folder = tmp_path_factory.mktemp("run")
    done = swamp("run", write_job(folder, tiny_shards), "train.epochs=1", "--run-dir", folder / "run")
    assert done.code == 0, done.said
    return folder / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return load_model(run, device="cpu")


def stored(manifest: Manifest, split: str, field: str) -> np.ndarray:
    reader = open_reader(manifest, split, [field])
    return np.concatenate([entry.arrays[field].reshape(-1, 12) for entry in reader.read(range(60))])


def test_figures_are_those_of_the_stage(model: TrainedModel, run: Path) -> None:
    result = RunDir(run).read_result()
    assert result is not None
    assert model.evaluate("test") == result.evaluations[0]


def test_an_evaluation_takes_every_setting_of_a_job(model: TrainedModel) -> None:
    folds = model.evaluate("test", folds={"count": 2, "entries": 30})
    assert folds.metrics["pair/a_to_b"].folds == 2
    far = model.evaluate("test", distance="euclidean").metrics["pair/a_to_b"]
    assert (
        far.r_at_1 == model.evaluate("test").metrics["pair/a_to_b"].r_at_1
    )  # of unit vectors the same order
    shifted = model.evaluate("test", normalise={"method": "qb_norm", "bank": "train", "entries": 20})
    assert shifted.normalised == "qb_norm by train"
    assert shifted.metrics != model.evaluate("test").metrics
    with pytest.raises(UserError, match=r"(?s)evaluate: 1 problem.*fold.*did you mean folds"):
        model.evaluate("test", fold={"count": 2, "entries": 30})


def test_a_split_is_embedded_in_the_order_of_the_set(model: TrainedModel) -> None:
    found = embed(model, "test")
    assert found.keys == tuple(model.manifest.split("test").keys(range(60)))
    assert found.a.entry.tolist() == found.b.entry.tolist() == list(range(60))
    assert found.a.rows.shape == (60, 64)
    torch.testing.assert_close(found.b.rows.norm(dim=1), torch.ones(60))
    right = (found.a.rows @ found.b.rows.T).argmax(dim=1) == torch.arange(60)
    r_at_1 = model.evaluate("test").metrics["pair/a_to_b"].r_at_1
    assert 100 * right.float().mean().item() == pytest.approx(r_at_1)


@pytest.mark.parametrize("chunk", [7, 256])
def test_items_in_memory_get_the_embeddings_of_stored_ones(model: TrainedModel, chunk: int) -> None:
    items, expected = stored(model.manifest, "test", "b"), embed(model, "test").b.rows
    torch.testing.assert_close(model.embed("b", items, chunk), expected)
    torch.testing.assert_close(model.embed("b", torch.from_numpy(items).double(), chunk), expected)


def test_weights_elsewhere_and_shards_that_were_moved(model: TrainedModel, run: Path, tmp_path: Path) -> None:
    weights = shutil.copy(run / "weights.safetensors", tmp_path)
    with pytest.raises(UserError, match=r"no .*stage.yaml beside these weights(.|\n)*job=\.\.\."):
        load_model(weights)
    moved = shutil.copytree(model.manifest.folder, tmp_path / "moved")
    again = load_model(str(weights), job=run / "stage.yaml", shards=moved)
    assert again.manifest.folder == moved
    assert torch.equal(embed(again, "test").a.rows, embed(model, "test").a.rows)
    assert torch.equal(embed(model, "test", shards=moved).a.rows, embed(model, "test").a.rows)
    beside = load_model(run / "weights.safetensors")
    assert beside.settings == model.settings


def test_a_stage_that_only_evaluates_has_the_weights_it_names(
    model: TrainedModel, run: Path, tmp_path: Path
) -> None:
    settings = load(run / "stage.yaml", StageSettings)
    dim_of_weights = settings.model.model_copy(update={"embedding_dim": None})
    for number, named in enumerate((run, run / "weights.safetensors")):
        folder = RunDir(tmp_path / str(number))
        changes = {"train": None, "weights": named, "model": dim_of_weights}
        folder.write_stage(settings.model_copy(update=changes))
        evaluated = load_model(folder.path)
        assert evaluated.weights == run / "weights.safetensors"
        assert evaluated.settings.model.embedding_dim == 64


@pytest.mark.parametrize(
    ("field", "items", "words"),
    [
        ("video", np.zeros((1, 12)), "no field 'video'; it has a and b"),
        ("a", np.zeros((3, 5)), r"field 'a': expected shape \(n, 12\), found \(3, 5\)"),
        ("a", np.zeros(12), r"expected shape \(n, 12\), found \(12,\)"),
        ("a", np.zeros((0, 12)), "no items to embed"),
        ("a", ["a cat"], "field 'a' holds vectors: expected an array, found texts"),
    ],
)
def test_items_that_do_not_fit_are_refused(
    model: TrainedModel, field: str, items: object, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        model.embed(field, items)  # type: ignore[arg-type]


def test_a_set_or_weights_that_do_not_fit_are_refused(model: TrainedModel, run: Path, tmp_path: Path) -> None:
    build(tmp_path / "narrow")  # fields a and b of 3 values
    with pytest.raises(UserError, match=r"narrow: field 'a': the model takes .*12.*, found .*3"):
        embed(model, "train", shards=tmp_path / "narrow")
    with pytest.raises(UserError, match="no split 'tset'.*Did you mean 'test'"):
        embed(model, "tset")
    other = model.settings.model_copy(update={"model": ModelSettings(a=GatedSettings(), b=GatedSettings())})
    with pytest.raises(UserError, match="weights of other encoders than model.a = gated"):
        load_model(run, job=other)
    with pytest.raises(UserError, match="nothing.safetensors: .*found nothing there"):
        load_model(tmp_path / "nothing.safetensors", job=model.settings)


# -- words -----------------------------------------------------------------------------------------

CAPTIONS = {"k0": ("a red cat", "two cats"), "k1": ("the dog",), "k2": ("a green dog zzz", "red red", "cat")}
MODULE = f"""
import numpy as np
from swamp_dist import RawSplit, Sample
TEXTS = {list(CAPTIONS.values())}
def item_fields(): return ()
def open_splits():
    keys = {list(CAPTIONS)}
    read = lambda i: Sample(keys[i], dict(video=np.full(4, i, np.float32)), captions=TEXTS[i])
    return dict(test=RawSplit(keys, read, lambda: iter(TEXTS)))
"""


def test_captions_are_looked_up_as_a_build_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions_of_inference.py").write_text(MODULE)
    words = ["red", "cat", "cats", "dog", "green", "a", "the"]
    lines = [f"{word} {i} {-i} 1" for i, word in enumerate(words)]
    (tmp_path / "vectors.txt").write_text("\n".join([f"{len(words)} 3", *lines]) + "\n")
    recipe = ShardSettings(
        name="words",
        source=PythonSource(target="captions_of_inference"),
        words=WordsBuildSettings(vectors=tmp_path / "vectors.txt", max_words=4),
    )
    manifest = build_shards(recipe, tmp_path / "set")
    settings = StageSettings(
        name="words",
        data=DataSettings(shards=tmp_path / "set"),
        model=ModelSettings(embedding_dim=8, a=WordsSettings(), b=GatedSettings()),
        evaluate=(EvaluateSettings(split="test"),),
    )
    folder = RunDir(tmp_path / "run")
    folder.write_stage(settings)
    encoders = build_dual_encoder(settings.model, *input_specs(manifest, settings.data), None, True, 0)
    save_weights(folder.weights, encoders.state_dict(), {"word_vectors_sha256": "0" * 64})
    with pytest.raises(UserError, match="trained with other word vectors"):
        load_model(folder.path)
    assert manifest.record.words is not None
    source = manifest.record.words.source_sha256
    save_weights(folder.weights, encoders.state_dict(), {"word_vectors_sha256": source})

    model = load_model(folder.path)
    found = embed(model, "test")
    texts = [caption for key in found.keys for caption in CAPTIONS[key]]
    assert [found.keys[entry] for entry in found.a.entry] == [k for k in found.keys for _ in CAPTIONS[k]]
    torch.testing.assert_close(model.embed("text", texts), found.a.rows)
    for wrong in ("a cat", [1, 2]):
        with pytest.raises(UserError, match="field 'text' holds words: expected a list of captions"):
            model.embed("text", wrong)  # type: ignore[arg-type]


def test_a_flipped_bit_of_the_weights_is_refused(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    flip(copy / "weights.safetensors", (copy / "weights.safetensors").stat().st_size - 1)
    with pytest.raises(UserError, match="it has changed since it was written"):
        load_model(copy, device="cpu")
