"""A served model name: its versions and its sequences in memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from legato.core.errors import ModelChangedError, StateDamagedError, UnknownModelError
from legato.core.types import StartOfLive

if TYPE_CHECKING:
    from legato.core.types import CorrelationId, RecordHead, StateRow
    from legato.engine.model import ModelHandle
    from legato.engine.work import Sequence


class Model:
    """Versions of one model, and the sequences of it that are in memory.

    Attributes:
        versions: By version name.
        lingering: Versions that take steps of the sequences that live on them, and no others.
        sequences: By correlation id; only those in memory.
        backlog: New sequences that wait for room.
        creating: First steps under way that are not in the store yet.
        unanswered: Steps taken and not yet answered.
        asking: Sequences that the store has been asked for.
        last_id: Newest id that the server gave.
        preferred: Version that is the default while it is served; "" = the highest one.
        iterative: A request without an id is a sequence of its own.
        default: The version that steps without a version begin on.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.versions: dict[str, ModelHandle] = {}
        self.lingering: list[ModelHandle] = []
        self.sequences: dict[CorrelationId, Sequence] = {}
        self.backlog: deque[Sequence] = deque()
        self.creating = 0
        self.unanswered = 0
        self.asking = 0
        self.last_id = 0
        self.stateful = True
        self.dedupe = False
        self.start_of_live: StartOfLive | None = None
        self.max_live = 0
        self.max_backlog = 0
        self.max_queued_steps = 1
        self.max_queued = 1
        self.max_age_s = 0.0
        self.iterative = False
        self.default: ModelHandle | None = None
        self.preferred = ""

    def add(self, handle: ModelHandle) -> None:
        """Serve a version; the highest one is the default and sets the limits."""
        self.versions[handle.version] = handle
        self._choose_default()

    def remove(self, handle: ModelHandle) -> None:
        """Serve a version no more."""
        if self.versions.get(handle.version) is handle:
            del self.versions[handle.version]
        self._choose_default()

    def linger(self, handle: ModelHandle) -> None:
        """Keep a version for the sequences that live on it."""
        self.remove(handle)
        self.lingering.append(handle)

    def continues(self, old: ModelHandle) -> bool:
        """Tell whether a served version goes on with the state of one that gives way."""
        return any(
            handle.reads(old.digest) and handle.takes_over(old) for handle in self.versions.values()
        )

    def prefer(self, version: str) -> None:
        """Make a version the default, as long as it is served."""
        self.preferred = version
        self._choose_default()

    def _choose_default(self) -> None:
        highest = max(self.versions.values(), key=_by_version, default=None)
        self.default = self.versions.get(self.preferred, highest)
        if self.default is not None:
            limits = self.default.config.sequences
            self.stateful = self.default.stateful
            self.dedupe = limits.dedupe == "request_id"
            rule = limits.start_of_live
            self.start_of_live = None if rule == "dialect" else StartOfLive(rule)
            self.max_live = limits.max_live
            self.max_backlog = limits.max_backlog
            self.max_queued_steps = limits.max_queued_steps
            self.max_queued = self.default.config.max_queued
            self.max_age_s = limits.max_age_s
            self.iterative = limits.iterative

    def handle(self, version: str = "") -> ModelHandle:
        """Find a version; "" = the default.

        Raises:
            UnknownModelError: It is not served.
        """
        found = self.versions.get(version) if version else self.default
        if found is None:
            raise UnknownModelError(self.name, version, unloaded=not self.versions)
        return found

    def pinned(self, sequence: Sequence) -> ModelHandle:
        """Find the version that a sequence read from the store goes on with (D8).

        Raises:
            UnknownModelError: Its version is not served any more.
            ModelChangedError: The version has other content than the one that wrote the state.
            StateDamagedError: The stored state does not fit the model.
        """
        if sequence.head is None or sequence.state is None:
            msg = "a live record has no state"
            raise StateDamagedError(msg)
        return self.fitting(sequence.head, sequence.state)

    def fitting(self, head: RecordHead, state: StateRow) -> ModelHandle:
        """Find the version that goes on with a state.

        Raises:
            UnknownModelError: Its version is not served any more.
            ModelChangedError: The version has other content than the one that wrote the state.
            StateDamagedError: The stored state does not fit the model.
        """
        candidates = [self.versions[head.version]] if head.version in self.versions else []
        candidates += [handle for handle in self.versions.values() if handle not in candidates]
        misfit = False
        for handle in (*candidates, *self.lingering):
            if handle.reads(head.model_digest):
                if handle.batcher.states.fits(state):
                    return handle
                misfit = True
        if misfit:
            msg = "the stored state has other shapes than the model declares"
            raise StateDamagedError(msg)
        if head.version not in self.versions:
            raise UnknownModelError(self.name, head.version, unloaded=True)
        raise ModelChangedError(
            self.name, written_by=head.model_digest, served=self.versions[head.version].digest
        )

    def refresh(self, handle: ModelHandle, live: int) -> None:
        """Bring a version's gauges up to date; ``live`` counts all versions together.

        From counters alone: a million sequences may be resident.
        """
        gauges = handle.statistics
        gauges.live = live
        gauges.backlog = len(self.backlog)
        handles = (*self.versions.values(), *self.lingering)
        scheduled = sum(len(one.scheduler) for one in handles)
        under_way = sum(one.statistics.running + one.statistics.committing for one in handles)
        held_back = max(0, self.unanswered - scheduled - under_way)
        gauges.queued = len(handle.scheduler) + held_back
        busy = scheduled + under_way + len(self.backlog) + self.asking if self.stateful else 0
        gauges.waiting = max(0, busy - gauges.running)


def _by_version(handle: ModelHandle) -> tuple[int, str]:
    return (int(handle.version), "") if handle.version.isdecimal() else (-1, handle.version)
