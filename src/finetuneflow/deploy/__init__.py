"""Deployment (not built yet)."""
