"""Handlers that others derive from."""
