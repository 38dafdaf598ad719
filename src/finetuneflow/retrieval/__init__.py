"""Looking up the passages that answer a question, and measuring how often the right one is found."""
