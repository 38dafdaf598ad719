"""Data that ships with the package: models, samples, prompts, wordings, tables."""
