"""Entries that stand for many are the entries written out by hand, and mistakes in them are named."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from swamp_dist import cli
from swamp_dist.config import PipelineSettings, TableRow
from swamp_dist.errors import UserError
from swamp_dist.loading import dump, load
from swamp_dist.yaml_tree import to_yaml

EXAMPLE = """
name: example
matrix: {seed: [0, 1]}
values:
  set:
    cooking: {title: Cooking clips, batch: 128}
    films: {title: Films, batch: 64}
  method: {contrastive: {overrides: [objective.swamp.weight=0]}, swamp: {overrides: []}}
  start:
    scratch: {suffix: "", after: [], overrides: []}
    pretrained:
      suffix: -pt
      after: ["pretrain-{method}"]
      overrides: ["train.init_from={runs.pretrain-{method}}"]
shards:
  - {for_each: [set], recipe: "{set}.yaml", out: "data/{set}"}
stages:
  pretrain-{method}:
    for_each: [method]
    job: pretrain.yaml
  finetune-{set}-{method}{start.suffix}:
    for_each: [set, method, start]
    without: [{set: films, method: swamp, start: [pretrained]}]
    job: finetune/{set}.yaml
    after: ["{start.after}"]
    overrides: ["seed={seed}", "train.batch={set.batch}", "{method.overrides}", "{start.overrides}"]
tables:
  - for_each: [set]
    title: "{set.title}"
    metrics: [pair/a_to_b/r_at_1, pair/a_to_b/median_rank]
    rows:
      - {label: paper, figures: [4.6, 75]}
      - {for_each: [method], label: "{method}", stage: "finetune-{set}-{method}"}
