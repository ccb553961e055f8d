"""The wheel holds the package, its jobs and recipes and nothing else, and works without the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from swamp_dist.starter.files import starting_files
from tests.end_to_end.command import environment
from tests.packages import ROOT, build, copy_of_the_checkout

STARTER = "swamp_dist/starter/"
ONCE = "overrides=[objective.swamp.weight=0, train.epochs=1, train.validate_on=null]"
SHORT = (
    "values={method: {one: {label: one, overrides: []}}, "
    'start: {scratch: {suffix: "", label: "", after: [], overrides: []}}}',
    f"stages.pretrain-one.{ONCE}",
    f"stages.finetune-one.{ONCE}",
    "ranks=1",
)
"""Three stages of the smoke run instead of ten, an epoch each."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", copy_of_the_checkout(tmp_path_factory.mktemp("checkout")))


def test_wheel_holds_the_package_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {n.split("/")[0] for n in names}
    assert {t for t in top if not t.endswith(".dist-info")} == {"swamp_dist"}
    assert "swamp_dist/py.typed" in names
    expected = {p.relative_to(ROOT).as_posix() for p in (ROOT / "swamp_dist").rglob("*.py")}
    assert expected <= set(names)
    parts = {
        p.relative_to(ROOT).as_posix()
        for kind in ("css", "js")
        for p in (ROOT / "swamp_dist").rglob(f"*.{kind}")
    }
    assert "swamp_dist/pages/page.css" in parts
    assert parts <= set(names)


def test_wheel_holds_the_starting_files_as_they_stand_in_the_checkout(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    held = {n.removeprefix(STARTER) for n in archive.namelist() if n.startswith(STARTER)}
    wanted = {path.as_posix() for path in starting_files()}
    assert {n for n in held if not n.endswith(".py")} == wanted
    for name in wanted - {"README.md"}:
        assert archive.read(STARTER + name) == (ROOT / name).read_bytes(), name


def test_a_wheel_of_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", copy_of_the_checkout(tmp_path / "checkout"))
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("swamp_dist-*")
    assert not (source / STARTER / "jobs").exists()
    again = zipfile.ZipFile(build("wheel", source))
    assert set(again.namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_an_editable_install_reads_the_starting_files_in_the_checkout(tmp_path: Path) -> None:
    source = copy_of_the_checkout(tmp_path / "checkout")
    names = zipfile.ZipFile(build("editable", source)).namelist()
    assert not [name for name in names if name.endswith((".yaml", ".md"))]
    count = "from swamp_dist.starter.files import starting_files; print(len(starting_files()))"
    own = {"PYTHONPATH": str(source)}
    told = subprocess.run([sys.executable, "-P", "-c", count], env=own, capture_output=True, check=True)
    assert int(told.stdout) == len(starting_files())


def test_wheel_installs_the_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    entry = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
    assert "swamp = swamp_dist.cli:main" in archive.read(entry).decode()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_installed_wheel_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site]
    subprocess.run([*pip, wheel], check=True)

    def swamp(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "swamp_dist", *words]
        variables = environment() | {"PYTHONPATH": str(site)}
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)

    where = [sys.executable, "-P", "-c", "import swamp_dist; print(swamp_dist.__file__)"]
    found = subprocess.run(where, cwd=folder, env={"PYTHONPATH": str(site)}, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(site)

    refused = swamp("smoke")
    assert (refused.returncode, "Fix: `swamp init`" in refused.stderr) == (2, True), refused.stderr
    assert swamp("init").returncode == 0
    done = swamp("smoke", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "data/synthetic/manifest.json").is_file()
    assert (folder / "runs/smoke/eval-one/result.json").is_file()
    # What the shipped job files answer themselves is told as a known warning.
    assert "warning" not in done.stderr.replace("known warning ", ""), done.stderr
