"""Puts the shared doubles within reach."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import pytest

from doubles import Harness


@pytest.fixture
def make():
    """Make engines on fake loops; all are closed at the end."""
    made = []

    def harness(**options):
        made.append(Harness(**options))
        return made[-1]

    yield harness
    for one in made:
        one.close()