"""


def read(folder: Path, text: str, *overrides: str) -> PipelineSettings:
    (folder / "pipeline.yaml").write_text(text)
    return load(folder / "pipeline.yaml", PipelineSettings, overrides)


def test_an_entry_stands_for_every_combination(tmp_path: Path) -> None:
    settings = read(tmp_path, EXAMPLE)
    assert list(settings.stages) == [
        "pretrain-contrastive", "pretrain-swamp",
        "finetune-cooking-contrastive", "finetune-cooking-contrastive-pt",
        "finetune-cooking-swamp", "finetune-cooking-swamp-pt",
        "finetune-films-contrastive", "finetune-films-contrastive-pt", "finetune-films-swamp",
    ]  # fmt: skip
    stage = settings.stages["finetune-cooking-contrastive-pt"]
    assert stage.job == tmp_path / "finetune/cooking.yaml"
    assert stage.after == ("pretrain-contrastive",)
    assert stage.overrides == (
        "seed={seed}",
        "train.batch=128",
        "objective.swamp.weight=0",
        "train.init_from={runs.pretrain-contrastive}",
    )
    assert settings.stages["finetune-films-swamp"].after == ()
    assert [str(s.out) for s in settings.shards] == ["data/cooking", "data/films"]
    assert [t.title for t in settings.tables] == ["Cooking clips", "Films"]
    paper, _, swamp = settings.tables[1].rows
    assert paper.published == {"pair/a_to_b/r_at_1": 4.6, "pair/a_to_b/median_rank": 75}
    assert swamp == TableRow(label="swamp", stage="finetune-films-swamp")
    assert read(tmp_path, dump(settings)) == settings


def test_overrides_reach_values_before_and_stages_after_they_are_written_out(tmp_path: Path) -> None:
    changed = read(
        tmp_path,
        EXAMPLE,
        "values.set.films.batch=32",
        "stages.finetune-cooking-swamp.overrides=[seed=9]",
        "tables=[]",
    )
    assert "train.batch=32" in changed.stages["finetune-films-swamp"].overrides
    assert changed.stages["finetune-cooking-swamp"].overrides == ("seed=9",)
    assert changed.tables == ()


names = st.text("abcdefgh", min_size=1, max_size=4)
values = st.lists(names, min_size=1, max_size=3, unique=True)


@hypothesis_settings(max_examples=40)
@given(st.dictionaries(names.map("v{}".format), values, min_size=1, max_size=3), st.data())
def test_a_group_equals_all_combinations_written_by_hand(
    tmp_path_factory: pytest.TempPathFactory, given_values: dict[str, list[str]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(sorted(given_values)))
    combinations = list(itertools.product(*(given_values[name] for name in order)))
    left_out = data.draw(st.sets(st.sampled_from(combinations), max_size=len(combinations) - 1))
    kept = [c for c in combinations if c not in left_out]
    # A value that no entry has left would be refused: such values are not given at all.
    given_values = {
        n: [v for v in given_values[n] if any(c[i] == v for c in kept)] for i, n in enumerate(order)
    }
    left_out = {c for c in left_out if all(v in given_values[n] for n, v in zip(order, c, strict=True))}
    fields = {
        name: {
            value: {"list": [f"{value}.a=1", f"{value}.b={{seed}}"], "word": value.upper()}
            for value in members
        }
        for name, members in given_values.items()
    }
    group = {
        "for_each": order,
        "without": [dict(zip(order, c, strict=True)) for c in sorted(left_out)],
        "job": "/".join(f"{{{name}.word}}" for name in order),
        "overrides": ["first=1", *(f"{{{name}.list}}" for name in order), *(f"x={{{n}}}" for n in order)],
    }
    whole = {"name": "p", "matrix": {"seed": [0]}}
    stage = "s" + "".join(f"-{{{name}}}" for name in order)
    by_group = whole | {"values": fields, "stages": {stage: group}}
    by_hand = whole | {
        "stages": {
            "s-" + "-".join(c): {
                "job": "/".join(v.upper() for v in c),
                "overrides": ["first=1"]
                + [text for v in c for text in (f"{v}.a=1", f"{v}.b={{seed}}")]
                + [f"x={v}" for v in c],
            }
            for c in kept
        }
    }
    folder = tmp_path_factory.mktemp("group")
    assert dump(read(folder, to_yaml(by_group))) == dump(read(folder, to_yaml(by_hand)))


MISTAKES = [  # (text of EXAMPLE, what stands there instead, part of the message)
    (
        "for_each: [set, method, start]",
        "for_each: [set, metod, start]",
        "'metod' is not in `values`; did you mean method?",
    ),
    (
        "train.batch={set.batch}",
        "train.batch={set.bach}",
        "{set.bach}: cooking has no field 'bach'; did you mean batch? (here set = cooking, method = ",
    ),
    (
        "train.batch={set.batch}",
        "train.batch={sett.batch}",
        "{sett.batch} is neither in `values` nor in `matrix`",
    ),
    ("seed={seed}", "seed={sede}", "{sede} is neither in `values` nor in `matrix`; did you mean seed?"),
    (
        "  pretrain-{method}:\n    for_each: [method]",
        "  pretrain-{method}:",
        "write `for_each: [method]` beside it",
    ),
    ("pretrain-{method}:", "pretrain:", "two entries would be called 'pretrain'"),
    (
        "  finetune-{set}-{method}{start.suffix}:",
        "  pretrain-swamp: {job: a}\n  finetune-{set}-{method}{start.suffix}:",
        "'pretrain-swamp' is also written by 'pretrain-{method}'",
    ),
    (
        "start: [pretrained]",
        "start: [pretraind]",
        "'pretraind' is not a value of start; did you mean pretrained?",
    ),
    ("start: [pretrained]", "begin: [pretrained]", "'begin' does not vary here"),
    (
        "[{set: films, method: swamp, start: [pretrained]}]",
        "[{set: films}]",
        "table rows name ['finetune-films-contrastive', 'finetune-films-swamp'], which are not stages",
    ),
    (
        "without: [",
        "without: [{set: films, method: swamp}, {set: cooking, method: swamp}, {method: contrastive}, ",
        "`without` leaves no combination",
    ),
    ("batch: 128}", "batch: 128, unused: 1}", "nothing uses {set.unused}"),
    ("values:\n", "values:\n  other: [a, b]\n", "no entry is written for this value"),
    ("values:\n", "values:\n  seed: [a, b]\n", "is none of ['runs', 'seed']"),
    ("values:\n", "values:\n  twice: [a, a]\n", "a list of values, each once"),
    ("batch: 64", "batch: '{set.batch}'", "set.batch -> set.batch goes in a circle"),
    ("for_each: [method], label", "for_each: [set], label", "'set' has one value here already"),
    ("title: Films", "title: [Films]", "expected a text"),
    ("train.batch={set.batch}", "train.batch={start.after}", "which cannot stand inside a text"),
    ("for_each: [method]\n", "for_each: method\n", 'expected a list, found "method"'),
    (
        "figures: [4.6, 75]",
        "figures: [4.6]",
        "one for each of the 2 metrics; found 0 and 1",
    ),
]


@pytest.mark.parametrize(("text", "instead", "message"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_mistakes_name_the_entry_the_value_and_what_is_missing(
    tmp_path: Path, text: str, instead: str, message: str
) -> None:
    assert text in EXAMPLE
    with pytest.raises(UserError) as error:
        read(tmp_path, EXAMPLE.replace(text, instead))
    assert message in str(error.value)


def test_a_mistake_is_told_with_its_entry_and_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, EXAMPLE.replace("{set.batch}", "{set.bach}"))
    line = 1 + next(i for i, text in enumerate(EXAMPLE.splitlines()) if "set.batch" in text)
    assert (
        f"stages.finetune-{{set}}-{{method}}{{start.suffix}}.overrides.1  ({tmp_path}/pipeline.yaml:{line})"
        in str(error.value)
    )


def test_settings_of_a_written_out_stage_keep_their_line(tmp_path: Path) -> None:
    text = EXAMPLE.replace("    job: finetune/", "    jobs: finetune/")
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    line = 1 + next(i for i, line in enumerate(text.splitlines()) if "    jobs:" in line)
    assert f"stages.finetune-cooking-contrastive.jobs  ({tmp_path}/pipeline.yaml:{line})" in str(error.value)


def test_an_exclusion_that_leaves_nothing_out_is_refused(tmp_path: Path) -> None:
    """The table exists for cooking alone, so its row has no combination with films."""
    text = EXAMPLE.replace("    metrics:", "    without: [{set: films}]\n    metrics:")
    text = text.replace("{for_each: [method], label", "{for_each: [method], without: [{set: films}], label")
    with pytest.raises(UserError, match=r"tables.0.rows.1.without.0 .*\n +there is no such combination"):
        read(tmp_path, text)


def test_the_documented_example_gives_what_is_said_of_it(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "jobs" / "README.md").read_text()
    settings = read(tmp_path, readme.partition("```yaml\n")[2].partition("```")[0])
    assert list(settings.stages) == [
        f"finetune-{name}-{method}" for name in ("youcook2", "lsmdc") for method in ("contrastive", "swamp")
    ]
    assert len(settings.tables) == 2


def test_show_prints_every_stage_that_a_group_stands_for(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(EXAMPLE)
    shown = CliRunner().invoke(cli.app, ["show", str(tmp_path / "pipeline.yaml")])
    assert shown.exit_code == 0
    for stage in load(tmp_path / "pipeline.yaml", PipelineSettings).stages:
        assert f"stages.{stage}.job" in shown.output
