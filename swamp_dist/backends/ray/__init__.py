"""Stages on the workers of a Ray."""
