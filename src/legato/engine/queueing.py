"""How steps of a model without state wait: by priority, for a time, and not too many.

A step of a sequence has its place in its sequence's queue; none of this is for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from legato.core.errors import BacklogTimeoutError, ServerBusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.core.errors import ServerError
    from legato.core.types import Step
    from legato.engine.model import ModelHandle
    from legato.engine.work import Work
    from legato.repository.config import QueueConfig, QueuePolicy

LAST = 1 << 31
"""Priority of a step that waited too long: after all levels."""


class QueueRules:
    """The rules of one model version.

    Args:
        config: What they are.
        fail: Answers a piece of work with an error.
        later: Calls a function after some seconds.
    """

    def __init__(
        self,
        config: QueueConfig,
        fail: Callable[[Work, ServerError], None],
        later: Callable[..., object],
    ) -> None:
        self._config = config
        self._fail = fail
        self._later = later

    def enter(self, handle: ModelHandle, step: Step) -> ServerError | None:
        """Set the priority of a step that wants in, or say why there is no room for it."""
        config = self._config
        if not 1 <= step.priority <= config.levels:
            step.priority = config.default_level
        most = self._policy(step).max_size
        if most:
            waiting = sum(1 for work in handle.scheduler if work.priority == step.priority)
            if waiting >= most:
                return ServerBusyError(most)
        return None

    def watch(self, handle: ModelHandle, work: Work) -> None:
        """Look after a step that waits, if it may not wait for ever."""
        policy = self._policy(work.step)
        limit_s = policy.timeout_s
        asked_s = work.step.queue_timeout_s
        if policy.client_may_say and asked_s and (not limit_s or asked_s < limit_s):
            limit_s = asked_s
        if limit_s:
            self._later(limit_s, self._too_late, handle, work, policy)

    def _policy(self, step: Step) -> QueuePolicy:
        return self._config.by_level.get(step.priority, self._config.default)

    def _too_late(self, handle: ModelHandle, work: Work, policy: QueuePolicy) -> None:
        if all(work is not waiting for waiting in handle.scheduler):
            return  # it runs, or is answered
        handle.scheduler.remove([work])
        if policy.on_timeout == "delay":
            work.priority = LAST
            handle.scheduler.add(work)
        else:
            self._fail(work, BacklogTimeoutError("Request timeout expired"))
