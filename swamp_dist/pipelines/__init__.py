"""Graphs of stages and sweeps: planned, run, tabulated."""
