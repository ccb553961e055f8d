"""One page about a run, a pipeline or a sweep: what was set, what came out, what it took."""
