"""When the serving process is started again."""

from __future__ import annotations

import pytest

from legato.core.errors import ConfigError
from legato.serving.envoy import resolve
from legato.serving.supervisor import GOOD_LIFE_S, LONGEST_DELAY_S, Backoff


def test_short_lives_double_the_wait() -> None:
    """A crash loop slows down, to a limit."""
    backoff = Backoff()

    waits = [backoff.after(1.0) for _ in range(8)]

    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_DELAY_S, LONGEST_DELAY_S]


def test_a_long_life_forgets_the_past() -> None:
    """A process that served well is started again at once."""
    backoff = Backoff()
    for _ in range(5):
        backoff.after(1.0)

    assert backoff.after(GOOD_LIFE_S) == 0.1
    assert backoff.after(1.0) == 0.2


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1"), ("10.1.2.3", "10.1.2.3"), ("::1", "::1")]
)
def test_addresses_stand_for_themselves(host: str, address: str) -> None:
    """Envoy gets the address that was given."""
    assert resolve(host) == address


def test_an_unusable_host_names_the_fix() -> None:
    """The message says what to write instead."""
    with pytest.raises(ConfigError, match=r"(?s)--host.*127\.0\.0\.1"):
        resolve("no host")
