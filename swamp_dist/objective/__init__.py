"""The objective: contrastive term, queue, Sinkhorn solve and swapped targets. Pure formulas."""
