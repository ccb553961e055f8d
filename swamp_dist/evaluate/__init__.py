"""Retrieval metrics whose integers do not depend on how many ranks computed them."""
