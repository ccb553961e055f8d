"""From raw data to a shard set: the only place where sources and data meet."""
