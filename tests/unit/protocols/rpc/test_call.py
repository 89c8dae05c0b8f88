"""One call: messages in, replies out, and every way to end."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import pytest
from tests.unit.protocols.rpc.fake import FakeStream, turn

from legato.protocols.rpc.app import RpcApp
from legato.protocols.rpc.framing import frame
from legato.protocols.rpc.service import Method, RpcError, Service, Status, unary

if TYPE_CHECKING:
    from legato.protocols.rpc.service import Call


class Recorder:
    """A handler that writes down what happens; ``error`` is raised by the next message."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.got: list[object] = []
        self.error: Exception | None = None

    def message(self, data: bytes) -> None:
        self.got.append(data)
        if self.error is not None:
            raise self.error

    def half_close(self) -> None:
        self.got.append("half_close")

    def cancel(self) -> None:
        self.got.append("cancel")


class Bench:
    """An app with a method of each kind, and the handlers it made."""

    def __init__(self, **options: object) -> None:
        self.handlers: list[Recorder] = []
        methods = {
            "Bidi": Method(self.make, client_streaming=True, server_streaming=True),
            "Unary": Method(self.make, client_streaming=False, server_streaming=False),
            "Small": Method(self.make, True, True, max_message_bytes=10),
        }
        self.app = RpcApp([Service("t.S", methods)], **options)

    def make(self, call: Call) -> Recorder:
        self.handlers.append(Recorder(call))
        return self.handlers[-1]

    async def open(self, name: str, **headers: str) -> tuple[FakeStream, Recorder]:
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        stream = FakeStream(f"/t.S/{name}", names)
        await self.app(stream.scope, stream.receive, stream.send)
        return stream, self.handlers[-1] if self.handlers else None


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_replies_of_one_turn_leave_in_one_send(bench: Bench) -> None:
    """Replies queued together are one chunk; the head goes before the first."""
    stream, handler = await bench.open("Bidi")

    for text in (b"a", b"b", b"c"):
        handler.call.send(text)
    await turn()

    assert [event["type"] for event in stream.sent] == ["http.response.start", "http.response.body"]
    assert stream.replies == [b"a", b"b", b"c"]


async def test_all_calls_of_a_turn_are_flushed(bench: Bench) -> None:
    """Several calls that became dirty in one turn each get their chunk."""
    opened = [await bench.open("Bidi") for _ in range(3)]

    for number, (_stream, handler) in enumerate(opened):
        handler.call.send(b"%d" % number)
    await turn()

    assert [stream.replies for stream, _ in opened] == [[b"0"], [b"1"], [b"2"]]


async def test_messages_arrive_however_they_are_cut(bench: Bench) -> None:
    """Joined messages come one by one, a split one when it is whole."""
    stream, handler = await bench.open("Bidi")

    stream.say(b"one", b"two", raw=frame(b"three")[:4])
    await turn()
    assert handler.got == [b"one", b"two"]
    stream.say(raw=frame(b"three")[4:], more=False)
    await turn()

    assert handler.got == [b"one", b"two", b"three", "half_close"]


async def test_one_receive_is_outstanding_at_all_times(bench: Bench) -> None:
    """The reader is re-armed once for each event, and not after the half-close."""
    stream, _handler = await bench.open("Bidi")

    for _ in range(4):
        stream.say(b"x")
        await turn()
    assert stream.waiting is not None
    stream.say(more=False)
    await turn()

    assert stream.receives == 5
    assert stream.waiting is None


async def test_finish_sends_what_is_queued_and_the_trailers(bench: Bench) -> None:
    """A finished call has body, status and trailers; later replies go nowhere."""
    stream, handler = await bench.open("Bidi")

    handler.call.send(b"last")
    handler.call.finish(trailers=[("x-note", "bye"), ("x-bin", "\xff")])
    handler.call.send(b"late")
    handler.call.finish(Status.INTERNAL)
    await turn()

    assert stream.replies == [b"last"]
    assert stream.trailers == {"grpc-status": "0", "x-note": "bye", "x-bin": "/w"}
    assert [event["type"] for event in stream.sent].count("http.response.trailers") == 1


async def test_an_error_without_replies_is_trailers_only(bench: Bench) -> None:
    """The status of a call without replies stands in its head."""
    stream, handler = await bench.open("Bidi")

    handler.call.finish(Status.NOT_FOUND, "no \u00e9 100%", [("legato-step", "3")])

    assert stream.head["grpc-status"] == "5"
    assert stream.head["grpc-message"] == "no %C3%A9 100%25"
    assert stream.head["legato-step"] == "3"
    assert [event["type"] for event in stream.sent] == ["http.response.start", "http.response.body"]


async def test_initial_metadata_goes_with_the_head(bench: Bench) -> None:
    """Headers set before the first reply are sent, later ones are too late."""
    stream, handler = await bench.open("Bidi")

    handler.call.set_header("x-first", "1")
    handler.call.send(b"a")
    await turn()
    handler.call.set_header("x-second", "2")

    assert stream.head == {"content-type": "application/grpc", "x-first": "1"}


