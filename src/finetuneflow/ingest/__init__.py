"""Source files to documents, records and chunks."""
