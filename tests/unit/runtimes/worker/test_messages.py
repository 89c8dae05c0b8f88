"""What the server and a worker say, as plain data and back."""

from __future__ import annotations

import msgspec
import pytest

from legato.core.errors import (
    BusyError,
    ClientError,
    ConfigError,
    InputError,
    ModelError,
    ModelSaysError,
    StateLostError,
)
from legato.runtimes.base import Asked, RowInfo
from legato.runtimes.torchserve.exchange import HandlerError
from legato.runtimes.worker.messages import from_error, from_rows, to_error


@pytest.mark.parametrize(
    "error",
    [
        ClientError("c"), ModelError("m"), BusyError("b"), StateLostError("s"),
        ModelSaysError("n", "not_found"), HandlerError("h", 507),
        InputError("i", reason="shape", tensor="X"), ConfigError("p", file="f", key="k", fix="x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_errors_come_back_as_what_they_were(error) -> None:
    """Kind, text and facts survive the way through MessagePack."""
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(from_error(error)))

    back = to_error(sent)

    assert type(back) is type(error)
    assert str(back) == str(error)
    for fact in ("category", "status", "reason", "key"):
        assert getattr(back, fact, None) == getattr(error, fact, None)


def test_errors_of_models_keep_their_own_text() -> None:
    """What is none of ours is a model's error."""
    back = to_error(from_error(KeyError("x")))

    assert type(back) is ModelError
    assert back.message == "the model failed: KeyError: 'x'"


def test_rows_tell_of_their_requests_where_somebody_asks() -> None:
    """Functions stay behind: the worker has its own."""
    asked = Asked("r", ("Y",), 1, 2, lambda: True)
    rows = [RowInfo("s", 3, True, False, {"a": 1}, None, asked), RowInfo(7, 1, False, True, {})]

    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(from_rows(rows)))

    assert plain == [
        ["s", 3, True, False, {"a": 1}, False, ["r", ["Y"], 1, 2]],
        [7, 1, False, True, {}, False, None],
    ]
