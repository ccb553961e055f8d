"""What a program imports from `swamp_dist`: every name is there, none costs anything before its use."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import swamp_dist
from swamp_dist import Sample, ShardWriter, embed, load_model
from tests.end_to_end.command import swamp

ROOT = Path(__file__).parents[1]


def test_every_name_is_there_and_documented() -> None:
    assert swamp_dist.__all__ == sorted(swamp_dist._MODULES)
    assert set(swamp_dist.__all__) <= set(dir(swamp_dist))
    for name in swamp_dist.__all__:
        assert getattr(swamp_dist, name).__doc__, name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'swamp_dist' has no attribute 'ShardWritter'"):
        swamp_dist.ShardWritter  # noqa: B018


def test_functions_stay_functions_where_a_folder_has_their_name() -> None:
    program = (
        "import swamp_dist.train.schedule, swamp_dist.evaluate.chance\n"
        "from swamp_dist import evaluate, train\nfrom swamp_dist.train import schedule\n"
        "print(swamp_dist.train is train, train.__module__, evaluate.__module__, schedule.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    here = "swamp_dist.local_stage"
    assert done.stdout.split() == ["True", here, here, "swamp_dist.train.schedule"]


def test_the_version_is_that_of_the_installed_package() -> None:
    assert swamp_dist.__version__ == metadata.version("swamp-dist")
    assert swamp("--version").said.split() == ["swamp_dist", swamp_dist.__version__]


SIGNATURES = {
    "RawSplit": "keys, read, captions, caption_field, class_names",
    "Sample": "key, fields, label, text, captions",
    "ShardDataset": ("shards, split, fields, *, batch, seed, items, rank, world_size, **reading"),
    "SwampLoss": "embedding_dim, objective, *, seed, pairs_per_entry, reduce_gradients, **terms",
    "SwampLoss.forward": "self, a, b, items, labels, entries",
    "SwampLoss.from_job": "job, overrides, *, embedding_dim, reduce_gradients",
    "TrainedModel.embed": "self, field, items, chunk",
    "TrainedModel.evaluate": "self, split, shards, relevance, chunk, **settings",
    "embed": "model, split, shards, chunk",
    "evaluate": "source, split, *, relevance, run_dir, ranks, **overrides",
    "load_model": "source, *, job, shards, device",
    "train": "job, *, run_dir, ranks, **overrides",
}
"""What programs call; a change here breaks them."""


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_stable(name: str) -> None:
    found: object = swamp_dist
    for part in name.split("."):
        found = getattr(found, part)
    stars = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
    listed, keywords = [], False
    for each in inspect.signature(found).parameters.values():  # type: ignore[arg-type]
        if each.kind == inspect.Parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            listed.append("*")
        listed.append(stars.get(each.kind, "") + each.name)
    assert ", ".join(listed) == SIGNATURES[name]


def test_every_public_method_is_documented() -> None:
    classes = [each for name in swamp_dist.__all__ if isinstance(each := getattr(swamp_dist, name), type)]
    for each in classes:
        for method, value in vars(each).items():
            if not method.startswith("_") and callable(getattr(value, "__func__", value)):
                assert value.__doc__, f"{each.__name__}.{method}"


def test_nothing_is_imported_before_it_is_used() -> None:
    program = (
        "import sys, swamp_dist; print([m for m in ('numpy', 'torch', 'pydantic') if m in sys.modules]);"
        "swamp_dist.Sample, swamp_dist.BadEntry; print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "False"]


JOB = """\
name: mine
data: {{shards: {shards}, a: text, b: video, entries: 20, workers: 0}}
model: {{embedding_dim: 16, a: {{kind: mlp}}, b: {{kind: mlp}}}}
objective: {{swamp: {{prototypes: 4, queue: {{size: 20}}}}}}
train: {{epochs: 40, optimizer: {{lr: 3.0e-3}}}}
evaluate: [{{split: test}}]
"""


def test_from_samples_of_a_program_to_a_search(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    maps = [random.normal(size=(4, width)).astype(np.float32) for width in (6, 9)]
    hidden = random.normal(size=(60, 4)).astype(np.float32)
    texts, videos = (hidden @ of_field for of_field in maps)

    with ShardWriter(tmp_path / "set") as out:
        for i in range(60):
            split = "train" if i < 40 else "test"
            out.write(Sample(f"clip{i}", {"text": texts[i], "video": videos[i]}), split)
    (tmp_path / "job.yaml").write_text(JOB.format(shards=tmp_path / "set"))
    done = swamp("run", tmp_path / "job.yaml", "--run-dir", tmp_path / "run")
    assert done.code == 0, done.said

    model = load_model(tmp_path / "run", device="cpu")
    gallery = embed(model, "test")
    query = model.embed("text", texts[40:])
    best = (query @ gallery.b.rows.T).argmax(dim=1)
    found = [gallery.keys[gallery.b.entry[i]] for i in best]
    right = sum(key == f"clip{i}" for i, key in enumerate(found, start=40))
    assert 100 * right / 20 == pytest.approx(model.evaluate("test").metrics["pair/a_to_b"].r_at_1)
    assert right > 5  # one of 20 by chance
