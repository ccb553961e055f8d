"""Checks of a machine, a job and a cluster before something is started on them; one topic a module."""
