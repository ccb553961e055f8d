from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swamp_dist.config import (
    GatedSettings,
    MlpSettings,
    PipelineSettings,
    Settings,
    ShardSettings,
    StageSettings,
)
from swamp_dist.errors import UserError
from swamp_dist.explaining import keys
from swamp_dist.loading import REQUIRED, describe, dump, kind_of, load

STAGE = """
name: tiny
data: {shards: data/tiny, entries: 64}
model:
  embedding_dim: 8
  a: {kind: mlp, hidden: [4]}
  b: {kind: mlp}
train:
  epochs: 2
  validate_on: {split: validation}
evaluate:
  - {split: test, precision_at: [1, 5]}
"""
SHARDS = """
name: tiny
source:
  kind: synthetic
  splits:
    train: {classes: [0, 16], total: 100}
"""
PIPELINE = """
name: two
matrix: {seed: [0, 1], scale: [0.5, wide]}
shards:
  - {recipe: shards/tiny.yaml, out: "data/tiny-{seed}"}
stages:
  pre: {job: jobs/pre.yaml, overrides: ["seed={seed}"]}
  post: {job: jobs/post.yaml, after: [pre]}
tables:
  - metrics: [pair/a_to_b/r_at_1]
    rows:
      - {label: published, published: {pair/a_to_b/r_at_1: 3.5}}
      - {label: ours, stage: post}
"""
KINDS: dict[type[Settings], str] = {StageSettings: STAGE, ShardSettings: SHARDS, PipelineSettings: PIPELINE}


def written(folder: Path, text: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(folder: Path, text: str, *overrides: str, kind: type[Settings] = StageSettings) -> str:
    with pytest.raises(UserError) as error:
        load(written(folder, text), kind, overrides)
    return str(error.value)


def test_values_follow_yaml_1_2(tmp_path: Path) -> None:
    text = STAGE.replace("epochs: 2", "epochs: 010\n  optimizer: {lr: 3e-5, eps: 1e-8}") + "weights: null\n"
    loaded = load(
        written(tmp_path, text), StageSettings, ["train.optimizer.lr=2e-4", "name=no", "seed=1_000"]
    )
    assert loaded.train is not None
    assert loaded.train.optimizer.lr == 2e-4
    assert loaded.train.optimizer.eps == 1e-8
    assert loaded.train.epochs == 10
    assert (loaded.name, loaded.seed) == ("no", 1000)
    assert loaded.model.a == MlpSettings(hidden=(4,))


def test_overrides_reach_lists_and_make_sections(tmp_path: Path) -> None:
    overrides = ["evaluate.0.split=other", "objective.swamp.queue.size=7", "model.b={kind: gated}"]
    loaded = load(written(tmp_path, STAGE), StageSettings, overrides)
    assert loaded.evaluate[0].split == "other"
    assert loaded.evaluate[0].precision_at == (1, 5)
    assert loaded.objective.swamp.queue.size == 7
    assert loaded.model.b == GatedSettings()


def test_base_merges_sections_over_several_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    written(tmp_path, STAGE, "base.yaml")
    written(tmp_path, "base: ../base.yaml\nname: middle\ntrain: {epochs: 9}\n", "deep/middle.yaml")
    path = written(tmp_path, "base: deep/middle.yaml\nobjective: {swamp: {weight: 0}}\n")
    loaded = load(path, StageSettings)
    assert loaded.name == "middle"
    assert loaded.train is not None
    assert loaded.train.epochs == 9
    assert loaded.train.validate_on is not None
    assert loaded.objective.swamp.weight == 0
    assert loaded.data.entries == 64


def test_base_circles_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "base: job.yaml\n", "other.yaml")
    assert "circle" in refusal(tmp_path, "base: other.yaml\n")


def test_problem_in_a_base_file_names_that_file_and_line(tmp_path: Path) -> None:
    written(tmp_path, STAGE.replace("epochs: 2", "epochs: -2"), "base.yaml")
    message = refusal(tmp_path, "base: base.yaml\n")
    line = STAGE.splitlines().index("  epochs: 2") + 1
    assert f"base.yaml:{line}" in message


