"""Runs seen from outside: status, logs, cancelling."""
