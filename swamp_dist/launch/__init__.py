"""From a job file to finished stages: run folders, ranks, pipelines."""
