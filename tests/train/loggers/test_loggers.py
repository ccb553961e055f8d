"""Figures reach every program that a job names, once per step, and none of them can end a training."""

from __future__ import annotations

import csv
import json
import logging
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from swamp_dist.distributed import alone
from swamp_dist.records import EvaluationResult, RetrievalMetrics, StepReport
from swamp_dist.train.loggers import opening
from swamp_dist.train.loggers.logger import RunAbout
from swamp_dist.train.loggers.opening import logger_problems
from swamp_dist.train.metrics import open_metrics, show_result

RESULT = EvaluationResult(
    "test", {"pair/a_to_b": RetrievalMetrics("a->b", "pair", 10.0, 30.0, 50.0, 9.5, 100, 100)}
)
CHOSEN = {"seed": 3, "train.optimizer.lr": 0.001, "objective.contrastive.form": "infonce", "train.nag": True}


def about(folder: Path) -> RunAbout:
    return RunAbout(folder, "tiny", "name: tiny\nnote: '<script>'\n", CHOSEN, {"git": None, "world_size": 2})


def session(folder: Path, loggers: Any, resume_step: int, steps: range) -> None:
    writer = open_metrics(about(folder), alone(), resume_step, loggers)
    for step in steps:
        writer.log(StepReport(step, {"loss/total": step / 4, "optim/lr": math.nan}))
    writer.histogram("swamp/prototype_use", torch.arange(4.0), steps[-1])
    writer.close()


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def test_tensorboard_shows_what_a_run_is_and_what_its_tags_mean(tmp_path: Path) -> None:
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR

    session(tmp_path, ["tensorboard"], 0, range(1, 4))
    show_result(about(tmp_path), ["tensorboard"], [RESULT], 3)
    read = read_events(tmp_path)
    found = read.SummaryMetadata("loss/total")
    assert found.summary_description == "Weighted sum of all terms, mean over ranks."
    assert (found.plugin_data.plugin_name, found.data_class) == ("scalars", DATA_CLASS_SCALAR)
    job = read.Tensors("job/text_summary")[0].tensor_proto.string_val[0].decode()
    assert job == "    name: tiny\n    note: '<script>'", "a block of code, in which nothing is markup"
    assert "world_size" in read.Tensors("provenance/text_summary")[0].tensor_proto.string_val[0].decode()
    assert [(e.step, e.value) for e in read.Scalars("evaluation/test/pair/a_to_b/r_at_1")] == [(3, 10.0)]


def test_the_table_of_hparams_has_what_was_chosen(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    show_result(about(tmp_path), ["tensorboard"], [RESULT], 3)
    content = read_events(tmp_path).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["train.optimizer.lr"].number_value == 0.001
    assert found["objective.contrastive.form"].string_value == "infonce"
    assert found["train.nag"].number_value == 1


def test_csv_has_a_line_per_figure_and_is_cut_at_a_resume(tmp_path: Path) -> None:
    session(tmp_path, ["csv"], 0, range(1, 6))
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("6,loss/to")  # a kill while a line was written
    session(tmp_path, ["csv"], 3, range(4, 5))
    show_result(about(tmp_path), ["csv"], [RESULT], 4)
    with open(tmp_path / "metrics.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    losses = [(int(x["step"]), float(x["value"])) for x in lines if x["tag"] == "loss/total"]
    assert losses == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    assert {x["value"] for x in lines if x["tag"] == "optim/lr"} == {"nan"}
    assert float(lines[-1]["value"]) == 9.5
    assert not list(tmp_path.glob("events*")), "only what was asked for"


class _Recorder(ModuleType):
    """Takes what trackio takes."""

    def __init__(self, name: str, fails_at: int | None = None) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []
        self.config = self
        self._fails_at = fails_at

    def init(self, **options: Any) -> _Recorder:
        self.calls.append(("init", options))
        return self

    def update(self, told: dict[str, Any], allow_val_change: bool) -> None:
        self.calls.append(("config", told))

    def log(self, figures: dict[str, float]) -> None:
        if figures.get("step") == self._fails_at:
            raise ConnectionError("no route to host\nand more")
        self.calls.append(("log", figures))

    def finish(self) -> None:
        self.calls.append(("finish", None))


def test_a_run_keeps_its_name_elsewhere_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _Recorder("trackio")
    monkeypatch.setitem(sys.modules, "trackio", program)
    session(tmp_path, ["trackio"], 0, range(1, 3))
    session(tmp_path, ["trackio"], 2, range(3, 4))
    names = [options["name"] for call, options in program.calls if call == "init"]
    assert len(names) == 2
    assert (
        names[0]
        == names[1]
        == f"{tmp_path.name}-{json.loads((tmp_path / 'loggers.json').read_text())['trackio']}"
    )
    told = next(told for call, told in program.calls if call == "config")
    assert told["train.optimizer.lr"] == 0.001
    logged = [figures for call, figures in program.calls if call == "log"]
    assert logged == [{"loss/total": step / 4, "step": step} for step in (1, 2, 3)], "no nan"
    assert [call for call, _ in program.calls].count("finish") == 2


def test_a_program_that_fails_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("swamp_dist").propagate = True
    program = _Recorder("trackio", fails_at=2)
    monkeypatch.setitem(sys.modules, "trackio", program)
    session(tmp_path, ["trackio", "csv"], 0, range(1, 6))
    told = [r.getMessage() for r in caplog.records if "trackio" in r.getMessage()]
    assert told == ["trackio: ConnectionError: no route to host: no more figures go there"]
    assert [call for call, _ in program.calls] == ["init", "config", "log"], "nothing after the failure"
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]


def test_what_a_logger_lacks_is_told_before_a_rank_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    assert list(logger_problems(["tensorboard", "csv"])) == []
    absent = list(logger_problems(["wandb", "mlflow", "trackio"]))
    assert [said.split(": ")[1].split()[0] for said in absent] == ["wandb", "mlflow", "trackio"]
    assert "pip install mlflow-skinny" in absent[1]
    monkeypatch.setattr(opening, "find_spec", lambda name: object())
    (said,) = logger_problems(["wandb", "mlflow"])
    assert "MLFLOW_TRACKING_URI does not say" in said


def test_wandb_keeps_a_run_offline_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: the extra `loggers` has it")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    session(tmp_path, ["wandb"], 0, range(1, 3))
    session(tmp_path, ["wandb"], 2, range(3, 4))
    identity = json.loads((tmp_path / "loggers.json").read_text())["wandb"]
    kept = list((tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(kept) >= 1, list((tmp_path / "wandb").iterdir())
    content = b"".join(path.read_bytes() for path in kept)
    assert b"loss/total" in content
    assert b"objective.contrastive.form" in content


def test_mlflow_keeps_parameters_and_figures_of_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip(
        "mlflow", reason="mlflow is not installed: pip install 'swamp-dist[loggers]'"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/kept")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    session(tmp_path, ["mlflow"], 0, range(1, 3))
    session(tmp_path, ["mlflow"], 2, range(3, 4))
    show_result(about(tmp_path), ["mlflow"], [RESULT], 3)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.optimizer.lr"] == "0.001"
    values = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss/total")]
    assert values == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert run.data.metrics["evaluation/test/pair/a_to_b/r_at_1"] == 10.0
