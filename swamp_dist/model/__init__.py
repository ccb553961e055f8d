"""Encoders, prototypes, logits, and the dual encoder that holds them."""
