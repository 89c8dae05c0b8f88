"""Plain grpcio clients against our gRPC layer on Envoy."""

from __future__ import annotations

import queue
import time

import grpc
import pytest

DEADLINE_S = 20


def bidi(channel, **options):
    """Open the echo stream; return (put, replies, call)."""
    outbox: queue.SimpleQueue = queue.SimpleQueue()
    call = channel.stream_stream("/test.Echo/Stream")(
        iter(outbox.get, None), timeout=DEADLINE_S, **options
    )
    return outbox.put, call, call


def cancelled(channel) -> list[str]:
    """Ask which calls were cancelled so far."""
    return channel.unary_unary("/test.Echo/Cancelled")(b"", timeout=DEADLINE_S).decode().split(",")


def await_cancelled(channel, name: str) -> None:
    """Wait until the server has noticed."""
    until = time.monotonic() + DEADLINE_S
    while name not in cancelled(channel):
        assert time.monotonic() < until, f"the server never noticed that '{name}' was cancelled"
        time.sleep(0.02)


def test_unary(channel) -> None:
    """One message, one answer."""
    assert channel.unary_unary("/test.Echo/Double")(b"ab", timeout=DEADLINE_S) == b"abab"


def test_an_empty_message_is_a_message(channel) -> None:
    """Nothing is still something."""
    assert channel.unary_unary("/test.Echo/Double")(b"", timeout=DEADLINE_S) == b""


def test_client_stream(channel) -> None:
    """Many messages, one answer at the half-close."""
    collect = channel.stream_unary("/test.Echo/Collect")

    assert collect(iter([b"a", b"b", b"c"]), timeout=DEADLINE_S) == b"abc"
    assert collect(iter([]), timeout=DEADLINE_S) == b""


def test_server_stream(channel) -> None:
    """One message, many answers."""
    replies = channel.unary_stream("/test.Echo/Count")(b"300", timeout=DEADLINE_S)

    assert list(replies) == [b"%d" % number for number in range(300)]


def test_bidirectional_stream(channel) -> None:
    """Each message is answered before the next one is sent."""
    put, replies, call = bidi(channel)

    for number in range(50):
        put(b"%d" % number)
        assert next(replies) == b"%d" % number
    put(None)

    assert list(replies) == []
    assert call.code() is grpc.StatusCode.OK
    assert dict(call.initial_metadata())["x-path"] == "/test.Echo/Stream"


def test_pipelined_messages_stay_in_order(channel) -> None:
    """Messages that are sent without waiting come back in order."""
    messages = [b"%d" % number * (number % 50 + 1) for number in range(2000)]

    replies = channel.stream_stream("/test.Echo/Stream")(iter(messages), timeout=DEADLINE_S)

    assert list(replies) == messages


def test_a_message_of_many_chunks_arrives_whole(channel) -> None:
    """Megabytes go both ways."""
    message = bytes(range(256)) * 60_000
    put, replies, _call = bidi(channel)

    put(message)
    assert next(replies) == message
    put(None)


def test_errors_carry_text_and_trailers(channel) -> None:
    """Any text survives the way through a header."""
    put, replies, call = bidi(channel)

    put(b"one")
    put(b"fail")
    assert next(replies) == b"one"
    with pytest.raises(grpc.RpcError):
        next(replies)

    assert call.code() is grpc.StatusCode.ABORTED
    assert call.details() == "as you wish: 100% \u00e9"
    assert dict(call.trailing_metadata())["x-why"] == "asked"


def test_a_bug_in_a_handler_is_internal(channel) -> None:
    """The client learns that it was not its fault, and no more; the server goes on."""
    put, replies, call = bidi(channel)

    put(b"bug")
    with pytest.raises(grpc.RpcError):
        next(replies)

    assert call.code() is grpc.StatusCode.INTERNAL
    assert "ZeroDivision" not in call.details()
    assert channel.unary_unary("/test.Echo/Double")(b"x", timeout=DEADLINE_S) == b"xx"


def test_binary_metadata_goes_both_ways(channel) -> None:
    """Any bytes can be metadata."""
    put, replies, call = bidi(channel, metadata=[("x-raw-bin", b"\x00\xff\x10")])
    put(None)

    assert list(replies) == []
    assert dict(call.trailing_metadata())["x-raw-bin"] == b"\x10\xff\x00"


