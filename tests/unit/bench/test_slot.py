"""A place in a load: sequences one after another, and sums that must be right."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from legato.bench.load import Check, Load, LoadError
from legato.bench.slot import Slot
from legato.bench.wire import Template, Tensor
from legato.protocols.kserve.gen import kserve_pb2 as pb

LOAD = Load("h:1", "adder", sequences=2, length=3, spread=0, first_id=100, check=Check.SUM)
TEMPLATE = Template(LOAD, [Tensor("x", "FP32", (1, 1))])


def slot(load: Load = LOAD, index: int = 1) -> Slot:
    return Slot(load, TEMPLATE, index, ("FP32", 1))


def read(data: bytes) -> tuple[int, bool, bool, float]:
    message = pb.ModelInferRequest.FromString(data)
    parameters = message.parameters
    return (
        parameters["sequence_id"].int64_param,
        parameters["sequence_start"].bool_param,
        parameters["sequence_end"].bool_param,
        struct.unpack("<f", message.raw_input_contents[0])[0],
    )


def test_sequences_follow_one_another_with_ids_of_their_own() -> None:
    """After the last step of a sequence, the next request starts another one."""
    one = slot()
    seen = []

    for _step in range(6):
        seen.append(read(one.request())[:3])
        one.answered(b"")

    assert seen == [
        (101, True, False), (101, False, False), (101, False, True),
        (103, True, False), (103, False, False), (103, False, True),
    ]  # fmt: skip
    assert one.sequences == 2


def test_running_sums_are_right_answers() -> None:
    """The answer to each step is the sum of what the sequence has sent so far."""
    one = slot()
    verdicts = []

    for _sequence in range(2):
        total = 0.0
        for _step in range(3):
            total += read(one.request())[3]
            verdicts.append(one.answered(struct.pack("<f", total)))

    assert verdicts == [True] * 6


def test_state_of_another_sequence_is_a_wrong_answer() -> None:
    """Two places that get each other's sums notice."""
    first, second = slot(index=0), slot(index=1)
    sums = [read(one.request())[3] for one in (first, second)]

    assert not first.answered(struct.pack("<f", sums[1]))
    assert not second.answered(struct.pack("<f", sums[0]))


@pytest.mark.parametrize("raw", [b"", b"\0\0\0", b"\0" * 8])
def test_answer_of_another_size_is_wrong(raw: bytes) -> None:
    """An output that is missing, torn or too long is no right sum."""
    one = slot()
    one.request()

    assert not one.answered(raw)


def test_unchecked_answers_are_never_wrong() -> None:
    """Without a check, anything goes."""
    one = slot(replace(LOAD, check=Check.NONE))
    one.request()

    assert one.answered(b"anything")


def test_failed_sequence_is_given_up() -> None:
    """The request after a failure starts another sequence with a sum of its own."""
    one = slot()
    one.request()
    one.failed()

    correlation_id, start, _, amount = read(one.request())

    assert (correlation_id, start) == (103, True)
    assert one.answered(struct.pack("<f", amount))


def test_no_request_id_comes_twice() -> None:
    """Servers may take equal request ids for repeats; the first part names the place."""
    one = slot()

    ids = []
    for _step in range(7):
        ids.append(pb.ModelInferRequest.FromString(one.request()).id)
        one.answered(b"")

    assert ids == [f"1-{number}" for number in range(1, 8)]


def test_last_request_ends_its_sequence_early() -> None:
    """A load that stops leaves no sequence open."""
    one = slot()

    ended = read(one.request(last=True))[2]
    one.answered(b"")

    assert ended
    assert (one.number, one.sequences) == (0, 1)


def test_sums_need_a_data_type_that_has_them() -> None:
    """Text has no sum."""
    with pytest.raises(LoadError, match="BYTES"):
        Slot(LOAD, TEMPLATE, 0, ("BYTES", 1))
