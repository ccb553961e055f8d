"""The `swamp` command: verbs only. Each reads its files, calls one function and prints."""

import sys

from swamp_dist.cli import (
    cluster,
    doctor,
    evaluation,
    init,
    pipelines,
    prototypes,
    report,
    shards,
    stages,
    tables,
    watch,
    weights,
)
from swamp_dist.cli.app import app as app
from swamp_dist.errors import ExitCode
from swamp_dist.printable import current_trace, write_all_characters

VERBS = (
    init, stages, evaluation, prototypes, cluster, shards, pipelines, tables, report, watch, doctor, weights
)  # fmt: skip
"""Modules that register their verbs with `app` when imported."""


def main() -> None:
    """Entry point of the console command."""
    write_all_characters()
    try:
        app()
    except Exception:  # a fault of ours keeps its trace, whose message may quote a file
        sys.stderr.write(current_trace())
        sys.exit(ExitCode.FAILED)
