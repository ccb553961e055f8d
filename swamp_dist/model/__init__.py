"""Encoders, prototypes, and the dual encoder that holds them."""