EARLIER = "objective: {contrastive: {negatives: hardest}}\n"


def test_an_earlier_name_of_a_setting_is_read(tmp_path: Path) -> None:
    job = written(tmp_path, STAGE + EARLIER)
    assert load(job, StageSettings).objective.contrastive.form == "hardest"
    assert "negatives:" not in dump(load(job, StageSettings))
    again = load(written(tmp_path, STAGE), StageSettings, ["objective.contrastive.negatives=hardest"])
    assert again.objective.contrastive.form == "hardest"


@pytest.mark.parametrize("above", ["form", "negatives"])
def test_either_name_of_a_setting_replaces_the_other_below_it(tmp_path: Path, above: str) -> None:
    written(
        tmp_path,
        STAGE + f"objective: {{contrastive: {{{'form' if above == 'negatives' else 'negatives'}: all}}}}\n",
    )
    job = written(tmp_path, f"base: job.yaml\nobjective: {{contrastive: {{{above}: hardest}}}}\n", "top.yaml")
    assert load(job, StageSettings).objective.contrastive.form == "hardest"
    changed = load(job, StageSettings, [f"objective.contrastive.{above}=all"])
    assert changed.objective.contrastive.form == "all"


def test_both_names_of_a_setting_in_one_file_are_refused(tmp_path: Path) -> None:
    both = EARLIER.replace("negatives: hardest", "negatives: hardest, form: all")
    message = refusal(tmp_path, STAGE + both)
    assert "earlier name of objective.contrastive.form, which is given too" in message
    assert f"job.yaml:{len((STAGE + both).splitlines())}" in message


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = STAGE.replace("embedding_dim: 8", "embeding_dim: 8").replace("entries: 64", "entries: -3")
    message = refusal(tmp_path, text, "train.epochs=1.5", "objective.contrastive.form=hardst", "oops")
    for expected in (
        "5 problems",
        "model.embeding_dim",
        "did you mean model.embedding_dim?",
        "expected a number of at least 1, found -3",
        "expected a whole number, found 1.5",
        "did you mean hardest?",
        "expected key=value",
    ):
        assert expected in message


def test_key_of_another_section_is_pointed_to(tmp_path: Path) -> None:
    assert "did you mean train.optimizer.lr?" in refusal(tmp_path, STAGE, "lr=3e-5")
    assert "did you mean train.optimizer?" in refusal(tmp_path, STAGE, "optimizer.lr=3e-5")


def test_unions_are_readable(tmp_path: Path) -> None:
    message = refusal(tmp_path, STAGE, "model.a.kind=mpl", "model.b.hidden=[3, x]")
    assert "model.a.kind" in message
    assert "expected one of mlp, gated, words, " in message
    assert 'found "mpl"; did you mean mlp?' in message
    assert "model.b.hidden.1" in message
    assert "model.b.mlp" not in message


def test_plain_union_is_one_sentence(tmp_path: Path) -> None:
    message = refusal(tmp_path, PIPELINE, "matrix.seed=[{}]", kind=PipelineSettings)
    assert "matrix.seed.0" in message
    assert "a whole number or a number or a text" in message


def test_section_rules_are_reported_by_section(tmp_path: Path) -> None:
    message = refusal(
        tmp_path, STAGE, "data.lanes=7", "objective={contrastive: {weight: 0}, swamp: {weight: 0}}"
    )
    assert "lanes = 7 does not divide entries = 64" in message
    assert "are all 0: nothing would be trained" in message
    assert "Value error" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "given twice"),
        ("name: [a\n", "not valid YAML"),
        ("a: &x {b: 1}\nc: *x\n", "aliases"),
        ("- a\n", "key: value"),
        ("name: !!python/object:os.system x\n", "not valid YAML"),
        ("", "required, but not given"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "expected key=value"),
        ("=3", "expected key=value"),
        ("train..epochs=3", "expected key=value"),
        ("seed=", "write seed=null"),
        ("seed=[", "not a YAML value"),
        ("name.x=3", "is a value"),
        ("evaluate.4.split=x", "is a list of 1"),
        ("seed=true", "a whole number"),
    ],
)
def test_bad_overrides_are_refused(tmp_path: Path, override: str, said: str) -> None:
    message = refusal(tmp_path, STAGE, override)
    assert said in message
    assert "argument" in message


