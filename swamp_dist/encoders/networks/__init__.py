"""The networks of encoders, in torch; everything around them works without it."""
