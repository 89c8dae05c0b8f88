"""Options, environment and defaults make the settings of a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from legato.core.errors import ConfigError
from legato.settings import ChildSettings, ServerSettings, from_environment


def test_options_win_over_variables_and_those_over_defaults() -> None:
    """What is nearest to the person counts."""
    found = from_environment(
        {"port": 1, "host": None},
        {"LEGATO_PORT": "2", "LEGATO_HOST": "10.1.2.3", "PORT": "3", "HOME": "/home/me"},
    )

    assert (found.port, found.host, found.store) == (1, "10.1.2.3", "log")


def test_lists_in_variables_have_commas() -> None:
    """Paths and ports may be given by the environment alone."""
    found = from_environment(
        {}, {"LEGATO_MODELS": "a,b", "LEGATO_EXTRA_PORTS": "7,8", "HOME": "/home/me"}
    )

    assert found.models == (Path("a"), Path("b"))
    assert found.extra_ports == (7, 8)


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    """Nothing is open to a network by default."""
    assert from_environment({}, {"HOME": "/home/me"}).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("options", "environment", "folder"),
    [
        ({}, {}, "/home/me/.local/share/legato/sequences-log"),
        ({}, {"XDG_DATA_HOME": "/xdg"}, "/xdg/legato/sequences-log"),
        ({}, {"XDG_DATA_HOME": "xdg"}, "/home/me/.local/share/legato/sequences-log"),
        ({"store": "sqlite"}, {}, "/home/me/.local/share/legato/sequences-sqlite"),
        ({"data": Path("/d")}, {"XDG_DATA_HOME": "/xdg"}, "/d"),
        ({}, {"LEGATO_DATA": "/e"}, "/e"),
    ],
)
def test_sequences_are_kept_in_the_users_data_folder(options, environment, folder: str) -> None:
    """By the rule of the XDG base directories, unless a folder is named."""
    found = from_environment(options, {"HOME": "/home/me", **environment})

    assert found.data == Path(folder)


def test_a_relative_folder_is_made_absolute() -> None:
    """The serving process and a later restart mean the same folder."""
    found = from_environment({"data": Path("here")}, {})

    assert found.data == Path.cwd() / "here"


def test_without_a_home_the_options_are_named() -> None:
    """Nothing is written to a place that nobody chose."""
    with pytest.raises(ConfigError) as caught:
        from_environment({}, {})

    assert "--data" in str(caught.value)
    assert "--store memory" in str(caught.value)


def test_memory_needs_no_folder() -> None:
    """Nothing is kept."""
    assert from_environment({"store": "memory"}, {}).data is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000", 1000), ("512M", 512 * 1024**2), ("2g", 2 * 1024**3), ("1.5GiB", 3 << 29)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    """Powers of 1024."""
    found = from_environment({"max_resident_state": text, "store": "memory"}, {})

    assert found.max_resident_state == size


def test_idle_state_is_bounded_by_default() -> None:
    """Sequences are parked long before memory is short."""
    found = from_environment({"store": "memory"}, {})

    assert found.max_resident_state == 1024**3


@pytest.mark.parametrize(
    ("options", "environment", "named"),
    [
        ({"port": 70000}, {}, "--port"),
        ({}, {"LEGATO_PORT": "many"}, "LEGATO_PORT"),
        ({"stream_order": "any"}, {}, "--stream-order"),
        ({"extra_ports": [80, -1]}, {}, "--extra-ports"),
        ({}, {"LEGATO_STORE": "cloud"}, "LEGATO_STORE"),
        ({"max_resident_state": "many"}, {}, "--max-resident-state"),
        ({"max_resident_state": "-1M"}, {}, "--max-resident-state"),
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