def test_compression_goes_both_ways(channel) -> None:
    """Gzip is read, and large replies are compressed for those who accept it."""
    message = b"compress me " * 1000

    reply = channel.unary_unary("/test.Echo/Double")(
        message, timeout=DEADLINE_S, compression=grpc.Compression.Gzip
    )

    assert reply == message * 2


def test_an_encoding_that_we_do_not_know_is_unimplemented(channel) -> None:
    """Deflate is refused with a clear text."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/Double")(
            b"x" * 1000, timeout=DEADLINE_S, compression=grpc.Compression.Deflate
        )

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "deflate" in caught.value.details()


@pytest.mark.parametrize("path", ["/test.Echo/Nope", "/no.Service/Double"])
def test_unknown_methods_are_unimplemented(channel, path: str) -> None:
    """The text names the method."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"x", timeout=DEADLINE_S)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert path in caught.value.details()


def test_a_message_over_the_limit_is_refused(channel) -> None:
    """The text says the limit."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/Double")(bytes(33_000_000), timeout=DEADLINE_S)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "32000000" in caught.value.details()


def test_a_deadline_ends_the_call_on_both_sides(channel) -> None:
    """The handler is cancelled too."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/Never")(b"", timeout=0.2, metadata=[("x-name", "late")])

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await_cancelled(channel, "late")


def test_cancelling_a_stream_cancels_its_handler(channel) -> None:
    """A stream that is open is cancelled at once."""
    put, replies, call = bidi(channel, metadata=[("x-name", "open")])
    put(b"x")
    next(replies)

    call.cancel()

    await_cancelled(channel, "open")


def test_cancelling_a_unary_call_cancels_its_handler(channel) -> None:
    """Also when the request had been sent completely."""
    call = channel.unary_unary("/test.Echo/Never").future(
        b"", timeout=DEADLINE_S, metadata=[("x-name", "waiting")]
    )
    channel.unary_unary("/test.Echo/Double")(b"", timeout=DEADLINE_S)

    call.cancel()

    await_cancelled(channel, "waiting")


def test_a_lost_connection_cancels_its_calls(echo, channel) -> None:
    """A client that dies is noticed."""
    with grpc.insecure_channel(echo.address, [("grpc.use_local_subchannel_pool", 1)]) as other:
        put, replies, _call = bidi(other, metadata=[("x-name", "lost")])
        put(b"x")
        next(replies)

    await_cancelled(channel, "lost")


def test_a_paused_stream_loses_nothing(channel) -> None:
    """What is sent while the server pauses is answered afterwards, in order."""
    messages = [b"pause", *(b"%d" % number * 1000 for number in range(500))]

    replies = channel.stream_stream("/test.Echo/Stream")(iter(messages), timeout=DEADLINE_S)

    assert list(replies) == messages


def test_a_client_that_reads_late_gets_everything(channel) -> None:
    """Replies beyond every buffer wait; other calls go on meanwhile."""
    put, replies, _call = bidi(channel)
    put(b"flood 40")
    put(b"after")

    for number in range(20):
        answer = channel.unary_unary("/test.Echo/Double")(b"%d" % number, timeout=DEADLINE_S)
        assert answer == b"%d" % number * 2
    sizes = [len(next(replies)) for _ in range(40)]

    assert sizes == [1_000_000] * 40
    assert next(replies) == b"flood 40"
    assert next(replies) == b"after"
    put(None)


def test_health_and_reflection_are_served(channel) -> None:
    """The standard services answer (field 1 of the health answer is SERVING)."""
    assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5) == b"\x08\x01"
    listing = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    (answer,) = list(listing(iter([b"\x3a\x01*"]), timeout=DEADLINE_S))

    assert b"test.Echo" in answer


def test_watching_health_ends_with_the_client(channel) -> None:
    """A watch tells at once, and goes on until it is cancelled."""
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=DEADLINE_S)

    assert next(watch) == b"\x08\x01"
    watch.cancel()
    with pytest.raises(grpc.RpcError):
        next(watch)
