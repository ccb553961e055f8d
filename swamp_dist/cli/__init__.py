"""The `swamp` command: verbs only. Each reads its files, calls one function and prints."""

from swamp_dist.cli import cluster, doctor, pipelines, shards, stages, watch, weights
from swamp_dist.cli.app import app as app

VERBS = (stages, cluster, shards, pipelines, watch, doctor, weights)
"""Modules that register their verbs with `app` when imported."""


def main() -> None:
    """Entry point of the console command."""
    app()
