"""Three keys in a file."""

from __future__ import annotations

import json
import stat

import pytest

from legato.protocols.torchserve.tokens import Tokens


class Wall:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def tokens(tmp_path, wall) -> Tokens:
    made = Tokens(tmp_path / "key_file.json", 60, wall)
    made.create()
    return made


def keys(tokens: Tokens) -> dict[str, str]:
    return {kind: entry["key"] for kind, entry in json.loads(tokens._file.read_text()).items()}


def test_the_file_has_three_keys_that_only_its_owner_reads(tokens) -> None:
    """Two of them expire, at an ISO instant."""
    found = json.loads(tokens._file.read_text())

    assert list(found) == ["management", "inference", "API"]
    assert all(len(entry["key"]) == 8 for entry in found.values())
    assert found["inference"]["expiration time"] == "2023-11-14T23:13:20Z"
    assert "expiration time" not in found["API"]
    assert stat.S_IMODE(tokens._file.stat().st_mode) == 0o600


def test_a_key_is_good_for_its_own_api_only(tokens) -> None:
    """The management key does not open inference, nor the other way round."""
    found = keys(tokens)

    assert tokens.allows("inference", f"Bearer {found['inference']}")
    assert not tokens.allows("inference", f"Bearer {found['management']}")
    assert not tokens.allows("API", f"Bearer {found['inference']}")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic x", "Bearer \udcff"])
def test_anything_else_is_refused(tokens, header) -> None:
    """Also what cannot be a key."""
    assert not tokens.allows("inference", header)


def test_a_key_expires_and_can_be_renewed(tokens, wall) -> None:
    """The API key does not; the file is rewritten."""
    old = keys(tokens)
    wall.now += 3600

    expired = tokens.allows("inference", f"Bearer {old['inference']}")
    tokens.renew("inference")

    assert not expired
    assert tokens.allows("API", f"Bearer {old['API']}")
    assert tokens.allows("inference", f"Bearer {keys(tokens)['inference']}")
    assert keys(tokens)["management"] == old["management"]


def test_a_process_that_follows_takes_the_keys_of_the_file(tokens, wall) -> None:
    """Clients keep their keys when the serving process was started again."""
    follower = Tokens(tokens._file, 60, wall)

    follower.load()

    assert follower.allows("management", f"Bearer {keys(tokens)['management']}")


def test_a_broken_file_is_replaced(tmp_path, wall) -> None:
    """New keys, never none."""
    file = tmp_path / "key_file.json"
    file.write_text("{}")
    tokens = Tokens(file, 60, wall)

    tokens.load()

    assert tokens.allows("API", f"Bearer {keys(tokens)['API']}")
