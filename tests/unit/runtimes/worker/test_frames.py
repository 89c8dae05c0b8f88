"""Frames between server and worker: small arrays inline, large ones by shared memory."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest

from legato.runtimes.worker.frames import Channel, ChannelClosedError


@pytest.fixture
def pair():
    """Two ends of a channel; arrays of 256 bytes and more are shared."""
    ends = [Channel(sock, shared_from=256) for sock in socket.socketpair()]
    yield ends
    for end in ends:
        end.close()


def objects(*values: bytes):
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize("size", [0, 1, 31, 32, 100_000])
def test_arrays_arrive_as_they_were(pair, size: int) -> None:
    """Whatever way they take; other layouts than C too."""
    here, there = pair
    sent = {
        "a": np.arange(size, dtype=np.float64),
        "b": np.arange(size * 2, dtype=np.int16).reshape(2, size).T,
        "c": objects(b"", b"x" * size),
        "d": np.array(3, np.uint64),
    }

    here.send({"kind": "t"}, {"inputs": sent})
    message, data = there.receive()
    got = there.arrays(message["inputs"], data)

    assert message["kind"] == "t"
    for name, value in sent.items():
        assert got[name].dtype == value.dtype
        assert got[name].shape == value.shape
        assert np.array_equal(got[name], value)


def test_received_arrays_cannot_be_written(pair) -> None:
    """A model that changes its inputs is told so."""
    here, there = pair
    here.send({}, {"g": {"a": np.zeros(4), "b": np.zeros(400)}})

    got = there.arrays(*_group(there.receive()))

    assert not any(array.flags.writeable for array in got.values())


def _group(received):
    message, data = received
    return message["g"], data


def test_area_grows_and_is_used_again(pair) -> None:
    """Later frames, larger and smaller, are right; each way has an area of its own."""
    here, there = pair

    for size in (400, 300_000, 500, 400_000):
        here.send({}, {"g": {"a": np.full(size, size)}})
        (array,) = there.arrays(*_group(there.receive())).values()
        there.send({}, {"g": {"back": array * 2}})
        (back,) = here.arrays(*_group(here.receive())).values()
        assert array.size == size
        assert (back == size * 2).all()


def test_a_closed_end_is_told_at_once(pair) -> None:
    """Whoever waits for a dead worker waits no longer."""
    here, there = pair
    there.close()

    with pytest.raises(ChannelClosedError):
        here.receive()


def test_deadline_ends_a_wait(pair) -> None:
    """Monotonic seconds that have passed are too late already."""
    with pytest.raises(TimeoutError):
        pair[0].receive(0.0)


@pytest.mark.parametrize("cut", [1, 9, 12])
def test_a_frame_that_comes_in_parts_outlives_a_deadline(cut: int) -> None:
    """In its head, between head and body, in its body: the next call goes on from there."""
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours, shared_from=256), socket.socketpair()
    sender.send({"kind": "ready"}, {"a": {"x": np.arange(3)}})
    raw = theirs.recv(1 << 16)
    channel = Channel(receiver[0], shared_from=256)

    receiver[1].sendall(raw[:cut])
    with pytest.raises(TimeoutError):
        channel.receive(time.monotonic() + 0.01)
    receiver[1].sendall(raw[cut:] + raw)
    found = [channel.receive(time.monotonic() + 5) for _ in range(2)]

    assert [message["kind"] for message, _data in found] == ["ready", "ready"]
    assert all(
        channel.arrays(message["a"], data)["x"].tolist() == [0, 1, 2] for message, data in found
    )
    for end in (sender, channel, theirs, receiver[1]):
        end.close()


def test_noise_is_refused() -> None:
    """What cannot be understood is as good as a closed end."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours, shared_from=256)
    theirs.sendall(b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\xc1")

    with pytest.raises(ChannelClosedError, match="cannot be read"):
        channel.receive()
    channel.close()
    theirs.close()


def test_only_plain_data_goes_into_a_message(pair) -> None:
    """Nothing is pickled; what is no data is refused before anything is sent."""
    with pytest.raises(TypeError):
        pair[0].send({"x": object()})

    pair[0].send({"x": 1})
    assert pair[1].receive()[0] == {"x": 1}
