"""Raw layouts on disk, or generators, turned into samples: one module a data set."""
