"""Microseconds of the KServe converters: request bytes to step, reply to bytes.

Run ``python bench/micro_kserve.py``. No server and no engine take part: the stream's
handler is given bytes, a stand-in engine answers at once, and the call drops what it
is sent. Shown is the best of several rounds, since other work on the machine only adds.
"""

from __future__ import annotations

import sys
import timeit
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from legato.core.types import KSERVE, OutputHeader, Reply, Step
from legato.protocols.kserve.from_core import ReplyWriter
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.infer import Door, InferStream
from legato.protocols.kserve.to_core import fill

if TYPE_CHECKING:
    from collections.abc import Callable

SEQUENCES = 32
STEPS = 64
HEADERS = (OutputHeader("OUTPUT", "float32", (1, 1)),)


class AnsweringEngine:
    """Answers each step at once."""

    def submit(self, step: Step) -> None:
        """Answer."""
        step.done(Reply(HEADERS, (b"\0\0\0\0",), step.correlation_id or 0, 7, "1"))


class DroppingCall:
    """A call that sends nothing."""

    deadline = None
    metadata: ClassVar[dict[str, str]] = {}
    closed = False

    def send(self, message: bytes) -> None:
        """Drop it."""


def request(sequence: int, step: int, *, numbered: bool, values: int) -> bytes:
    """Return one request as a client sends it."""
    message = pb.ModelInferRequest(model_name="accumulator", id=f"{sequence}-{step}")
    parameters = message.parameters
    parameters["sequence_id"].int64_param = 1_000_000 + sequence
    parameters["sequence_start"].bool_param = step == 1
    parameters["sequence_end"].bool_param = False
    if numbered:
        parameters["sequence_step"].int64_param = step
    message.inputs.add(name="INPUT", datatype="FP32", shape=[1, values])
    message.outputs.add(name="OUTPUT")
    message.raw_input_contents.append(b"\0" * 4 * values)
    return message.SerializeToString()


def requests(*, numbered: bool, values: int) -> list[bytes]:
    """Return the interleaved steps of all sequences."""
    return [
        request(sequence, step, numbered=numbered, values=values)
        for step in range(1, STEPS + 1)
        for sequence in range(SEQUENCES)
    ]


def microseconds(run: Callable[[], None], each: int) -> float:
    """Return the best time of ``run``, divided by the number of steps in it."""
    return min(timeit.repeat(run, number=1, repeat=30)) / each * 1e6


def main() -> None:
    """Measure and print."""
    for numbered, values in ((False, 1), (True, 1), (True, 512)):
        wire = requests(numbered=numbered, values=values)
        what = f"{'numbered' if numbered else 'plain'} steps, {values} float32"

        def parse(wire: list[bytes] = wire) -> None:
            for data in wire:
                fill(Step("", None, {}, KSERVE), data)

        def through(wire: list[bytes] = wire) -> None:
            stream = InferStream(Door(AnsweringEngine(), "sequence"), DroppingCall())
            for data in wire:
                stream.message(data)

        print(f"{what:28} request -> step        {microseconds(parse, len(wire)):6.2f} us")
        print(f"{what:28} request -> reply bytes {microseconds(through, len(wire)):6.2f} us")
    for streamed in (True, False):
        writer = ReplyWriter("accumulator", streamed=streamed)
        replies = [Reply(HEADERS, (b"\0\0\0\0",), 5, step, "1") for step in range(2, 1002)]

        def build(writer: ReplyWriter = writer, replies: list[Reply] = replies) -> None:
            for reply in replies:
                writer.write(reply, "7-12")

        kind = "streamed" if streamed else "unary"
        print(f"{kind:28} reply -> bytes          {microseconds(build, len(replies)):6.2f} us")


if __name__ == "__main__":
    main()
