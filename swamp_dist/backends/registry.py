"""Which class runs what a cluster file asks for: the only place that knows all backends, one line each."""

from __future__ import annotations

import importlib
from typing import cast

from swamp_dist.backends.protocols import Backend, JobBackend
from swamp_dist.config import ClusterSettings, SlurmCluster
from swamp_dist.errors import UserError
from swamp_dist.loading import load_cluster
from swamp_dist.runs.folder import RunDir

_BACKENDS = {
    "local": "local:LocalBackend",
    "ray": "ray.backend:RayBackend",
    "slurm": "slurm.backend:SlurmBackend",
}
"""Module in this package and class, by the value of `backend`. Imported when asked for: the command line does
without ray and submitit."""
_UNNOTED = SlurmCluster()
"""Scheduler of jobs in folders that do not say which: those of shard sets, and of a Ray that came later."""


def open_backend(cluster: ClusterSettings) -> Backend:
    """The backend that a cluster file asks for."""
    module, _, name = _BACKENDS[cluster.backend].partition(":")
    found = getattr(importlib.import_module(f"swamp_dist.backends.{module}"), name)
    return cast(Backend, found(cluster))


def scheduler_of(run_dir: RunDir) -> JobBackend:
    """The scheduler that a folder was submitted to, by its cluster.yaml."""
    try:
        backend = open_backend(load_cluster(run_dir.cluster_yaml)) if run_dir.cluster_yaml.is_file() else None
    except UserError:  # damaged: the jobs must be found all the same
        backend = None
    if isinstance(backend, JobBackend):
        return backend
    known = open_backend(_UNNOTED)
    assert isinstance(known, JobBackend)
    return known
