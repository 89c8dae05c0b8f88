"""Options, environment and defaults make the settings of a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from legato.core.errors import ConfigError
from legato.settings import ChildSettings, ServerSettings, from_environment


def test_options_win_over_variables_and_those_over_defaults() -> None:
    """What is nearest to the person counts."""
    found = from_environment(
        {"port": 1, "host": None}, {"LEGATO_PORT": "2", "LEGATO_HOST": "10.1.2.3", "PORT": "3"}
    )

    assert (found.port, found.host, found.store) == (1, "10.1.2.3", "memory")


def test_lists_in_variables_have_commas() -> None:
    """Paths and ports may be given by the environment alone."""
    found = from_environment({}, {"LEGATO_MODELS": "a,b", "LEGATO_EXTRA_PORTS": "7,8"})

    assert found.models == (Path("a"), Path("b"))
    assert found.extra_ports == (7, 8)


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    """Nothing is open to a network by default."""
    assert from_environment({}, {}).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("options", "environment", "named"),
    [
        ({"port": 70000}, {}, "--port"),
        ({}, {"LEGATO_PORT": "many"}, "LEGATO_PORT"),
        ({"stream_order": "any"}, {}, "--stream-order"),
        ({"extra_ports": [80, -1]}, {}, "--extra-ports"),
        ({}, {"LEGATO_STORE": "cloud"}, "LEGATO_STORE"),
    ],
)
def test_an_impossible_value_is_traced_to_its_source(options, environment, named: str) -> None:
    """The message names the option or the variable, and the value."""
    with pytest.raises(ConfigError, match="got ") as caught:
        from_environment(options, environment)

    assert str(caught.value).startswith(named)


def test_settings_travel_as_json() -> None:
    """The serving process gets exactly what the supervisor had."""
    child = ChildSettings(
        server=ServerSettings(models=(Path("/m"),), data=Path("/d"), extra_ports=(1, 2)),
        control_fd=5,
        restarts=3,
    )

    assert ChildSettings.model_validate_json(child.model_dump_json()) == child
