"""The old place of one function."""
