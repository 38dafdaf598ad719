"""Pydantic models only, no I/O: the words that every layer shares."""
