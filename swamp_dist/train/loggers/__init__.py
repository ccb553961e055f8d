"""Where the figures of a run go beside its own `metrics.jsonl`: one module per program that shows them."""
