"""Shards: manifest, writer, sample order and the stream that training reads."""
