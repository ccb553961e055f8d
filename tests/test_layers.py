"""Imports point one way, libraries stay behind their walls, and a few things are written nowhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "swamp_dist"
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = [
    {"config", "records"},
    {"explaining"},
    {"loading", "environment"},
    {"distributed"},
    {"sources", "data", "model", "objective"},
    {"evaluate"},
    {"train"},
    {"launch"},
    {"cli"},
    {"__main__"},
]
WALLS = {
    "deepspeed": {"train/engine.py", "train/checkpoint.py"},
    "webdataset": {"data/"},
    "xxhash": {"data/"},
    "triton": {"objective/masses_triton.py"},
    "submitit": {"launch/"},
    "ray": {"launch/ray_cluster.py", "launch/ray_graph.py", "launch/ray_build.py"},
    "tensorboard": {"train/metrics.py"},
    "torch.utils.tensorboard": {"train/metrics.py"},
    "typer": {"cli/"},
    "yaml": {"loading.py"},
    "matplotlib": {"launch/plots.py"},
    "filelock": {"launch/", "data/writer.py"},
    "safetensors": {"train/", "sources/"},
    "PIL": {"sources/", "data/"},
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


def test_the_rules_above_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import os\nfrom swamp_dist.train import loop\nos.system('x')\ntorch.load(f, weights_only=False)\n"
    )
    assert ("swamp_dist.train.loop", False) in set(imports(bad))
    assert [f for f, _ in calls(bad)] == ["os.system", "torch.load"]


def test_the_main_rank_is_asked_about_in_few_places() -> None:
    asked = [name(f) for f in FILES for n in nodes(f) if isinstance(n, ast.Attribute) and n.attr == "is_main"]
    assert len(asked) <= MOST_MAIN_RANK_QUESTIONS, asked


def test_no_file_is_named_for_nothing() -> None:
    banned = {"utils", "helpers", "common", "base", "core", "misc", "trainer", "manager", "handler"}
    assert not [name(f) for f in FILES if f.stem.lower() in banned or banned & set(f.parts[-3:-1])]
