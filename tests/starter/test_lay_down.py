"""`swamp init` lays down what is shipped and never changes a file of the user's."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from swamp_dist import cli
from swamp_dist.errors import UserError
from swamp_dist.loading import kind_of, load
from swamp_dist.starter import files
from swamp_dist.starter.files import starting_files
from swamp_dist.starter.lay_down import lay_down

SMOKE = Path("jobs/pipelines/smoke.yaml")


def init(*words: str) -> Result:
    return CliRunner().invoke(cli.app, ["init", *words])


def contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_empty_folder_gets_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = init()
    assert done.exit_code == 0
    assert "next:     swamp smoke" in done.output
    assert contents(tmp_path) == starting_files()
    for file in [f for f in starting_files() if f.suffix == ".yaml"]:
        load(file, kind_of(file))
    again = init()
    assert "written:  0 files" in again.output
    assert f"same:     {len(starting_files())} files" in again.output


def test_links_lead_somewhere_in_the_new_folder(tmp_path: Path) -> None:
    lay_down(tmp_path)
    documents = sorted(tmp_path.rglob("*.md"))
    assert len(documents) == 3
    for document in documents:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"


def test_a_folder_of_a_new_name_is_made_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = init("deep/my project")
    assert done.exit_code == 0
    assert "next:     cd 'deep/my project' && swamp smoke" in done.output
    assert (tmp_path / "deep/my project" / SMOKE).is_file()


def test_files_of_the_user_are_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / SMOKE).parent.mkdir(parents=True)
    (tmp_path / SMOKE).write_text("name: mine\n")
    (tmp_path / "README.md").write_text("my own\n")
    (tmp_path / "notes.txt").write_text("not ours\n")
    done = init(str(tmp_path))
    assert done.exit_code == 0
    assert "kept:     2 files that differ from the shipped ones:" in done.output
    assert str(SMOKE) in done.output
    assert (tmp_path / SMOKE).read_text() == "name: mine\n"
    assert (tmp_path / "README.md").read_text() == "my own\n"
    forced = init(str(tmp_path), "--force")
    assert "replaced: 2 files" in forced.output
    assert contents(tmp_path) == starting_files() | {Path("notes.txt"): b"not ours\n"}


def test_a_pipe_and_a_broken_link_are_kept(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "README.md")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "README.md").symlink_to("nowhere")
    assert lay_down(tmp_path).changed == (Path("README.md"), Path("jobs/README.md"))
    assert not (tmp_path / "jobs" / "nowhere").exists()


@pytest.mark.parametrize(
    ("obstacle", "said"),
    [("project", "project is no folder"), ("project/jobs", "project/jobs is no folder")],
)
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path, obstacle: str, said: str) -> None:
    (tmp_path / obstacle).parent.mkdir(exist_ok=True)
    (tmp_path / obstacle).touch()
    done = init(str(tmp_path / "project"))
    assert done.exit_code == 2
    assert said in done.stderr
    assert "nothing was written" in done.stderr
    assert len(list(tmp_path.rglob("*.yaml"))) == 0


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / SMOKE).mkdir(parents=True)
    with pytest.raises(UserError, match=r"smoke\.yaml is a folder.*nothing was written"):
        lay_down(tmp_path)
    assert not (tmp_path / "README.md").exists()


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, _content: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("swamp_dist.starter.lay_down.write_atomically", refuse)
    done = init(str(tmp_path / "project"))
    assert done.exit_code == 2
    assert "README.md: Permission denied" in done.stderr


def test_a_place_without_permission_is_refused_before_the_first_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path)
    done = init(str(tmp_path / "deep/project"))
    assert done.exit_code == 2
    assert f"you may not write in {tmp_path}; nothing was written" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_installation_without_its_files_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(Path(files.__file__).parent / "README.md", tmp_path)
    monkeypatch.setattr(files, "_HERE", tmp_path)
    with pytest.raises(UserError, match="has no jobs/"):
        starting_files()


def test_smoke_outside_a_project_names_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["smoke"])
    assert done.exit_code == 2
    assert "`swamp init` lays down jobs and recipes here" in done.stderr
