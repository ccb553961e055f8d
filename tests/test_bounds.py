"""Every number of every settings file has a bound on both sides, and nonsense is refused by them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
import pytest
from pydantic import ByteSize, Field
from pydantic.fields import FieldInfo

from swamp_dist.config import LocalCluster, StageSettings
from swamp_dist.config.backends import backend_names, cluster_class
from swamp_dist.errors import UserError
from swamp_dist.loading import kind_of, load
from swamp_dist.settings import Settings

REASONS = {
    ("EntryGroup", "without"): "compared with the texts of `values`, never counted with",
    ("PipelineSettings", "matrix"): "put into overrides, whose own bounds hold",
    ("SweepSettings", "vary"): "put into overrides, whose own bounds hold",
}
"""Why a number has no bounds of its own."""


def classes(base: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for each in base.__subclasses__():
        yield each
        yield from classes(each)


def unbounded(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[str]:
    """Numbers inside an annotation that lack a bound on a side."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from unbounded(inner, (*metadata, *more))
    elif annotation in (int, float, ByteSize):
        flat = [m for each in metadata for m in (each.metadata if isinstance(each, FieldInfo) else [each])]
        if not any(isinstance(m, annotated_types.Gt | annotated_types.Ge) for m in flat):
            yield "no lower bound"
        if not any(isinstance(m, annotated_types.Lt | annotated_types.Le) for m in flat):
            yield "no upper bound"
    elif get_origin(annotation) is not Literal:
        for inner in get_args(annotation):
            yield from unbounded(inner)


def fields() -> list[tuple[str, str, FieldInfo]]:
    for name in backend_names():
        cluster_class(name)
    own = [c for c in dict.fromkeys(classes()) if c.__module__.startswith("swamp_dist.")]
    return [(c.__name__, name, field) for c in own for name, field in c.model_fields.items()]


def test_every_number_has_bounds_or_a_reason() -> None:
    found = {(c, n): list(unbounded(f.annotation, tuple(f.metadata))) for c, n, f in fields()}
    assert len(found) > 150
    assert {key: said for key, said in found.items() if said and key not in REASONS} == {}
    assert all(found[key] for key in REASONS)


def test_the_search_for_unbounded_numbers_can_fail() -> None:
    assert list(unbounded(dict[str, tuple[int | None, ...]])) == ["no lower bound", "no upper bound"]
    assert list(unbounded(Annotated[float, Field(gt=0)] | None)) == ["no upper bound"]
    assert list(unbounded(Literal[0, 1])) == []


JOB = """
name: tiny
data: {shards: x}
train: {epochs: 1}
"""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.optimizer.lr=.inf", "a finite number"),
        ("train.optimizer.lr=.nan", "a finite number"),
        ("train.optimizer.lr=1e300", "at most 1000"),
        ("train.optimizer.betas=[0.9, 1.0]", "less than 1"),
        ("seed=" + "9" * 400, "at most 18446744073709551615"),
        ("model.embedding_dim=100000000000000000000", "at most 1048576"),
        ("data.workers=1000000", "at most 1024"),
        ("objective.swamp.eta=1e-300", "at least 1e-06"),
        ("objective.swamp.temperature=1e-300", "at least 1e-06"),
        ("objective.swamp.queue.size=1000000000000", "at most 1000000000"),
        ("objective.swamp.sinkhorn.score_memory=1e30", "score_memory"),
    ],
)
def test_nonsense_is_refused_where_it_stands(tmp_path: Path, override: str, said: str) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    with pytest.raises(UserError) as error:
        load(tmp_path / "job.yaml", StageSettings, [override])
    assert said in str(error.value)
    assert override.partition("=")[0] in str(error.value)
    assert len(str(error.value)) < 500


def test_the_bounds_leave_room(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    wide = [
        "train.optimizer.lr=1e-12",
        "seed=18446744073709551615",
        "objective.swamp.eta=1e4",
        "data.entries=100000",
    ]
    load(tmp_path / "job.yaml", StageSettings, wide)
    (tmp_path / "cluster.yaml").write_text("backend: local\nranks: 1000000\n")
    with pytest.raises(UserError, match="at most 100000"):
        load(tmp_path / "cluster.yaml", kind_of(tmp_path / "cluster.yaml"))
    assert LocalCluster(ranks=4096).world_size == 4096
