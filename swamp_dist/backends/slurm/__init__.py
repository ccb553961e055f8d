"""Stages as jobs of SLURM: batch script, queue, submission, restart, following."""
