"""What the wire and the worker say to each other."""

from __future__ import annotations

import orjson
import pytest

from legato.core.types import OutputHeader, Reply
from legato.runtimes.torchserve.exchange import Answer, Part, from_reply, pack, to_step, unpack


def test_parts_come_back_as_they_were() -> None:
    """Names, bytes and content types, in order."""
    parts = [Part("data", b"\x00\xff" * 9), Part("ü", b"", "text/plain"), Part("data", b"2")]

    assert unpack(pack(parts)) == parts


@pytest.mark.parametrize("cut", [0, 1, 5, 14])
def test_cut_request_is_refused(cut: int) -> None:
    """Never a shorter body than was sent."""
    whole = pack([Part("data", b"12345")])

    with pytest.raises(ValueError, match="request"):
        unpack(whole[:cut])


def test_step_carries_everything_a_handler_sees() -> None:
    """Body in the input, so that its digest covers it; the rest in parameters."""
    inputs, parameters = to_step([Part("body", b"x", "text/plain")], {"A": "b"}, "id")

    assert unpack(inputs["data"][0]) == [Part("body", b"x", "text/plain")]
    assert parameters == {"headers": {"A": "b"}, "request_id": "id"}


def test_reply_is_read_back() -> None:
    """What the worker put beside the answer arrives."""
    answer = Answer(b"body", 201, "Made", "text/x", {"k": "v"})
    rows = (answer.body, orjson.dumps(answer.meta()))
    reply = Reply(
        (OutputHeader("response", "object", (1,)), OutputHeader("meta", "object", (1,))),
        tuple(len(row).to_bytes(4, "little") + row for row in rows),
        "s",
        1,
        "1.0",
    )

    assert from_reply(reply) == answer
    assert not answer.more
