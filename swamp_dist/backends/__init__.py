"""Where ranks run: local, slurm, ray."""
