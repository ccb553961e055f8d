"""No settings file and no override ends in a trace, a hang or the memory of the machine."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swamp_dist.config import PipelineSettings, StageSettings, SweepSettings
from swamp_dist.errors import UserError
from swamp_dist.loading import describe, kind_of, load
from swamp_dist.pipelines.matrix import cells
from swamp_dist.pipelines.plan import plan_pipeline
from swamp_dist.pipelines.sweep import sweep_pipeline

ROOT = Path(__file__).parents[1]
FILES = [
    "jobs/pretrain/synthetic.yaml",
    "jobs/finetune/msrvtt.yaml",
    "jobs/clusters/slurm.yaml",
    "jobs/clusters/ray.yaml",
    "jobs/pipelines/smoke.yaml",
    "jobs/sweeps/table13.yaml",
    "shards/synthetic.yaml",
    "shards/youcook2.yaml",
]
JOB = "name: tiny\ndata: {shards: x}\nevaluate: [{split: test}]\n"
SECONDS = 10.0


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail what takes longer, from inside whatever hangs."""

    def stop(_number: int, _frame: object) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refused(path: Path, *overrides: str) -> str:
    """The message of a refusal: short, and everything but a trace."""
    with within(SECONDS), pytest.raises(UserError) as error:
        load(path, kind_of(path), overrides)
    message = str(error.value)
    assert len(message) < 20_000
    assert len(message.splitlines()) < 80
    return message


WRITTEN = [
    ("name: !!timestamp 2020-01-01", "tags (!!timestamp) are not supported"),
    ("name: !!binary aGk=", "tags (!!binary)"),
    ("name: !!set {a, b}", "tags (!!set)"),
    ("name: !!bool x", "tags (!!bool)"),
    ("name: !!float ''", "tags (!!float)"),
    ("name: !!omap [a: 1]", "tags (!!omap)"),
    ("? !!timestamp 2020-01-01\n: x", "tags (!!timestamp)"),
    ("!!merge x: {a: 1}", "tags (!!merge)"),
    ("2020-01-01: x", "2020-01-01"),
    ("1: a\n1.0: b", "two keys that are equal"),
    ("true: a\n1: b", "two keys that are equal"),
    ("? [a]\n: b", "not valid YAML"),
    ("a: &x [*x]", "aliases"),
    ("a: " + "[" * 2000, "inside each other"),
    ("a: " + "{b: " * 2000, "inside each other"),
    ("".join(f"{' ' * i}a:\n" for i in range(1000)), "inside each other"),
    ("- " * 2000, "inside each other"),
    ("a: [" + "1," * 60_000 + "]", "more than 20,000 values"),
    ("a" * (2**20 + 1), "at most 1,048,576 bytes"),
    ("base: \"a\\0b\"", "U+0000"),
    ("name: \"\\e[31m\"", "U+001B"),
    ("name: \"\\uD800\"", "U+D800"),
    ("\"a\\x07\": 1", "in the key: expected text without control characters, found the character U+0007"),
    ("base: [a]", "base must be the name of one YAML file"),
    ("seed: " + "9" * 5000, "not valid YAML"),
    ("? " + "x" * 100_000 + "\n: 1", "unknown key"),
    ("\n".join(f"key{i}: 1" for i in range(1_000)), "more problems"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRITTEN, ids=[said for _, said in WRITTEN])
def test_what_is_no_settings_file_is_refused_in_time(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    assert said in refused(file) + "\n"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe\n")
    names = {"pipe.yaml": "a pipe", "zero.yaml": "a device", "loop.yaml": "oop", "bytes.yaml": "decode"}
    names["."] = "a folder"
    for name, said in names.items():
        assert said in refused(tmp_path / name)
        if name != ".":
            (tmp_path / "job.yaml").write_text(f"base: {name}\n")
            assert said in refused(tmp_path / "job.yaml")


def test_a_chain_of_base_files_has_an_end(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.yaml").write_text(f"base: {number + 1}.yaml\n")
    assert "more than 30 files are each the base" in refused(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("a." * 50_000 + "a=1", "at most 10,000 letters"),
        ("a." * 1_000 + "a=1", "no key has more than 40 parts"),
        ("x" * 9_000 + "=1", "unknown key"),
        ("seed=" + "[" * 2_000, "not a YAML value"),
        ("seed=!!timestamp 2020-01-01", "not a YAML value"),
        ("name=a\x1bb", "not a YAML value"),
        ('name="\\e"', "U+001B"),
        ("na\0me=x", "U+0000"),
        ("name=\ud800", "not a YAML value"),
        ("evaluate.²=x", "is a list of 1"),
        ("evaluate." + "9" * 5_000 + "=x", "is a list of 1"),
        ("name.{x}=1", "is a value"),
    ],
    ids=lambda text: text[:20].encode("ascii", "backslashreplace").decode(),
)
def test_overrides_are_held_to_the_same(tmp_path: Path, override: str, said: str) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    assert said in refused(tmp_path / "job.yaml", override)


LAUGHS = "".join(f"f{i}: '{{x.f{i + 1}}}{{x.f{i + 1}}}', " for i in range(40)) + "f40: lol"
LISTS = "".join(f"f{i}: ['{{x.f{i + 1}}}', '{{x.f{i + 1}}}'], " for i in range(40)) + "f40: [lol]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"values: {{x: {{a: {{{LAUGHS}}}}}}}\nstages: {{'s-{{x}}': {{for_each: [x], job: '{{x.f0}}'}}}}",
         "over 10,000"),
        (f"values: {{x: {{a: {{{LISTS}}}}}}}\n"
         "stages: {'s-{x}': {for_each: [x], job: j, after: ['{x.f0}']}}",
         "more than 100,000 values"),
        ("values:\n" + "".join(f"  n{n}: {list(range(100))}\n" for n in range(6))
         + "stages: {'{n0}{n1}{n2}{n3}{n4}{n5}': {for_each: [n0, n1, n2, n3, n4, n5], job: j}}",
         "stands for 1,000,000,000,000 entries"),
    ],
    ids=["texts", "lists", "combinations"],
)  # fmt: skip
def test_groups_cannot_multiply_without_end(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pipeline.yaml").write_text("name: p\n" + text)
    assert said in refused(tmp_path / "pipeline.yaml")


def test_a_graph_is_walked_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    ladder = {"a0": {"job": "job.yaml"}, "b0": {"job": "job.yaml"}}
    for i in range(1, 40):
        after = [f"a{i - 1}", f"b{i - 1}"]
        ladder |= {f"{side}{i}": {"job": "job.yaml", "after": after} for side in "ab"}  # type: ignore[dict-item]
    with within(SECONDS), pytest.raises(UserError, match="no shards in x"):
        plan_pipeline(PipelineSettings.model_validate({"name": "p", "stages": ladder}), tmp_path / "runs")
    with within(SECONDS), pytest.raises(UserError, match="make 10,000,000,000 cells"):
        cells({f"n{i}": range(10) for i in range(10)})


NASTY = [
    "null", "true", "-1", "0", "1e300", ".inf", "-.inf", ".nan", "9" * 400, "9" * 5000, "1e-300", "''", "' '",
    "\"\\0\"", "\"\\e[2J\"", "\"\\uD800\"", "[]", "{}", "[[[[[[]]]]]]", "{a: {b: {c: 1}}}", "!!set {a}",
    "!!timestamp 2020-01-01", "!!binary aGk=", "!!bool x", "!!float ''", "!!python/object:os.system x",
    "&a x", "*a", "2020-01-01", "{seed}", "{x.y}", "{runs.a}", "../../x", "/dev/zero", "a" * 300, "- - -",
    "? a", "|", ">", "%", "@", "`", "\t", "[" * 3000,
    "<<", "1_000", "0x10", "1:2", "~", "yes", "{}{}", "{0}", "{", "}", "base: job.yaml", "for_each: [seed]",
]  # fmt: skip


def mutations(text: str, count: int, seed: int) -> Iterator[str]:
    """Texts that differ from a good file in one to three places."""
    draw = random.Random(seed)
    for _ in range(count):
        lines = text.splitlines()
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(lines))
            key, colon, value = lines[at].partition(":")
            match draw.randrange(8):
                case 0:
                    lines[at] = f"{key}: {draw.choice(NASTY)}"
                case 1:
                    blanks = " " * draw.choice([0, 2, 4])
                    lines.insert(at, f"{blanks}{draw.choice(NASTY)}: {draw.choice(NASTY)}")
                case 2:
                    lines.insert(at, lines[draw.randrange(len(lines))])
                case 3:
                    lines[at] = lines[at][1:] if draw.random() < 0.5 else " " + lines[at]
                case 4:
                    place = draw.randrange(len(lines[at]) + 1)
                    lines[at] = lines[at][:place] + draw.choice(NASTY) + lines[at][place:]
                case 5 if len(lines) > 1:
                    del lines[at]
                case 6:
                    words = value.replace(",", " , ").split(" ")
                    words[draw.randrange(len(words))] = draw.choice(NASTY)
                    lines[at] = key + colon + " ".join(words)
                case _:
                    letters = list(lines[at] or " ")
                    letters[draw.randrange(len(letters))] = draw.choice('\0\t\x1b":[{\x7f\u2028😀')
                    lines[at] = "".join(letters)
        yield "\n".join(lines) + "\n"


