"""Sequences from outside: everything that sees or changes a record without a step.

Each change is one call of the store, in turn with the commits of steps, so a step in
flight meets it whole or not at all. Afterwards the copy in memory is released; a step
that still runs on it finds its incarnation gone and is decided again (D4, D5).
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from legato.core.errors import (
    ClientError,
    ConflictError,
    ModelChangedError,
    RecreatedError,
    SequenceExistsError,
    ServerError,
    StateDamagedError,
    StoreUnavailableError,
    UnknownModelError,
    UnknownSequenceError,
)
from legato.core.ids import is_reserved, snapshot_key, snapshot_of, snapshots_of
from legato.core.types import Ending, EndReason, RecordHead, SequenceKey
from legato.engine.refusals import NotAtStepError, SnapshotExistsError, UnknownSnapshotError
from legato.stores.base import Conflict, Damaged, Duplicate, Gone, Listed, Missing, Ok

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from legato.core.types import CorrelationId, StateRow
    from legato.engine.engine import Engine
    from legato.engine.model import ModelHandle
    from legato.stores.base import CommitResult, Store

T = TypeVar("T")

MOST_A_PAGE = 1000
"""Rows of one page."""

_SLICE = 256  # rows looked at in one turn of the store
_MOST_LOOKED_AT = 64 * _SLICE  # rows looked at for one page, however few of them match
_INCARNATION_BYTES = 16


@dataclass(frozen=True, slots=True)
class Wish:
    """Which sequences a listing shows. Zero, empty and ``None`` leave a limit out.

    Attributes:
        model: Of this model.
        min_age_s, max_age_s: Seconds since it was made.
        min_idle_s, max_idle_s: Seconds since its last step.
        min_bytes, max_bytes: Bytes of state.
        min_step, max_step: Steps applied.
        dialect: Protocol that it was opened in.
        resident: In memory, or parked.
        id_prefix: Beginning of the id, written as text.
    """

    model: str = ""
    min_age_s: float = 0.0
    max_age_s: float | None = None
    min_idle_s: float = 0.0
    max_idle_s: float | None = None
    min_bytes: int = 0
    max_bytes: int | None = None
    min_step: int = 0
    max_step: int | None = None
    dialect: str = ""
    resident: bool | None = None
    id_prefix: str = ""

    def takes(self, row: Listed, *, resident: bool, now: float) -> bool:
        """Whether a row is wanted."""
        head = row.head
        return (
            self.min_age_s <= max(0.0, now - head.created) <= _or_all(self.max_age_s)
            and self.min_idle_s <= row.idle_s <= _or_all(self.max_idle_s)
            and self.min_bytes <= row.state_bytes <= _or_all(self.max_bytes)
            and self.min_step <= head.step <= _or_all(self.max_step)
            and self.dialect in ("", head.dialect)
            and self.resident in (None, resident)
            and str(row.key.correlation_id).startswith(self.id_prefix)
        )


def _or_all(limit: float | None) -> float:
    return float("inf") if limit is None else limit


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing.

    Attributes:
        rows: Perhaps fewer than asked for, perhaps none.
        after: Where to go on; 0 = this was the end.
    """

    rows: list[Listed]
    after: int


