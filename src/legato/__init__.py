"""Legato: a server for stateful models.

Steps of a sequence run in order, are committed before they are answered, and
are applied exactly once. ``docs/design.md`` is the shape of the house.
"""

__version__ = "0.1.0"
"""Single source of the version: the package's metadata is read from here."""
