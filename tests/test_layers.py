"""Imports point one way, libraries stay behind their walls, and a few things are written nowhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "swamp_dist"
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = [
    {
        "settings",
        "records",
        "errors",
        "stop_requests",
        "atomic_files",
        "file_names",
        "earlier_names",
        "npy_files",
        "printable",
        "long_work",
        "console",
        "bounds",
        "compiled",
        "plain_files",
        "origins",
        "safetensors_header",
        "pickles",
        "pages",
    },  # fmt: skip
    {"encoders"},
    {"config"},
    {"explaining"},
    {"yaml_tree"},
    {"group_values"},
    {"entry_groups"},
    {"input_paths"},
    {"loading", "environment", "starter"},
    {"rendezvous"},
    {"distributed"},
    {"row_exchange", "product_library"},
    {"sources", "data", "model", "objective"},
    {"evaluate", "loss"},
    {"train", "runs"},
    {"progress"},
    {"stage", "inference"},
    {"backends"},
    {"costs"},
    {"local_stage"},
    {"monitor", "prepare", "doctor", "prototypes"},
    {"pipelines"},
    {"report"},
    {"cli"},
    {"__main__"},
]
WALLS = {
    "deepspeed": {"train/deepspeed_library.py"},
    "webdataset": {"data/"},
    "xxhash": {"data/", "encoders/hashed_words.py"},
    "numba": {"compiled.py"},
    "triton": {"objective/solve/masses_triton.py"},
    "submitit": {"backends/slurm/"},
    "ray": {"backends/ray/"},
    "tensorboard": {"train/loggers/tensorboard.py", "prototypes/tensorboard.py"},
    "torch.utils.tensorboard": {"train/loggers/tensorboard.py", "prototypes/tensorboard.py"},
    "wandb": {"train/loggers/wandb.py"},
    "trackio": {"train/loggers/wandb.py"},
    "mlflow": {"train/loggers/mlflow.py"},
    "typer": {"cli/"},
    "yaml": {"yaml_tree.py"},
    "matplotlib": {"pipelines/plots.py", "prototypes/sheet.py"},
    "filelock": {"prepare/", "data/writer.py"},
    "safetensors": {"train/", "sources/", "safetensors_header.py", "encoders/networks/"},
    "timm": {"encoders/libraries.py"},
    "transformers": {"encoders/libraries.py"},
    "torchvision": {"encoders/", "data/transforms.py"},
    "PIL": {"sources/", "data/", "prototypes/"},
    "pyarrow": {"sources/columns/parquet.py"},
}
SPELLED_ONCE = {
    "file_names.py": {
        "weights.safetensors",
        "metrics.jsonl",
        "result.json",
        "manifest.json",
        "vocabulary.json",
        "MANIFEST.json",
        "stage.yaml",
    },
    "runs/folder.py": {
        "cluster.yaml",
        "provenance.json",
        "source.patch",
        "events.jsonl",
        "graph.json",
    },
}
SLURM_COMMANDS = re.compile("squeue|scontrol|sbatch|scancel|sacct")
SLURM_VARIABLES = re.compile(r"SLURM_[A-Z_]+")
SLURM_STATES = re.compile(
    "PENDING|RUNNING|COMPLETING|COMPLETED|RESIZING|SUSPENDED|CANCELLED|NODE_FAIL|TIMEOUT"
)
TEXT_WALLS = (
    (SLURM_COMMANDS, True, {"backends/slurm/"}),
    (SLURM_VARIABLES, False, {"backends/slurm/", "environment.py"}),
    (SLURM_STATES, True, {"backends/slurm/queue.py"}),
)
"""Pattern, whether a whole string has to match it, files that may hold such strings; docstrings are free."""
NAME_WALLS = {
    "SlurmCluster": {"config/", "backends/", "loading.py"},
    "RayCluster": {"config/", "backends/", "loading.py"},
}
MOST_MAIN_RANK_QUESTIONS = 12


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def nodes(file: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(file.read_text(), str(file)))


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """(dotted module, whether it is only for type checking) of every import, lazy ones included."""
    tree = ast.parse(file.read_text(), str(file))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in typing_only
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)}:{node.lineno}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in typing_only


def layer(part: str) -> int:
    return next(i for i, members in enumerate(LAYERS) if part in members)


def part_of(file: Path) -> str:
    return name(file).split("/")[0].removesuffix(".py")


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in nodes(file):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_part_has_a_layer() -> None:
    assert {part_of(f) for f in FILES} - {"__init__"} <= set().union(*LAYERS)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_point_one_way(file: Path) -> None:
    own = part_of(file)
    if own == "__init__":
        return
    for module, _ in imports(file):
        if not module.startswith("swamp_dist."):
            continue
        other = module.split(".")[1]
        if other == own or other == "__version__":
            continue
        assert layer(other) < layer(own) or {own, other} <= LAYERS[0], f"{name(file)} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_libraries_stay_behind_their_walls(file: Path) -> None:
    for module, _ in imports(file):
        for library, allowed in WALLS.items():
            if module == library or module.startswith(library + "."):
                assert any(name(file).startswith(a) for a in allowed), f"{name(file)} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_forbidden_calls_are_made_nowhere(file: Path) -> None:
    for function, call in calls(file):
        where = f"{name(file)}:{call.lineno}"
        assert function != "print" or name(file).startswith("cli/"), f"{where} prints"
        assert function not in {"hasattr", "eval", "exec", "os.system", "os.popen"}, (
            f"{where} calls {function}"
        )
        assert function not in {"pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"}, where
        for keyword in call.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            assert not (keyword.arg == "weights_only" and value is False), f"{where} loads code"
            assert not (keyword.arg == "allow_pickle" and value is True), f"{where} loads code"
            assert not (keyword.arg == "shell" and value is not False), f"{where} starts a shell"


def unclean_output(file: Path) -> list[str]:
    """Calls that would bring text to a screen or a log past `printable` and `console`."""
    allowed = {
        "Console": {"console.py"},
        "Text": {"console.py"},
        "Text.assemble": set(),
        "Text.from_markup": set(),
        "typer.echo": {"cli/printing.py"},
        "print": set(),
        "sys.stdout.write": {"backends/ray/slurm_node.py", "doctor/ranks.py", "doctor/node.py"},
        "sys.stderr.write": {"cli/__init__.py", "stage/rank.py", "backends/forking.py"},
        "logging.basicConfig": {"printable.py"},
        "logging.Formatter": set(),
    }
    return [
        f"{call.lineno}: {function}"
        for function, call in calls(file)
        if function in allowed and name_of(file) not in allowed[function]
    ]


def name_of(file: Path) -> str:
    return name(file) if file.is_relative_to(PACKAGE) else file.name


@pytest.mark.parametrize("file", FILES, ids=name)
def test_what_is_shown_is_cleaned_in_one_place(file: Path) -> None:
    assert unclean_output(file) == []


def test_the_rule_of_what_is_shown_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("Console().print(1)\nText(name)\ntyper.echo(name)\nlogging.Formatter('x')\n")
    assert len(unclean_output(bad)) == 4


def literals(file: Path) -> Iterator[tuple[str, int]]:
    """Every string in the code with its line; docstrings and messages are longer than the names looked
    for."""
    for node in nodes(file):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno


@pytest.mark.parametrize("file", FILES, ids=name)
def test_names_of_files_are_spelled_once(file: Path) -> None:
    elsewhere = set().union(*(names for place, names in SPELLED_ONCE.items() if place != name(file)))
    for literal, line in literals(file):
        assert literal not in elsewhere, f"{name(file)}:{line} spells {literal!r}"


def strings(file: Path) -> Iterator[str]:
    """Every string of a file but its docstrings and the texts under fields."""
    tree = ast.parse(file.read_text(), str(file))
    said = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def text_behind_a_wall(file: Path, where: str) -> list[str]:
    """Strings of a file that only other files may hold."""
    return [
        text
        for pattern, whole, allowed in TEXT_WALLS
        for text in strings(file)
        if not any(map(where.startswith, allowed))
        and (pattern.fullmatch(text) if whole else pattern.search(text))
    ]


def names_behind_a_wall(file: Path, where: str) -> list[str]:
    """Names in a file that only other files may use."""
    used = {n.id for n in nodes(file) if isinstance(n, ast.Name)} | {
        m.split(".")[-1] for m, _ in imports(file)
    }
    return [n for n, allowed in NAME_WALLS.items() if n in used and not any(map(where.startswith, allowed))]


@pytest.mark.parametrize("file", FILES, ids=name)
def test_slurm_and_ray_are_spoken_of_behind_their_walls(file: Path) -> None:
    assert text_behind_a_wall(file, name(file)) == []
    assert names_behind_a_wall(file, name(file)) == []


def test_the_walls_of_slurm_and_ray_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        '"""squeue"""\nfrom swamp_dist.config import SlurmCluster\n'
        'ask("squeue", "-j")\nid = f"x {SLURM}" + env["SLURM_JOB_ID"]\nif state == "PENDING": pass\n'
    )
    assert text_behind_a_wall(bad, "monitor/bad.py") == ["squeue", "SLURM_JOB_ID", "PENDING"]
    assert names_behind_a_wall(bad, "monitor/bad.py") == ["SlurmCluster"]
    assert text_behind_a_wall(bad, "backends/slurm/queue.py") == []
    assert names_behind_a_wall(bad, "backends/slurm/queue.py") == []


def test_the_rules_above_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import os\nfrom swamp_dist.train import loop\nos.system('x')\ntorch.load(f, weights_only=False)\n"
        "path = folder / 'manifest.json'\n"
    )
    assert ("swamp_dist.train.loop", False) in set(imports(bad))
    assert [f for f, _ in calls(bad)] == ["os.system", "torch.load"]
    assert ("manifest.json", 5) in set(literals(bad))
    for place, names in SPELLED_ONCE.items():
        assert names <= {literal for literal, _ in literals(PACKAGE / place)}


def test_the_main_rank_is_asked_about_in_few_places() -> None:
    asked = [name(f) for f in FILES for n in nodes(f) if isinstance(n, ast.Attribute) and n.attr == "is_main"]
    assert len(asked) <= MOST_MAIN_RANK_QUESTIONS, asked


def test_no_file_is_named_for_nothing() -> None:
    banned = {"utils", "helpers", "common", "base", "core", "misc", "trainer", "manager", "handler"}
    assert not [name(f) for f in FILES if f.stem.lower() in banned or banned & set(f.parts[-3:-1])]
