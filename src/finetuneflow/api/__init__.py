"""The REST API (not built yet)."""