def test_missing_file_suggests_near_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs/finetune").mkdir(parents=True)
    written(tmp_path / "jobs/finetune", STAGE, "msrvtt.yaml")
    written(tmp_path / "jobs/finetune", STAGE, "coco.yaml")
    with pytest.raises(UserError, match="Did you mean:\n  jobs/finetune/msrvtt.yaml"):
        load(Path("jobs/finetune/msrvt.yaml"), StageSettings)


@pytest.mark.parametrize("kind", KINDS)
def test_dump_loads_back_to_an_equal_object(tmp_path: Path, kind: type[Settings]) -> None:
    first = load(written(tmp_path, KINDS[kind]), kind)
    assert load(written(tmp_path, dump(first), "again.yaml"), kind) == first
    assert kind_of(tmp_path / "again.yaml") is kind


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(st.characters(blacklist_categories=["Cc", "Cs"]), max_size=12),
    split=st.from_regex(r"[-+.0-9eE_:~ynoftrue]{1,8}", fullmatch=True),
    lr=st.floats(1e-12, 1e3),
)
def test_dump_keeps_any_text_and_number(
    tmp_path_factory: pytest.TempPathFactory, text: str, split: str, lr: float
) -> None:
    first = StageSettings.model_validate(
        {
            "name": "tiny",
            "data": {"shards": "x", "a": text, "train_split": split},
            "train": {"optimizer": {"lr": lr}},
        }
    )
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(dump(first), encoding="utf-8")
    assert load(path, StageSettings) == first


def test_describe_marks_what_differs(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, STAGE), StageSettings, ["model.b.kind=gated"])
    by_key = {s.key: s for s in describe(loaded)}
    assert by_key["data.entries"].value == 64
    assert by_key["data.entries"].default == 256
    assert not by_key["data.entries"].is_default
    assert by_key["data.shards"].default == REQUIRED
    assert by_key["model.a.kind"].default == "gated"
    assert not by_key["model.a.kind"].is_default
    assert by_key["model.b.kind"].is_default
    assert by_key["evaluate.0.chunk"].is_default
    assert by_key["train.optimizer.lr"].is_default
    assert by_key["data.entries"].description.startswith("Global batch in entries")
    assert all(s.description for s in describe(loaded))


def typos(word: str) -> list[str]:
    """A letter dropped, two swapped, one doubled."""
    middle = len(word) // 2
    made = [word[:middle] + word[middle + 1 :], word[:middle] + word[middle] + word[middle:]]
    if len(word) > 1:
        made.append(word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :])
    return [t for t in dict.fromkeys(made) if t and t != word]


def suggestions(folder: Path, kind: type[Settings]) -> list[tuple[str, str, str]]:
    """(key, typo, message about it) for every key of the example that a typo can be put into."""
    path = written(folder, KINDS[kind])
    given_keys = {s.key for s in describe(load(path, kind))}
    out = []
    for key in sorted({".".join(k).replace("NAME", "seed") for k in keys(kind)} & given_keys):
        section, _, word = key.rpartition(".")
        siblings = {k.rpartition(".")[2] for k in given_keys if k.rpartition(".")[0] == section}
        for typo in typos(word):
            if typo in siblings:
                continue
            wrong = f"{section}.{typo}" if section else typo
            with pytest.raises(UserError) as error:
                load(path, kind, [f"{wrong}=1"])
            out.append((key, typo, str(error.value)))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_typos_get_the_right_suggestion(tmp_path: Path, kind: type[Settings]) -> None:
    asked = suggestions(tmp_path, kind)
    wrong = [(k, t, m) for k, t, m in asked if not re.search(rf"did you mean {re.escape(k)}( or |\?)", m)]
    assert len(asked) > 15
    assert len(wrong) <= 0.05 * len(asked), wrong
