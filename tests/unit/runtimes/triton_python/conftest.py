"""A process of one model has the caches of that model only."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_caches_of_other_tests(monkeypatch) -> None:
    """Caches that other tests have made in this process are those of other models."""
    monkeypatch.setattr("legato.torchserve._caches", {})