async def test_metadata_can_be_read(bench: Bench) -> None:
    """Text and binary metadata reach the handler."""
    _stream, handler = await bench.open("Bidi", x_name="v", x_raw_bin="AAE")

    assert handler.call.metadata["x-name"] == "v"
    assert handler.call.binary_metadata("x-raw-bin") == b"\x00\x01"
    assert handler.call.binary_metadata("x-none-bin") is None


async def test_a_unary_method_answers_one_message() -> None:
    """A function that answers is all that a unary method needs."""

    def double(call: Call, data: bytes) -> None:
        call.send(data * 2)
        call.finish()

    app = RpcApp([Service("t.S", {"Double": unary(double)})])
    stream = FakeStream("/t.S/Double")
    await app(stream.scope, stream.receive, stream.send)
    stream.say(b"ab", more=False)
    await turn()

    assert stream.replies == [b"abab"]
    assert stream.status == 0
    assert len(stream.sent) == 3


@pytest.mark.parametrize("messages", [(), (b"a", b"b")], ids=["none", "two"])
async def test_a_unary_method_takes_exactly_one_message(
    bench: Bench, messages: tuple[bytes, ...]
) -> None:
    """Any other number is UNIMPLEMENTED, and the handler never gets one."""
    stream, handler = await bench.open("Unary")

    stream.say(*messages, more=False)
    await turn()

    assert stream.status == Status.UNIMPLEMENTED
    assert "takes one message" in stream.trailers["grpc-message"]
    assert handler.got == ["cancel"]


async def test_an_rpc_error_ends_the_call(bench: Bench) -> None:
    """An error raised by the handler becomes the status; then it is cancelled."""
    stream, handler = await bench.open("Bidi")
    handler.error = RpcError(Status.INVALID_ARGUMENT, "bad", [("legato-step", "2")])

    stream.say(b"x", b"never seen")
    await turn()

    assert stream.status == Status.INVALID_ARGUMENT
    assert stream.trailers["legato-step"] == "2"
    assert handler.got == [b"x", "cancel"]


async def test_an_unexpected_error_tells_nothing_of_the_inside(bench: Bench) -> None:
    """A bug in a handler is INTERNAL without details, and the call is over."""
    stream, handler = await bench.open("Bidi")
    handler.error = KeyError("secret")

    stream.say(b"x")
    await turn()

    assert stream.status == Status.INTERNAL
    assert "secret" not in stream.trailers["grpc-message"]


async def test_replies_before_an_error_are_delivered(bench: Bench) -> None:
    """A malformed message ends the call after the replies queued so far."""
    stream, handler = await bench.open("Bidi")

    handler.call.send(b"reply")
    stream.say(raw=b"\x09\x00\x00\x00\x00")
    await turn()

    assert stream.replies == [b"reply"]
    assert stream.status == Status.INTERNAL
    assert handler.got == ["cancel"]


async def test_a_request_that_ends_within_a_message_is_an_error(bench: Bench) -> None:
    """Half a message at the half-close is INTERNAL."""
    stream, handler = await bench.open("Bidi")

    stream.say(raw=frame(b"whole")[:-1], more=False)
    await turn()

    assert stream.status == Status.INTERNAL
    assert "9 bytes are left over" in stream.trailers["grpc-message"]
    assert "half_close" not in handler.got


async def test_a_method_may_have_its_own_limit(bench: Bench) -> None:
    """The limit of the method counts, not that of the app."""
    stream, handler = await bench.open("Small")

    stream.say(b"x" * 10, b"x" * 11)
    await turn()

    assert stream.status == Status.RESOURCE_EXHAUSTED
    assert handler.got == [b"x" * 10, "cancel"]


# -- compression ------------------------------------------------------------------------


async def test_compressed_requests_are_read(bench: Bench) -> None:
    """With grpc-encoding gzip, each message says whether it is compressed."""
    stream, handler = await bench.open("Bidi", grpc_encoding="gzip")
    packed = gzip.compress(b"packed")

    stream.say(b"plain", raw=b"\x01" + len(packed).to_bytes(4, "big") + packed)
    await turn()

    assert handler.got == [b"plain", b"packed"]


async def test_an_unknown_encoding_is_refused_with_those_known(bench: Bench) -> None:
    """The client learns what it may use instead."""
    stream, _ = await bench.open("Bidi", grpc_encoding="brotli")

    assert stream.status == Status.UNIMPLEMENTED
    assert stream.head["grpc-accept-encoding"] == "identity,gzip"
    assert bench.handlers == []


async def test_a_compressed_flag_without_an_encoding_is_malformed(bench: Bench) -> None:
    """The flag is only allowed when an encoding was named."""
    stream, _handler = await bench.open("Bidi")

    stream.say(raw=b"\x01\x00\x00\x00\x01x")
    await turn()

    assert stream.status == Status.INTERNAL


