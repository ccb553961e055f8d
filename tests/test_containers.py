"""Dockerfile and apptainer.def take the same files and the same script along; the script, played on PATH."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = "tools/containers/install.sh"
PYTHON = """#!/bin/sh
echo "python $*" >> {log}
case "$*" in
    "-m venv "*) mkdir -p "$3/bin"; for name in swamp python3; do cp {tool} "$3/bin/$name"; done ;;
    *ensurepip* | *version_info*) exit {new_enough} ;;
    *torch*) [ -n "{site}" ] && echo "torch=={site}" ;;
    --version) echo Python 3.9.2 ;;
esac
"""
TOOL = """#!/bin/sh
echo "${{0##*/}} $*" >> {log}
[ "$3" != freeze ] || echo torch==2.13.0+cpu
"""


def play(
    folder: Path, *, new_enough: int = 0, site: str = "", torch: str = "", commands: tuple[str, ...] = ()
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The script in an image with these commands; what it did, and the calls of Python and swamp."""
    path, log = folder / "bin", folder / "calls"
    path.mkdir()
    for tool in ("sh", "cat", "rm", "mkdir", "cp", "dirname", "grep", "mktemp"):
        (path / tool).symlink_to(shutil.which(tool) or "")
    for command in ("tool", *commands):
        (path / command).write_text(TOOL.format(log=log))
    python = PYTHON.format(log=log, tool=path / "tool", new_enough=new_enough, site=site)
    (path / "python3").write_text(python)
    for file in path.iterdir():
        if not file.is_symlink():
            file.chmod(0o755)
    variables = {"PATH": str(path), "FOLDER": str(folder / "swamp"), "TORCH": torch}
    done = subprocess.run([ROOT / SCRIPT], env=variables, capture_output=True, text=True)
    return done, log.read_text().splitlines()


def test_both_files_take_along_what_a_build_reads_and_call_the_script() -> None:
    docker, apptainer = (ROOT / "Dockerfile").read_text(), (ROOT / "apptainer.def").read_text()
    of_docker = {
        name for line in re.findall(r"^COPY (.*) \S+$", docker, re.MULTILINE) for name in line.split()
    }
    of_apptainer = set(re.findall(r"^    (\S+) /opt/source/\1$", apptainer, re.MULTILINE))
    assert of_docker == of_apptainer
    assert of_docker >= {"setup.py", "pyproject.toml", "swamp_dist", "jobs", "shards", "tools/containers"}
    assert all((ROOT / name).exists() for name in of_docker)
    for text, base in ((docker, "ARG BASE="), (apptainer, "BASE=")):
        assert f"/opt/source/{SCRIPT}\n" in text
        assert f"{base}debian:12-slim\n" in text


def test_torch_comes_first_and_is_kept(tmp_path: Path) -> None:
    done, calls = play(tmp_path)
    assert done.returncode == 0, done.stderr
    installs = [call for call in calls if call.startswith("python3 -m pip install")]
    assert "torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu" in installs[0]
    assert f"-c {tmp_path}/swamp/site-torch.txt {ROOT}" in installs[1]
    assert [call.split()[1] for call in calls if call.startswith("swamp ")] == ["init", "show"]
    assert done.stdout.endswith(f"swamp is in {tmp_path}/swamp/bin, with torch==2.13.0+cpu\n")


def test_the_torch_of_the_base_image_is_kept(tmp_path: Path) -> None:
    done, calls = play(tmp_path, site="2.12.1", torch="site")
    assert done.returncode == 0, done.stderr
    assert len([call for call in calls if call.startswith("python3 -m pip install")]) == 1
    assert (tmp_path / "swamp" / "site-torch.txt").read_text() == "torch==2.12.1\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"torch": "site"}, "TORCH=site, and the base image has no torch"),
        ({"new_enough": 1}, "lacks Python 3.11 with venv, and apt-get to get it"),
        ({"new_enough": 1, "commands": ("apt-get",)}, "Python 3.9.2 of the base image is older than 3.11"),
    ],
)
def test_a_base_image_that_does_not_do_is_refused(
    tmp_path: Path, given: dict[str, object], said: str
) -> None:
    done, _ = play(tmp_path, **given)  # type: ignore[arg-type]
    assert done.returncode == 1
    assert said in done.stderr
