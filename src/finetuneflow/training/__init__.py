"""Datasets to adapters: the training loop and what it can learn."""
