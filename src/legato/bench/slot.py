"""One place in a load: sequences follow one another in it, a step at a time. Pure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from legato.bench.load import Check, LoadError
from legato.bench.wire import VARIANTS

if TYPE_CHECKING:
    from legato.bench.load import Load
    from legato.bench.wire import Template

SUMS: Final = {
    "FP16": "e", "FP32": "f", "FP64": "d", "INT32": "i", "INT64": "q", "UINT32": "I", "UINT64": "Q",
}  # fmt: skip
"""Data types of outputs that sums are checked in."""


class Slot:
    """Makes the requests of one sequence after another and judges the answers.

    Args:
        load: The load.
        template: Its requests.
        index: Number of this slot among all slots of the load.
        output: Data type and number of elements of the model's first output.

    Raises:
        LoadError: Sums are to be checked in a data type that has none.

    Attributes:
        name: What the ids of its requests begin with.
        number: Number of the step made last, 0 between sequences.
        sequences: Sequences completed.
    """

    __slots__ = (
        "_begin", "_checked", "_count", "_length", "_load", "_next_ordinal", "_ordinal", "_pack",
        "_prefix", "_serial", "_template", "_total", "name", "number", "sequences",
    )  # fmt: skip

    def __init__(self, load: Load, template: Template, index: int, output: tuple[str, int]) -> None:
        self._load = load
        self._template = template
        datatype, self._count = output
        if load.check is Check.SUM and datatype not in SUMS:
            raise LoadError(f"sums cannot be checked in an output of data type {datatype}")
        self._pack = struct.Struct(f"<{self._count}{SUMS.get(datatype, 'x')}").pack
        self._checked = load.check is Check.SUM
        self._ordinal = self._next_ordinal = index
        self._length = 0
        self._begin = b""
        self._total = 0
        self._prefix = b"%d" % index
        self._serial = 0
        self.name = str(index)
        self.number = 0
        self.sequences = 0

    def __repr__(self) -> str:
        return f"<Slot {self.name} sequence={self._ordinal} step={self.number}/{self._length}>"

    def request(self, *, last: bool = False) -> bytes:
        """Return the next request; ``last`` ends the sequence with it."""
        if not self.number:
            self._begin_sequence()
        self.number += 1
        # Sequences begin at different places of the walk, so that their sums differ.
        variant = (self._ordinal * 5 + self.number) % VARIANTS
        if self._checked:
            self._total += self._template.amounts[variant]
        end = last or self.number >= self._length
        if end:
            self._length = self.number
        self._serial += 1
        name = b"%s-%d" % (self._prefix, self._serial)  # a request id is never used twice
        return self._template.step(self._begin, name, self.number, variant, end=end)

    def _begin_sequence(self) -> None:
        load = self._load
        ordinal = self._ordinal = self._next_ordinal
        self._next_ordinal += load.sequences
        self._length = load.length_of(ordinal)
        self._begin = self._template.sequence(load.id_of(ordinal))
        self._total = 0

    def answered(self, raw: bytes) -> bool:
        """Take a good answer; whether it says what it must."""
        right = not self._checked or raw == self._pack(*[self._total] * self._count)
        if self.number >= self._length:
            self.number = 0
            self.sequences += 1
        return right

    def failed(self) -> None:
        """Give the sequence up: the next request begins another one."""
        self.number = 0
