"""MLflow: parameters and figures of a run in an experiment of the stage's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from swamp_dist.train.loggers.logger import Logger, RunAbout

if TYPE_CHECKING:
    from torch import Tensor

_MOST_CHARACTERS = 500
"""Of a parameter; older servers refuse more."""


@final
class MlflowLogger(Logger):
    """A run at the place that MLFLOW_TRACKING_URI names. A run that goes on after a kill keeps its id."""

    def __init__(self, run: RunAbout, identity: str | None) -> None:
        """Begin a run, or go on with the one of this identity."""
        from mlflow import MlflowClient
        from mlflow.entities import RunStatus

        self._client: Any = MlflowClient()
        self.identity = identity or self._begin(run)
        self._goes_on = identity is not None
        if self._goes_on:
            self._client.update_run(self.identity, status=RunStatus.to_string(RunStatus.RUNNING))

    def _begin(self, run: RunAbout) -> str:
        experiment = self._client.get_experiment_by_name(run.name)
        number = self._client.create_experiment(run.name) if experiment is None else experiment.experiment_id
        return str(self._client.create_run(number, run_name=run.folder.name).info.run_id)

    def about(self, run: RunAbout) -> None:
        """Chosen settings as parameters, which are set once; the job and its provenance as tags, since files
        may lie elsewhere."""
        if not self._goes_on:
            for key, value in run.chosen.items():
                self._client.log_param(self.identity, key, str(value)[:_MOST_CHARACTERS])
        self._client.set_tag(self.identity, "job", run.settings)
        self._client.set_tag(self.identity, "provenance", json.dumps(run.provenance, default=str))
        self._client.set_tag(self.identity, "run_folder", str(run.folder))

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """One value per tag and step."""
        for tag, value in figures.items():
            self._client.log_metric(self.identity, tag, value, step=step)

    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        """Nothing: it has no such pictures."""

    def result(self, run: RunAbout, figures: Mapping[str, float], step: int) -> None:
        """As any other figures; then the run is finished."""
        self.figures(figures, step)
        self._client.set_terminated(self.identity)

    def flush(self) -> None:
        """Nothing: every call is kept at once."""

    def close(self) -> None:
        """Nothing: a run that was killed stays a running one, one that is through was finished."""
