"""Clients that break the rules: each gets a clear end, and the others go on."""

from __future__ import annotations

import gzip
import random
import socket
import struct
import threading

import grpc
import h2.config
import h2.connection
import h2.events
import pytest

TIMEOUT_S = 10
FRAME_BYTES = 16_384
STREAMS = 1100


class RawClient:
    """An HTTP/2 client that sends any bytes as the body of a gRPC request."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self._flush()

    def __enter__(self):
        return self

    def __exit__(self, *_error) -> None:
        self.socket.close()

    def _flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def open(self, path: str = "/test.Echo/Stream", end: bool = False, **changes: str) -> int:
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        fields.update({name.replace("_", "-"): value for name, value in changes.items()})
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, list(fields.items()), end_stream=end)
        self._flush()
        return stream

    def say(self, stream: int, data: bytes, end: bool = False) -> None:
        pieces = [data[i : i + FRAME_BYTES] for i in range(0, len(data), FRAME_BYTES)] or [b""]
        for piece in pieces[:-1]:
            self.h2.send_data(stream, piece)
        self.h2.send_data(stream, pieces[-1], end_stream=end)
        self._flush()

    def reset(self, stream: int) -> None:
        self.h2.reset_stream(stream)
        self._flush()

    def read(self, stream: int) -> tuple[dict[str, str], bytes]:
        """Return all headers and trailers, and the body, of a stream that ends."""
        headers: dict[str, str] = {}
        body = b""
        while True:
            data = self.socket.recv(65536)
            assert data, "the server closed the connection"
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    headers |= dict(event.headers) if event.stream_id == stream else {}
                elif isinstance(event, h2.events.DataReceived) and event.stream_id == stream:
                    body += event.data
                elif (
                    isinstance(event, h2.events.StreamEnded | h2.events.StreamReset)
                    and event.stream_id == stream
                ):
                    self._flush()
                    return headers, body
            self._flush()


@pytest.fixture
def raw(echo):
    with RawClient(echo.port) as client:
        yield client


@pytest.fixture
def neighbour(channel):
    """A well-behaved stream, open before the abuse and used after it."""
    ask, answer = threading.Semaphore(0), []

    def requests():
        yield b"before"
        assert ask.acquire(timeout=TIMEOUT_S)
        yield b"after"

    replies = channel.stream_stream("/test.Echo/Stream")(requests(), timeout=3 * TIMEOUT_S)
    answer.append(next(replies))
    yield
    ask.release()
    answer.append(next(replies))
    assert answer == [b"before", b"after"]


def message(data: bytes, flag: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BI", flag, len(data) if length is None else length) + data


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (message(b"x", flag=7), 13, "flag byte 7"),
        (message(b"x", length=2**32 - 1), 8, "4294967295 bytes"),
        (message(b"x", length=32_000_001), 8, "32000001 bytes"),
        (message(b"abcdef")[:-2], 13, "9 bytes are left over"),
        (b"\x00\x00", 13, "left over"),
        (message(b"not gzip", flag=1), 13, "compressed flag"),
        (b"GET / HTTP/1.1\r\n\r\n", 13, "flag byte 71"),
    ],
    ids=["flag", "4 GiB", "limit", "cut", "header cut", "not compressed", "http 1"],
)
def test_malformed_messages_end_the_call(raw, data: bytes, status: int, text: str) -> None:
    """The status and text say what was wrong with it."""
    stream = raw.open()
    raw.say(stream, data, end=True)

    headers, _body = raw.read(stream)

    assert headers["grpc-status"] == str(status)
    assert text in headers["grpc-message"]


@pytest.mark.usefixtures("neighbour")
def test_messages_before_a_malformed_one_are_answered(raw) -> None:
    """Only the rest of that call is lost."""
    stream = raw.open()
    raw.say(stream, message(b"good") + message(b"bad", flag=9))

    headers, body = raw.read(stream)

    assert body == message(b"good")
    assert headers["grpc-status"] == "13"


@pytest.mark.usefixtures("neighbour")
def test_a_message_byte_by_byte_is_a_message(raw) -> None:
    """How the bytes are cut means nothing."""
    stream = raw.open()
    for byte in message(b"slow"):
        raw.say(stream, bytes([byte]))
    raw.say(stream, b"", end=True)

    headers, body = raw.read(stream)

    assert body == message(b"slow")
    assert headers["grpc-status"] == "0"


@pytest.mark.usefixtures("neighbour")
def test_a_gzip_bomb_is_stopped_at_the_limit(raw) -> None:
    """A message may not grow beyond the limit either."""
    stream = raw.open(grpc_encoding="gzip")
    raw.say(stream, message(gzip.compress(bytes(40_000_000)), flag=1), end=True)

    headers, _body = raw.read(stream)

    assert headers["grpc-status"] == "8"


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"content_type": "application/json"}, "415"),
        ({"content_type": "application/grpc-web+proto"}, "415"),
        ({":method": "GET"}, "405"),
    ],
)
def test_what_is_not_grpc_gets_an_http_status(raw, changes: dict, status: str) -> None:
    """A browser that finds the path learns what it is."""
    stream = raw.open(end=True, **changes)

    headers, body = raw.read(stream)

    assert headers[":status"] == status
    assert b"application/grpc" in body


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("timeout", ["", "soon", "1", "-1S", "123456789S", "5x"])
def test_bad_timeouts_are_refused(raw, timeout: str) -> None:
    """A timeout that cannot be read ends the call before it begins."""
    stream = raw.open(grpc_timeout=timeout, end=True)

    headers, _body = raw.read(stream)

    assert headers["grpc-status"] == "13"
    assert "grpc-timeout" in headers["grpc-message"]


@pytest.mark.usefixtures("neighbour")
def test_streams_opened_and_reset_in_a_storm_do_no_harm(raw) -> None:
    """Half of the calls are reset before their message is whole."""
    for number in range(50):
        stream = raw.open()
        raw.say(stream, message(b"x" * number)[: number + 2])
        raw.reset(stream)
    stream = raw.open()
    raw.say(stream, message(b"still here"), end=True)

    assert raw.read(stream)[1] == message(b"still here")


@pytest.mark.usefixtures("neighbour")
def test_random_bytes_never_stop_the_server(echo) -> None:
    """Garbage as a body, and garbage instead of HTTP."""
    source = random.Random(20261121)
    for _ in range(30):
        with RawClient(echo.port) as client:
            stream = client.open()
            client.say(stream, source.randbytes(source.randrange(1, 3000)), end=True)
            headers, _body = client.read(stream)
            assert headers["grpc-status"] in {"8", "13", "12"}
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", echo.port), TIMEOUT_S) as plain:
            plain.sendall(source.randbytes(200))
    assert echo.process.poll() is None


@pytest.mark.usefixtures("neighbour")
def test_a_compressed_message_that_is_no_gzip_is_refused(raw) -> None:
    """Broken data is the sender's fault, and only this call's end."""
    stream = raw.open(grpc_encoding="gzip")
    raw.say(stream, message(b"this is not gzip", flag=1), end=True)

    assert raw.read(stream)[0]["grpc-status"] == "13"


def test_many_streams_share_one_connection(channel) -> None:
    """More streams than Envoy allows by default (1024), all open at once."""
    stop = threading.Event()

    def requests():
        yield b"x"
        stop.wait(3 * TIMEOUT_S)

    method = channel.stream_stream("/test.Echo/Stream")
    calls = [method(requests(), timeout=3 * TIMEOUT_S) for _ in range(STREAMS)]
    replies = [next(call) for call in calls]
    stop.set()

    assert replies == [b"x"] * STREAMS
    assert [call.code() for call in calls if list(call) == []] == [grpc.StatusCode.OK] * STREAMS
