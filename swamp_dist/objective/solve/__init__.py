"""The balanced assignment of rows to prototypes: Sinkhorn, its passes over the scores, and their memory."""
