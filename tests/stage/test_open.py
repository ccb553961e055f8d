from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from swamp_dist.config import StageSettings
from swamp_dist.errors import RunDirHeld, UserError
from swamp_dist.loading import describe
from swamp_dist.records import JobState, StageResult
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.provenance import weights_sha256
from swamp_dist.settings import is_below, same_result_keys
from swamp_dist.stage import open as stage_open
from swamp_dist.stage.open import check_finished, check_folder, open_run
from swamp_dist.train.fingerprint import fingerprint
from swamp_dist.train.weights import save_weights
from tests.end_to_end.command import flip
from tests.runs.written_runs import nobody_tells
from tests.train.tiny import tiny_stage


def _finished(folder: Path, settings: StageSettings, **provenance: Any) -> RunDir:
    run_dir = RunDir(folder)
    run_dir.write_stage(settings)
    run_dir.write_result(StageResult("tiny", folder, None, None, 0, (), provenance))
    return run_dir


def test_the_same_stage_and_free_settings_are_finished(tmp_path: Path) -> None:
    run_dir = _finished(tmp_path / "run", tiny_stage(tmp_path), initial_weights_sha256=None)
    check_finished(run_dir, tiny_stage(tmp_path))
    check_finished(run_dir, tiny_stage(tmp_path, data__workers=3, train__log_every=7, engine__zero_stage=2))


