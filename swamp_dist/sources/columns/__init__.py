"""Columns of plain files: arrays of numpy, tables in text, parquet."""
