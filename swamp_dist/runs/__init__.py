"""What a run folder is: paths, lock, events, provenance, graph."""