def survive(path: Path) -> bool:
    """Load a file as `swamp show` and a graph's verbs do; whether it was taken."""
    try:
        settings = load(path, kind_of(path))
        describe(settings)
        if isinstance(settings, SweepSettings):
            settings = sweep_pipeline(settings)
        if isinstance(settings, PipelineSettings):
            plan_pipeline(settings, path.parent / "runs")
    except UserError as error:
        return not 0 < len(str(error)) < 100_000
    return True


def mutate_all(folder: Path, each: int, seed: int) -> tuple[int, int]:
    """Mutations made and taken, over every kind of file; an exception of ours or a hang fails."""
    made = taken = 0
    for file in FILES:
        for text in mutations((ROOT / file).read_text(), each, seed):
            path = folder / "mutated.yaml"
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            made += 1
            try:
                with within(SECONDS):
                    taken += survive(path)
            except Exception as error:
                raise AssertionError(f"{file} with {text!r}") from error
    return made, taken


def test_a_few_mutations_of_every_kind_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    made, taken = mutate_all(tmp_path, 4, seed=int.from_bytes(os.urandom(4), "big"))
    assert made == 4 * len(FILES)
    assert taken < made


@pytest.mark.slow
def test_2500_mutations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    made, taken = mutate_all(tmp_path, 320, seed=7)
    assert made >= 2500
    assert 100 < taken < made - 1000


def test_a_good_file_survives(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    assert load(tmp_path / "job.yaml", StageSettings).name == "tiny"
    assert survive(tmp_path / "job.yaml")
