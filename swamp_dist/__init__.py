"""Distributed training for cross-modal retrieval with SwAMP (Kim, AISTATS 2023)."""