class Manager:
    """Sees and changes sequences of one engine.

    Args:
        engine: Started.
        wall: Wall-clock seconds, for ages.
    """

    def __init__(self, engine: Engine, *, wall: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.wall = wall

    def __repr__(self) -> str:
        return f"<Manager of {self.engine!r}>"

    # -- seeing -------------------------------------------------------------------------

    async def page(self, wish: Wish, limit: int = 100, after: int = 0) -> Page:
        """List live sequences, oldest first. Never reads a state.

        Args:
            wish: Which ones.
            limit: Rows wanted, at most :data:`MOST_A_PAGE`.
            after: ``after`` of the page before.
        """
        if wish.model:
            self.known(wish.model)
        now = self.wall()

        def takes(row: Listed) -> bool:
            return wish.takes(row, resident=self.engine.resident(row.key), now=now)

        return await self._walk(wish.model or None, takes, min(limit, MOST_A_PAGE), after)

    async def snapshots(
        self, model: str, correlation_id: CorrelationId | None = None, after: int = 0
    ) -> Page:
        """List the snapshots of a model, or of one sequence, oldest first."""
        self.known(model)

        def takes(row: Listed) -> bool:
            found = snapshot_of(row.key.correlation_id)
            if found is None or correlation_id is None:
                return found is not None
            return _same_id(found.correlation_id, correlation_id)

        return await self._walk(snapshots_of(model), takes, MOST_A_PAGE, after)

    async def look(self, key: SequenceKey) -> Listed | RecordHead:
        """Look at one sequence: a live one, or the head (with its ending) of one that is over.

        Raises:
            UnknownSequenceError: Nothing is known of it.
            StateDamagedError: Its record cannot be trusted.
        """
        found = await self._do(lambda store: store.look(_checked(key)))
        if isinstance(found, Missing) and found.head is not None:
            return found.head
        return self._live(key, found)

    async def read(self, key: SequenceKey, snapshot: str = "") -> tuple[RecordHead, StateRow]:
        """Read head and committed state of a live sequence, or of one of its snapshots.

        Raises:
            UnknownSequenceError: It is not live.
            UnknownSnapshotError: It has no such snapshot.
            StateDamagedError: Its record cannot be trusted.
        """
        where = _frozen(key, snapshot) if snapshot else _checked(key)
        found = await self._do(lambda store: store.read(where))
        if isinstance(found, tuple) and not isinstance(found, Missing):
            return found
        if snapshot and isinstance(found, Missing):
            raise UnknownSnapshotError(key.correlation_id, snapshot)
        raise self._absent(key, found)

    def known(self, model: str) -> None:
        """Check that a model is served, or has sequences of an earlier time.

        Raises:
            UnknownModelError: Neither.
            ClientError: It carries no state.
        """
        try:
            handle = self.engine.model(model)
        except UnknownModelError:
            store = self.engine.store
            if not store.live(model) and not store.live(snapshots_of(model)):
                raise
            return
        if not handle.stateful:
            raise ClientError(f"model '{model}' carries no state, so it has no sequences")

    # -- ending -------------------------------------------------------------------------

    async def end(
        self,
        key: SequenceKey,
        reason: EndReason = EndReason.ENDED,
        incarnation: bytes = b"",
    ) -> Ending:
        """End a sequence without a step. Safe to repeat with the incarnation.

        Raises:
            UnknownSequenceError: It is not live; tells what became of it.
            RecreatedError: It lives in another incarnation than the one given.
        """

        def act(store: Store) -> tuple[Any, CommitResult | None]:
            found = store.look(_checked(key))
            if not isinstance(found, Listed):
                return found, None
            if incarnation and found.head.incarnation != incarnation:
                raise RecreatedError(key.correlation_id)
            return found, store.delete(key, found.head.incarnation, reason)

        found, result = await self._do(act)
        if isinstance(found, Missing) and found.head is not None and incarnation:
            ending = found.head.ending
            if found.head.incarnation == incarnation and ending is not None:
                return ending
        live = self._live(key, found)
        if isinstance(result, Gone):
            raise self._absent(key, Missing(replace(live.head, ending=result.ending)))
        self.engine.ended(key, live.head.version, reason)
        return Ending(reason, live.head.step, self.wall())

    # -- branching ----------------------------------------------------------------------

    async def snapshot(
        self, key: SequenceKey, name: str = "", *, at_step: int = 0, ttl_s: float = 0.0
    ) -> Listed:
        """Freeze the committed state under a name; it outlives its sequence.

        Args:
            key: A live sequence.
            name: ``step-N`` if none is given.
            at_step: Only if it is at this step; 0 = wherever it is.
            ttl_s: Seconds that the snapshot is kept; 0 = until it is deleted.

        Raises:
            UnknownSequenceError: It is not live.
            SnapshotExistsError: The name is taken.
            NotAtStepError: It is at another step.
        """

        def act(store: Store) -> Any:
            live = self._at(key, store.look(_checked(key)), at_step)
            target = _frozen(key, name or f"step-{live.head.step}")
            result = store.fork(key, live.head.step, target, _drawn(), ttl_s)
            return target, result, store.look(target)

        target, result, made = await self._do(act)
        if isinstance(result, Conflict):
            found = snapshot_of(target.correlation_id)
            raise SnapshotExistsError(key.correlation_id, found.name if found else "", result.step)
        self._insist(result)
        return self._live(target, made)

    async def delete_snapshot(self, key: SequenceKey, name: str) -> None:
        """Delete a snapshot.

        Raises:
            UnknownSnapshotError: There is none of this name.
        """
        target = _frozen(key, name)

        def act(store: Store) -> CommitResult:
            found = store.look(target)
            if isinstance(found, Damaged):
                raise StateDamagedError(f"snapshot '{name}' cannot be trusted: {found.problem}")
            if not isinstance(found, Listed):
                raise UnknownSnapshotError(key.correlation_id, name)
            return store.delete(target, found.head.incarnation, EndReason.ENDED)

        await self._do(act)

    async def fork(
        self,
        key: SequenceKey,
        target: CorrelationId,
        *,
        snapshot: str = "",
        at_step: int = 0,
        ttl_s: float | None = None,
    ) -> Listed:
        """Make a second sequence from the committed state of one, or from a snapshot of it.

        Args:
            key: The source; it need not live any more where a snapshot is named.
            target: Id of the new sequence.
            snapshot: Name of a snapshot; "" = the current state.
            at_step: Only if that is of this step; 0 = of any.
            ttl_s: Idle limit of the new sequence; ``None`` = that of the source, of a
                snapshot's the model's.

        Raises:
            UnknownSequenceError: The source is not live.
            UnknownSnapshotError: There is no such snapshot.
            SequenceExistsError: The target lives already.
            SequenceLimitError: The model has no room for one more.
            NotAtStepError: The source is at another step.
        """
        to = _checked(SequenceKey(key.model, target))
        limit = self.engine.room(key.model)
        if limit is not None:
            raise limit
        idle_s = ttl_s
        if snapshot and ttl_s is None:
            idle_s = self._usual_ttl(key.model)

        def act(store: Store) -> Any:
            source = _frozen(key, snapshot) if snapshot else _checked(key)
            live = self._at(key, store.look(source), at_step, snapshot)
            result = store.fork(source, live.head.step, to, _drawn(), idle_s)
            return result, store.look(to)

        result, made = await self._do(act)
        if isinstance(result, Conflict):
            raise SequenceExistsError(target, result.step)
        self._insist(result)
        return self._began(to, made)

    async def rollback(self, key: SequenceKey, snapshot: str, incarnation: bytes = b"") -> Listed:
        """Put a live sequence back to a snapshot of it, as a new incarnation.

        Steps in flight find the old incarnation gone and are decided again: those with a
        number are told which step is expected now.

        Raises:
            UnknownSequenceError: It is not live; a fork of the snapshot makes it again.
            UnknownSnapshotError: There is no such snapshot.
            RecreatedError: It lives in another incarnation than the one given.
        """

        def act(store: Store) -> Any:
            old = self._live(key, store.look(_checked(key)))
            if incarnation and old.head.incarnation != incarnation:
                raise RecreatedError(key.correlation_id)
            source = _frozen(key, snapshot)
            frozen = self._at(key, store.look(source), 0, snapshot)
            result = store.fork(
                source, frozen.head.step, key, _drawn(), old.head.ttl_s,
                replaces=old.head.incarnation,
            )  # fmt: skip
            return old, result, store.look(key)

        old, result, made = await self._do(act)
        self._insist(result)
        self.engine.ended(key, old.head.version, EndReason.ROLLED_BACK)
        return self._began(key, made)

    async def put(self, key: SequenceKey, head: RecordHead, state: StateRow) -> Listed:
        """Make a sequence from a head and a state that came from elsewhere.

        It becomes a new incarnation at the head's step.

        Raises:
            SequenceExistsError: The id lives already.
            SequenceLimitError: The model has no room for one more.
            UnknownModelError: The model, or the version, is not served.
            ModelChangedError: The state was written by a model of other content.
            ClientError: The state does not fit the model.
        """
        self.known(key.model)
        limit = self.engine.room(key.model)
        if limit is not None:
            raise limit
        handle = self.fitting(_checked(key).model, head, state)
        record = replace(
            head, incarnation=_drawn(), epoch=0, ending=None, version=handle.version,
            model_digest=handle.digest,
        )  # fmt: skip
        result, made = await self._do(
            lambda store: (store.put(key, record, state), store.look(key))
        )
        if isinstance(result, Conflict):
            raise SequenceExistsError(key.correlation_id, result.step)
        self._insist(result)
        return self._began(key, made)

    # -- inside ------------------------------------------------------------------------------

    async def _do(self, function: Callable[[Store], T]) -> T:
        """Call the store in turn with the steps; what it throws becomes a server error."""
        try:
            result: T = await self.engine.manage(function)
        except (ServerError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise StoreUnavailableError(
                f"the store did not answer, and it is not known what it did: {error}",
                retry_after_s=0.5,
            ) from error
        return result

    async def _walk(
        self, group: str | None, takes: Callable[[Listed], bool], limit: int, after: int
    ) -> Page:
        """Look at rows in short turns, so that steps go on between them."""
        rows: list[Listed] = []
        walk: Iterator[Listed] | None = None

        def part(store: Store) -> list[Listed]:
            nonlocal walk
            walk = store.list(group, after=after) if walk is None else walk
            return list(islice(walk, _SLICE))

        for _turn in range(_MOST_LOOKED_AT // _SLICE):
            found = await self._do(part)
            for row in found:
                after = row.order
                if takes(row):
                    rows.append(row)
                    if len(rows) >= limit:
                        return Page(rows, after)
            if len(found) < _SLICE:
                return Page(rows, 0)
            await asyncio.sleep(0)
        return Page(rows, after)

    def _began(self, key: SequenceKey, made: Listed | Missing | Damaged) -> Listed:
        live = self._live(key, made)
        self.engine.began(key, live.head.version)
        return live

    def _live(self, key: SequenceKey, found: Listed | Missing | Damaged) -> Listed:
        if isinstance(found, Listed):
            return found
        raise self._absent(key, found)

    def _absent(self, key: SequenceKey, found: Any) -> ServerError:
        if isinstance(found, Damaged):
            return StateDamagedError(
                f"the record of sequence {key.correlation_id!r} cannot be trusted: {found.problem}"
            )
        ending = found.head.ending if isinstance(found, Missing) and found.head else None
        ago_s = None if ending is None else max(0.0, self.wall() - ending.at)
        return UnknownSequenceError(key.correlation_id, ending, ago_s)

    def _at(
        self,
        key: SequenceKey,
        found: Listed | Missing | Damaged,
        at_step: int,
        snapshot: str = "",
    ) -> Listed:
        """The source of a branch, checked."""
        if snapshot and isinstance(found, Missing):
            raise UnknownSnapshotError(key.correlation_id, snapshot)
        live = self._live(key, found)
        if at_step and live.head.step != at_step:
            raise NotAtStepError(key.correlation_id, at_step, live.head.step)
        return live

    def fitting(self, model: str, head: RecordHead, state: StateRow) -> ModelHandle:
        """Find the served version that a state from elsewhere fits (D8).

        Raises:
            UnknownModelError: The model is not served.
            ModelChangedError: No version of it has the content that wrote the state.
            ClientError: The state has other shapes.
        """
        try:
            return self.engine.fitting(model, head, state)
        except StateDamagedError as error:  # here it is not the store that is at fault
            raise ClientError(f"the state does not fit model '{model}': {error.message}") from None
        except UnknownModelError:
            # No version has this content; tell by which one the state would have to be.
            served = self.engine.model(model)
            raise ModelChangedError(
                model, written_by=head.model_digest, served=served.digest
            ) from None

    def _usual_ttl(self, model: str) -> float:
        try:
            return self.engine.model(model).config.sequences.idle_timeout_s
        except UnknownModelError:
            return 0.0

    @staticmethod
    def _insist(result: CommitResult) -> None:
        """A branch was made; anything else means that another node was quicker."""
        if not isinstance(result, Ok | Duplicate):
            raise ConflictError("the sequence was moved meanwhile; try again", retry_after_s=0.05)


def _drawn() -> bytes:
    return os.urandom(_INCARNATION_BYTES)


def _checked(key: SequenceKey) -> SequenceKey:
    if is_reserved(key.correlation_id):
        raise ClientError("an id of a snapshot is no sequence; name the sequence and the snapshot")
    return key


def _frozen(key: SequenceKey, name: str) -> SequenceKey:
    # It becomes part of paths, where a slash and dots alone mean something else.
    fits = 0 < len(name) <= _LONGEST_NAME and name.isprintable() and "/" not in name
    if not fits or name in {".", ".."}:
        raise ClientError(
            f"a snapshot's name is 1 to {_LONGEST_NAME} printable characters without '/', "
            "and not '.' or '..'"
        )
    return snapshot_key(_checked(key), name)


_LONGEST_NAME = 100


def _same_id(one: CorrelationId, other: CorrelationId) -> bool:
    return type(one) is type(other) and one == other
