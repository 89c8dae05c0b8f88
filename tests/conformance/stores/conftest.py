"""Fixtures of the store suite: every test runs on every store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the kit and the model beside the tests

from store_kit import CASES, FakeClock, StoreCase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from legato.stores.base import Store


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> StoreCase:
    return request.param


@pytest.fixture(params=[c for c in CASES if c.durable], ids=lambda case: case.name)
def durable_case(request: pytest.FixtureRequest) -> StoreCase:
    return request.param


@pytest.fixture
def store(case: StoreCase, tmp_path: Path, clock: FakeClock) -> Iterator[Store]:
    opened = case.open(tmp_path / "data", clock)
    yield opened
    opened.close()


@pytest.fixture
def open_durable(
    durable_case: StoreCase, tmp_path: Path, clock: FakeClock
) -> Iterator[Callable[[], Store]]:
    """Opens the same folder again and again; the store before is closed first."""
    opened: list[Store] = []

    def open_again() -> Store:
        if opened:
            opened.pop().close()
        opened.append(durable_case.open(tmp_path / "data", clock))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()
