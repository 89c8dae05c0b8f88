"""What the sequence API does: from a request to an answer, for REST and gRPC alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from legato.archive.sequence import Archive, pack, tensors_of, unpack
from legato.core.errors import ClientError, ServerError, UnknownModelError
from legato.core.ids import id_from_text, id_to_text, snapshot_of
from legato.core.types import EndReason, RecordHead, SequenceKey
from legato.engine.manage import Manager, Wish
from legato.protocols.sequences import messages as m
from legato.stores.base import Listed
from legato.stores.rules import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.engine.engine import Engine
    from legato.recorder.recorder import Recorder

_REASONS = {
    "": EndReason.ENDED,
    "ended": EndReason.ENDED,
    "cancelled": EndReason.CANCELLED,
    "evicted": EndReason.EVICTED,
}
_LONGEST_CURSOR = 18


class Api:
    """The operations. Every one may raise a :class:`~legato.core.errors.ServerError`.

    Args:
        engine: Whose sequences.
        recorder: Records steps.
        wall: Wall-clock seconds.
    """

    def __init__(
        self, engine: Engine, recorder: Recorder, *, wall: Callable[[], float] = time.time
    ) -> None:
        self.engine = engine
        self.recorder = recorder
        self.manager = Manager(engine, wall=wall)
        self._wall = wall

    def __repr__(self) -> str:
        return f"<Api of {self.engine!r}>"

    # -- seeing -------------------------------------------------------------------------

    async def list_sequences(self, ask: m.ListRequest) -> m.ListResponse:
        """List live sequences, oldest first, in pages; never reads a state."""
        wish = Wish(
            model=ask.model,
            min_age_s=ask.min_age_s,
            max_age_s=ask.max_age_s,
            min_idle_s=ask.min_idle_s,
            max_idle_s=ask.max_idle_s,
            min_bytes=ask.min_bytes,
            max_bytes=ask.max_bytes,
            min_step=ask.min_step,
            max_step=ask.max_step,
            dialect=ask.dialect,
            resident=None if not ask.residence else ask.residence == "resident",
            id_prefix=ask.id_prefix,
        )
        page = await self.manager.page(wish, ask.limit, _after(ask.cursor))
        rows = [self._sequence(row.key, row) for row in page.rows]
        return m.ListResponse(sequences=rows, cursor=_cursor(page.after))

    async def describe(self, ask: m.DescribeRequest) -> m.DescribeResponse:
        """Describe a live sequence, or one that is over, for as long as that is kept."""
        key = _key(ask)
        found = await self.manager.look(key)
        answer = m.DescribeResponse(sequence=self._sequence(key, found))
        answer.snapshots = [
            _snapshot(row)
            for row in (await self.manager.snapshots(key.model, key.correlation_id)).rows
        ]
        if isinstance(found, Listed):
            answer.states = self._states(key.model, found.head.version)
            if self.recorder.wants(key):
                answer.recording = self._recording(key)
        return answer

    async def read_state(self, ask: m.ReadStateRequest) -> m.ReadStateResponse:
        """Read state tensors, of now or of a snapshot."""
        archive = await self._archive(_key(ask), ask.snapshot)
        wanted = [name for name in ask.names.split(",") if name]
        known = {tensor.name: tensor for tensor in archive.tensors}
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ClientError(f"no state is named '{unknown[0]}'; there are {', '.join(known)}")
        return m.ReadStateResponse(
            step=archive.head.step,
            incarnation=archive.head.incarnation.hex(),
            model_digest=archive.head.model_digest,
            tensors=[_tensor(known[name]) for name in wanted or known],
        )

    async def list_snapshots(self, ask: m.ListSnapshotsRequest) -> m.ListSnapshotsResponse:
        """List snapshots of a sequence (live or not), or of all sequences of a model."""
        of = _id(ask.id) if ask.id else None
        page = await self.manager.snapshots(ask.model, of, _after(ask.cursor))
        return m.ListSnapshotsResponse(
            snapshots=[_snapshot(row) for row in page.rows], cursor=_cursor(page.after)
        )

    # -- changing -----------------------------------------------------------------------

    async def end(self, ask: m.EndRequest) -> m.EndResponse:
        """End a sequence without a step."""
        ending = await self.manager.end(
            _key(ask), _REASONS[ask.reason], _incarnation(ask.incarnation)
        )
        return m.EndResponse(status=_status(ending.reason), step=ending.step, at=ending.at)

    async def snapshot(self, ask: m.SnapshotRequest) -> m.SnapshotResponse:
        """Freeze the committed state under a name."""
        made = await self.manager.snapshot(
            _key(ask), ask.name, at_step=ask.at_step, ttl_s=ask.ttl_s
        )
        return m.SnapshotResponse(snapshot=_snapshot(made))

    async def delete_snapshot(self, ask: m.DeleteSnapshotRequest) -> m.DeleteSnapshotResponse:
        """Delete a snapshot."""
        await self.manager.delete_snapshot(_key(ask), ask.name)
        return m.DeleteSnapshotResponse()

    async def fork(self, ask: m.ForkRequest) -> m.ForkResponse:
        """Make a second sequence."""
        made = await self.manager.fork(
            _key(ask), _id(ask.target), snapshot=ask.snapshot, at_step=ask.at_step,
            ttl_s=ask.ttl_s,
        )  # fmt: skip
        return m.ForkResponse(sequence=self._sequence(made.key, made))

    async def rollback(self, ask: m.RollbackRequest) -> m.RollbackResponse:
        """Put a sequence back to a snapshot."""
        made = await self.manager.rollback(_key(ask), ask.snapshot, _incarnation(ask.incarnation))
        return m.RollbackResponse(sequence=self._sequence(made.key, made))

    # -- out and in -----------------------------------------------------------------------

    async def export(self, ask: m.ExportRequest) -> m.ExportResponse:
        """Write the committed state, or a snapshot, as a file."""
        archive = await self._archive(_key(ask), ask.snapshot)
        return m.ExportResponse(file=pack(archive), step=archive.head.step)

    async def import_(self, ask: m.ImportRequest) -> m.ImportResponse:
        """Make a sequence of a file."""
        archive = unpack(ask.file)
        cid = _id(ask.id) if ask.id else archive.key.correlation_id
        key = SequenceKey(ask.model, cid)
        head = archive.head
        if ask.ttl_s is not None:
            head.ttl_s = ask.ttl_s
        if head.level not in LEVELS:
            head.level = ""
        if (type(cid), cid) != (type(archive.key.correlation_id), archive.key.correlation_id):
            head.receipts = ()  # a retry meant for that sequence is none of this one
        # Content first: names and shapes that agree say nothing about another model.
        handle = self.manager.fitting(ask.model, head, archive.state)
        made = await self.manager.put(key, head, archive.fit(handle.signature.states))
        return m.ImportResponse(sequence=self._sequence(key, made))

    async def record(self, ask: m.RecordRequest) -> m.RecordResponse:
        """Begin or stop recording the steps of a live sequence."""
        key = _key(ask)
        found = await self.manager.look(key)
        if not isinstance(found, Listed):
            await self.manager.read(key)  # says how it ended
        if ask.on:
            self.recorder.start(key)
        else:
            self.recorder.stop(key)
        return m.RecordResponse(recording=self._recording(key))

    # -- inside ------------------------------------------------------------------------------

    async def _archive(self, key: SequenceKey, snapshot: str) -> Archive:
        head, state = await self.manager.read(key, snapshot)
        handle = self.engine.fitting(key.model, head, state)
        return Archive(key, head, tensors_of(state, handle.signature.states))

    def _sequence(self, key: SequenceKey, found: Listed | RecordHead) -> m.Sequence:
        now = self._wall()
        head = found.head if isinstance(found, Listed) else found
        ending = head.ending
        made = m.Sequence(
            model=key.model,
            id=id_to_text(key.correlation_id),
            status="live" if ending is None else _status(ending.reason),
            step=head.step,
            incarnation=head.incarnation.hex(),
            version=head.version,
            model_digest=head.model_digest,
            dialect=head.dialect,
            created=head.created,
            age_s=max(0.0, now - head.created),
            ttl_s=head.ttl_s,
            level=head.level,
        )
        if isinstance(found, Listed):
            made.idle_s, made.state_bytes = max(0.0, found.idle_s), found.state_bytes
            made.resident = self.engine.resident(key)
            made.waiting = self.engine.waiting(key)
            made.recording = self.recorder.wants(key)
        elif ending is not None:
            made.ended_at, made.ended_ago_s = ending.at, max(0.0, now - ending.at)
        return made

    def _states(self, model: str, version: str) -> list[m.StateInfo]:
        try:
            handle = self.engine.model(model, version)
        except UnknownModelError:
            return []
        return [
            m.StateInfo(name=spec.name, dtype=spec.dtype, shape=[*spec.shape])
            for spec in handle.signature.states
        ]

    def _recording(self, key: SequenceKey) -> m.Recording:
        track = self.recorder.track(key)
        if track is None:
            return m.Recording(on=self.recorder.wants(key))
        return m.Recording(
            on=self.recorder.wants(key) and not track.problem,
            file=self.recorder.shown(track.file),
            steps=track.steps,
            lost=track.lost,
            problem=track.problem,
        )


def _snapshot(row: Listed) -> m.Snapshot:
    found = snapshot_of(row.key.correlation_id)
    if found is None:
        raise ServerError("a listing of snapshots holds a sequence")
    return m.Snapshot(
        model=row.key.model,
        id=id_to_text(found.correlation_id),
        name=found.name,
        step=row.head.step,
        state_bytes=row.state_bytes,
        created=row.head.created,
        ttl_s=row.head.ttl_s,
        model_digest=row.head.model_digest,
    )


def _tensor(tensor: Any) -> m.Tensor:
    values = np.frombuffer(tensor.data, np.dtype(tensor.dtype))
    return m.Tensor(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=[*tensor.shape],
        data=tensor.data,
        values=values.astype(float).tolist() if len(values) <= m.MOST_VALUES else [],
        digest=xxh3_64_hexdigest(tensor.data),
    )


def _status(reason: EndReason) -> str:
    return reason.name.lower()


# -- reading requests ---------------------------------------------------------------------


def _key(ask: Any) -> SequenceKey:
    return SequenceKey(ask.model, _id(ask.id))


def _id(text: str) -> int | str:
    try:
        return id_from_text(text)
    except ValueError as error:
        raise ClientError(f"the id cannot be read: {error}") from None


def _incarnation(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b"?"
    if len(raw) not in (0, 16):
        raise ClientError(f"an incarnation has 32 hex digits, not {text[:40]!r}")
    return raw


def _after(cursor: str) -> int:
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= _LONGEST_CURSOR):
        raise ClientError("the cursor is not one that this server gave")
    return int(cursor)


def _cursor(after: int) -> str:
    return str(after) if after else ""
