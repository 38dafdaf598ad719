"""One reader for each file format: bytes or text to pieces, rows or records."""
