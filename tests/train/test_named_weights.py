"""What is said of a path that was named for weights and holds none."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.errors import UserError
from swamp_dist.train.named_weights import holds_weights, no_weights, stage_file_of


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run `runs/one` with two steps and weights, and one `runs/two` that has not saved anything."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "stage.yaml").write_text("name: x\n")
    for step in (4, 8):
        Path(f"runs/one/checkpoints/step-{step}").mkdir(parents=True)
    Path("runs/one/weights.safetensors").write_bytes(b"")
    Path("runs/one/result.json").write_text("{}")
    for name in ("job.yaml", "published.pth", "picture"):
        Path(name).write_text("x")


@pytest.mark.parametrize(
    ("source", "found", "fix"),
    [
        ("runs/none", "found nothing there", "did you mean runs/one?"),
        ("elsewhere/run", "found nothing there", "What there is: swamp status"),
        ("runs", "found a folder of runs", "name one of them: runs/one, runs/two"),
        ("runs/two", "a folder without weights.safetensors and checkpoints", "to its end first"),
        ("runs/one/checkpoints", "the folder of all checkpoints", "the run, runs/one, or a step of it: "),
        ("runs/one@", "found '' for the step", "runs/one, or a step of it: runs/one@8, runs/one@4"),
        ("runs/one@last", "found 'last' for the step", "runs/one@8, runs/one@4"),
        ("runs/one@5", "no checkpoint step-5 (there are: runs/one@8, runs/one@4)", "name one of those"),
        ("https://host/w.safetensors", "an address, and nothing is downloaded", "fetch the file"),
        ("job.yaml", "found a .yaml file", "name the run folder that the job was run in"),
        ("published.pth", "found a .pth file", "swamp import published.pth --out FOLDER"),
        ("runs/one/result.json", "found a .json file", "name the run itself: runs/one"),
        ("picture", "found a file of another kind", "name one of these"),
    ],
)  # fmt: skip
def test_what_is_there_decides_the_fix(source: str, found: str, fix: str) -> None:
    path = Path(source)
    assert not holds_weights(path)
    said = no_weights(path)
    assert found in said
    assert fix in said.partition("\nFix: ")[2]
    assert len(said.splitlines()) == 2


def test_the_settings_of_weights_are_those_of_their_run() -> None:
    wanted = Path("runs/one/stage.yaml")
    for source in ("runs/one", "runs/one@4", "runs/one/weights.safetensors"):
        assert stage_file_of(Path(source)) == wanted
    assert stage_file_of(Path("runs/two")) == Path("runs/two/stage.yaml")  # may evaluate weights of others


@pytest.mark.parametrize(
    "source", ["runs/none", "runs", "job.yaml", "runs/one/result.json", "runs/one@last", "runs/one@5"]
)
def test_no_settings_without_weights(source: str) -> None:
    with pytest.raises(UserError, match=r"expected a run folder, RUN@STEP.*\nFix: "):
        stage_file_of(Path(source))


def test_weights_without_a_run_are_told_apart() -> None:
    Path("alone.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"no stage\.yaml beside these weights"):
        stage_file_of(Path("alone.safetensors"))
