"""Clients of servers that other people run."""