@pytest.mark.parametrize(
    "change",
    [
        {"objective": {"swamp": {"sinkhorn": {"score_memory": "1MB"}}}},
        {"objective": {"contrastive": {"chunk": 8}}},
        {"engine": {"micro_batch": 4}},
        {"objective": {"swamp": {"queue": {"layout": "sharded"}}}},
        {"train": {"checkpoint": {"keep": 9}}},
    ],
)
def test_a_setting_that_a_resume_accepts_as_equal_is_accepted_of_a_finished_stage(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    settings = tiny_stage(tmp_path)
    run_dir = _finished(tmp_path / "run", settings, initial_weights_sha256=None)
    other = StageSettings.model_validate(_merge(settings.model_dump(mode="json"), change))
    assert other != settings
    check_finished(run_dir, other)
    assert fingerprint(other, "hash") == fingerprint(settings, "hash")


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _merge(below.get(key) or {}, value) if isinstance(value, dict) else value
    return merged


def test_every_setting_is_marked_or_changes_the_fingerprint_or_a_finished_stage(tmp_path: Path) -> None:
    """What a resume ignores is named here or marked `SAME_RESULT`; the epochs count: the schedule is
    cosine."""
    settings = tiny_stage(tmp_path)
    same = set(same_result_keys(settings))
    marks = {key.split(".")[0] for key in fingerprint(settings, "hash")}
    assert marks == {"seed", "data", "model", "objective", "train", "engine"}
    told = fingerprint(settings, "hash")
    ignored = {
        setting.key
        for setting in describe(settings)
        if not is_below(setting.key, same) and not any(f"{k}.".startswith(f"{setting.key}.") for k in told)
    }
    assert ignored == {
        "name", "data.shards", "data.clips", "data.blend", "weights", "average_with",
        "evaluate.0.split",
        "evaluate.0.relevance", "evaluate.0.folds", "evaluate.0.median_rank",
        "evaluate.0.ties",
        "evaluate.0.precision_at", "evaluate.0.hit_at", "evaluate.0.chunk", "evaluate.0.gallery",
        "evaluate.0.distance", "evaluate.0.normalise", "train.validate_on.gallery",
        "train.validate_on.distance",
        "train.select",
        "train.init_from",
        "train.init_prototypes", "train.validate_on.split", "train.validate_on.every",
        "train.validate_on.metric", "train.validate_on.early_stop",
    }  # fmt: skip


class _Asked(list[str]):
    """Notes the order of the questions."""

    def job(self, run_dir: RunDir) -> tuple[str, JobState] | None:
        self.append("job")
        return None


def test_the_questions_come_in_their_order_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, run_dir, settings = _Asked(), RunDir(tmp_path / "run"), tiny_stage(tmp_path)
    run_dir.create()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(RunDir, "refuse_if_held", lambda *_: asked.append("held"))
    monkeypatch.setattr(stage_open, "resolve", lambda *_: asked.append("resolve") or "resolved")
    assert open_run(run_dir, settings, 1, asked.job, nobody_tells) == "resolved"
    assert asked == ["job", "held", "resolve"]
    asked.clear()
    assert open_run(run_dir, settings, 1, None, nobody_tells) == "resolved"
    assert asked == ["held", "resolve"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_finished_stage_asks_nobody(tmp_path: Path) -> None:
    asked, settings = _Asked(), tiny_stage(tmp_path)
    run_dir = _finished(tmp_path / "run", settings, initial_weights_sha256=None)
    assert open_run(run_dir, settings, 1, asked.job, nobody_tells) is None
    assert not asked


def test_a_job_that_works_on_the_folder_refuses_it_by_name(tmp_path: Path) -> None:
    run_dir, settings = RunDir(tmp_path / "run"), tiny_stage(tmp_path)
    job = JobState("17", "waiting", word="PENDING")
    with pytest.raises(RunDirHeld, match=r"held by SLURM job 17, which is PENDING.\nIt continues by itself"):
        open_run(run_dir, settings, 1, lambda _: ("SLURM", job), nobody_tells)


def test_a_graph_follows_a_job_of_the_same_settings_and_refuses_one_of_others(tmp_path: Path) -> None:
    run_dir, settings = RunDir(tmp_path / "run"), tiny_stage(tmp_path)
    run_dir.write_stage(settings)
    job = JobState("17", "running", word="RUNNING")
    assert not check_folder(run_dir, settings, lambda _: ("SLURM", job), follows=True).done
    with pytest.raises(RunDirHeld, match="with other settings than were asked for"):
        check_folder(run_dir, tiny_stage(tmp_path, seed=9), lambda _: ("SLURM", job), follows=True)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    run_dir = _finished(tmp_path / "run", tiny_stage(tmp_path), initial_weights_sha256=None)
    with pytest.raises(UserError, match=r"(?s)train\.epochs: was 4, asked 9.*--run-dir"):
        check_finished(run_dir, tiny_stage(tmp_path, train__epochs=9))


def test_initial_weights_that_changed_since_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, weights)
    settings = tiny_stage(tmp_path, train__init_from=str(weights))
    run_dir = _finished(tmp_path / "run", settings, initial_weights_sha256=weights_sha256(weights))
    check_finished(run_dir, settings)
    save_file({"x": torch.ones(1)}, weights)
    with pytest.raises(UserError, match="weights have changed"):
        check_finished(run_dir, settings)


def test_an_unfinished_folder_is_free(tmp_path: Path) -> None:
    check_finished(RunDir(tmp_path / "none"), tiny_stage(tmp_path))


def _with_weights(folder: Path, settings: StageSettings) -> RunDir:
    run_dir = RunDir(folder)
    run_dir.write_stage(settings)
    sha256 = save_weights(run_dir.weights, {"x": torch.zeros(4)}, {})
    facts = {"initial_weights_sha256": None}
    run_dir.write_result(StageResult("tiny", folder, run_dir.weights, 1, 1, (), facts, sha256))
    return run_dir


def test_a_finished_stage_whose_weights_have_changed_is_not_done(tmp_path: Path) -> None:
    settings = tiny_stage(tmp_path)
    run_dir = _with_weights(tmp_path / "run", settings)
    assert check_folder(run_dir, settings, None, follows=True).done
    flip(run_dir.weights, run_dir.weights.stat().st_size - 1)
    with pytest.raises(UserError, match=r"weights\.safetensors: it has changed.*\n.*remove result\.json"):
        check_folder(run_dir, settings, None, follows=True)


def test_a_finished_stage_whose_weights_are_gone_is_not_done(tmp_path: Path) -> None:
    settings = tiny_stage(tmp_path)
    run_dir = _with_weights(tmp_path / "run", settings)
    run_dir.weights.unlink()
    with pytest.raises(UserError, match="the weights of a finished stage are gone"):
        check_finished(run_dir, settings)