@pytest.mark.parametrize(("accepts", "flag"), [("gzip", 1), ("deflate, gzip", 1), ("identity", 0)])
async def test_large_replies_are_compressed_for_those_who_accept_it(
    accepts: str, flag: int
) -> None:
    """Small replies never are."""
    stream, handler = await Bench(compress_above=10).open("Bidi", grpc_accept_encoding=accepts)

    handler.call.send(b"small")
    handler.call.send(b"x" * 1000)
    await turn()

    body = stream.sent[1]["body"]
    assert body[0] == 0
    assert body[10] == flag
    assert ("grpc-encoding" in stream.head) is bool(flag)


# -- time and cancellation ------------------------------------------------------------------


async def test_the_deadline_ends_the_call(bench: Bench) -> None:
    """The handler is cancelled, the client hears DEADLINE_EXCEEDED."""
    stream, handler = await bench.open("Bidi", grpc_timeout="1n")

    async with asyncio.timeout(5):
        while not handler.got:
            await turn()

    assert stream.status == Status.DEADLINE_EXCEEDED
    assert handler.got == ["cancel"]
    assert handler.call.closed


async def test_a_finished_call_has_no_deadline_any_more(bench: Bench) -> None:
    """The timer is cancelled with the call."""
    _stream, handler = await bench.open("Bidi", grpc_timeout="1H")
    assert handler.call.deadline is not None

    handler.call.finish()

    assert handler.call._timer is None


async def test_a_bad_timeout_is_refused(bench: Bench) -> None:
    """The call does not begin."""
    stream, _ = await bench.open("Bidi", grpc_timeout="soon")

    assert stream.status == Status.INTERNAL
    assert bench.handlers == []


async def test_a_client_that_leaves_cancels_the_call(bench: Bench) -> None:
    """Nothing is sent any more."""
    stream, handler = await bench.open("Bidi")

    handler.call.send(b"queued")
    stream.leave()
    await turn()
    handler.call.send(b"late")
    handler.call.finish()
    await turn()

    assert handler.got == ["cancel"]
    assert all(event["type"] != "http.response.trailers" for event in stream.sent)


async def test_a_failed_send_cancels_the_call(bench: Bench) -> None:
    """A client that left after its half-close is noticed by the next reply."""
    stream, handler = await bench.open("Bidi")
    stream.say(more=False)
    await turn()

    stream.gone = True
    handler.call.send(b"a")
    await turn()
    handler.call.send(b"b")
    await turn()

    assert handler.got == ["half_close", "cancel"]


async def test_a_half_closed_call_can_be_asked_whether_its_client_is_there(bench: Bench) -> None:
    """Asking finds a client that left while it waited for its answer."""
    stream, handler = await bench.open("Bidi")
    stream.say(more=False)
    await turn()

    handler.call.poll()
    stream.say(more=False)  # pyvoy: "nothing more" again, while the client is there
    await turn()
    assert handler.got == ["half_close"]
    handler.call.poll()
    stream.leave()
    await turn()

    assert handler.got == ["half_close", "cancel"]


# -- flow control ------------------------------------------------------------------------------


async def test_a_paused_call_hands_over_nothing(bench: Bench) -> None:
    """What has come waits, in order, and no further event is asked for."""
    stream, handler = await bench.open("Bidi")

    handler.call.pause()
    stream.say(b"a")
    stream.say(b"b")
    await turn()
    assert handler.got == []
    assert stream.events != []
    handler.call.resume()
    await turn()

    assert handler.got == [b"a", b"b"]


async def test_pausing_within_a_chunk_stops_after_that_message(bench: Bench) -> None:
    """A handler that has enough gets no more, though more has come."""
    stream, handler = await bench.open("Bidi")
    take = handler.message
    handler.message = lambda data: (take(data), handler.call.pause())

    stream.say(b"a", b"b", b"c", more=False)
    await turn()
    assert handler.got == [b"a"]
    for _ in range(3):
        handler.call.resume()
        await turn()

    assert handler.got == [b"a", b"b", b"c", "half_close"]


async def test_a_paused_call_still_notices_that_its_client_left(bench: Bench) -> None:
    """The outstanding receive tells."""
    stream, handler = await bench.open("Bidi")

    handler.call.pause()
    stream.leave()
    await turn()

    assert handler.got == ["cancel"]


async def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """Beyond the mark the call is congested; it goes on when the client reads."""
    stream, handler = await Bench(max_unsent_bytes=100).open("Bidi")
    stream.hold = True

    handler.call.send(b"x" * 60)
    await turn()
    assert not handler.call.congested
    handler.call.send(b"x" * 60)
    await turn()
    assert handler.call.congested
    stream.say(b"waits")
    await turn()
    assert handler.got == []
    stream.write()
    await turn()

    assert not handler.call.congested
    assert handler.got == [b"waits"]


async def test_a_congested_client_that_leaves_is_cancelled() -> None:
    """Unwritten replies do not keep a call alive."""
    stream, handler = await Bench(max_unsent_bytes=10).open("Bidi")
    stream.hold = True

    handler.call.send(b"x" * 60)
    await turn()
    stream.leave()
    await turn()

    assert handler.got == ["cancel"]
