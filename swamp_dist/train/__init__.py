"""The training loop and what it stands on: engine, schedule, checkpoints, metrics."""
