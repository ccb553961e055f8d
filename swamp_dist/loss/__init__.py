"""The objective as a module for training loops of others."""
