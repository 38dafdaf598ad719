"""Looking up the passages that answer a question."""
