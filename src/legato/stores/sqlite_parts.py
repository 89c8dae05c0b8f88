"""States that grow, in SQLite: a step writes what it adds, and what lies behind stays.

The row of a sequence holds its newest record, as for any other. If that says only what its
step changed (:mod:`legato.stores.grown`), the records behind it are rows of the table
``parts``, oldest first, the first of them with a whole state. A whole record takes the
place of them all when they are as much as the last one.

The table is made when the first state grows. Its file then has tables of version 2, which
those who know version 1 alone refuse.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from legato.stores import codec
from legato.stores.codec import GROW, PUT, RecordError
from legato.stores.grown import Link, combine, decode_growth, encode_grown

if TYPE_CHECKING:
    from legato.core.pages import GrownRow
    from legato.stores.codec import Record
    from legato.stores.sqlite_file import SqliteFile

MOST_PARTS = 512
"""Records that one state may consist of."""


class Parts:
    """The table of records behind the newest ones."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def add(self, row: int, before: bytes, record: Record, state: GrownRow) -> bytes | None:
        """Put the newest record of a row behind a next one, which says what a step changed.

        Inside a transaction.

        Args:
            row: The sequence's row.
            before: Its newest record.
            record: What the next one says besides the state.
            state: The state after the step; it says what changed.

        Returns:
            The next record, or ``None`` where a whole one is due.
        """
        count, size, base = 0, 0, len(before)
        if self._file.grown:
            ((count, size, base),) = self._file.rows(
                "SELECT count(*), ifnull(sum(size), 0), ifnull((SELECT size FROM parts"
                " WHERE sequence = ?1 ORDER BY number LIMIT 1), ?2) FROM parts WHERE sequence = ?1",
                (row, len(before)),
            )
        link = Link(state.nbytes, 0, 0, len(before), codec.read_checksum(before), count + 1)
        head = record.head
        constants = codec.encode_constants(
            head,
            owner=record.owner,
            origin=record.origin,
            before=record.before,
            before_ending=record.before_ending,
        )
        blob = b"".join(
            encode_grown(
                record.serial, codec.encode_key(record.key), constants, head.epoch, head.step,
                record.touched, head.receipts, link, state,
            )
        )  # fmt: skip
        added = size - base + len(before) if count else 0
        if count >= MOST_PARTS or added + len(blob) > base:
            return None
        self._file.make_parts()
        self._file.run("INSERT INTO parts VALUES (?, ?, ?, ?)", (row, count, len(before), before))
        return blob

    def drop(self, row: int) -> None:
        """Forget what lies behind a row; inside a transaction."""
        if self._file.grown:
            self._file.run("DELETE FROM parts WHERE sequence = ?", (row,))

    def whole(self, row: int, record: Record) -> Record:
        """Give the record with its whole state.

        Raises:
            RecordError: A part is missing, damaged, or not what it was.
        """
        if record.kind != GROW:
            return record
        newest, growths = record, []
        found = self._file.rows(
            "SELECT record FROM parts WHERE sequence = ? ORDER BY number DESC", (row,)
        )
        for (blob,) in found:
            growths.append(decode_growth(record.growth))
            before = codec.decode_record(blob)
            if codec.read_checksum(blob) != growths[-1].link.checksum:
                raise RecordError("a part of its state is not what it was")
            same = before.key == newest.key and before.head.incarnation == newest.head.incarnation
            if not same or before.head.step >= record.head.step:
                raise RecordError("another record lies where its state goes on from")
            record = before
            if record.kind == PUT:
                break
        if record.state is None:
            raise RecordError("a part of its state is missing")
        try:
            state = combine(record.state, growths[::-1])
        except struct.error as error:
            raise RecordError(f"its state cannot be put together: {error}") from error
        return newest._replace(kind=PUT, state=state, growth=b"")
