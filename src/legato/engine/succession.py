"""Versions that give way: none begins on them any more, those that live on them go on.

A reload would otherwise cut off every live sequence whose state the new content cannot
read (D8). The version that gives way stays loaded, unseen, until the last sequence
pinned to it is over.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from legato.observe.log import get_logger
from legato.stores.base import Listed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from legato.core.types import SequenceKey
    from legato.engine.model import ModelHandle
    from legato.engine.table import Model
    from legato.stores.base import Store

log = get_logger()

_PAGE = 1000
_GRACE_S = 60.0
"""Seconds after which no first step that was under way at the change is under way still."""


class Succession:
    """Looks after the versions that give way.

    Args:
        manage: Calls the store in turn with the steps.
        retire: Frees a version.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        manage: Callable[[Callable[[Store], Any]], Awaitable[Any]],
        retire: Callable[[ModelHandle], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._manage = manage
        self._retire = retire
        self._clock = clock

    def give_way(self, model: Model, handle: ModelHandle) -> None:
        """Begin nothing on a version from now on."""
        handle.pinned = {}  # a first step that is under way is noted here when it is committed
        handle.gave_way_at = self._clock()
        model.linger(handle)

    async def find_pinned(self, model: Model, handle: ModelHandle) -> None:
        """Note who lives on a version that gave way."""
        if handle.pinned is None:
            return
        after = 0
        while rows := await self._manage(partial(_page, model=model.name, after=after)):
            after = rows[-1].order
            for row in rows:
                if (row.head.version, row.head.model_digest) == (handle.version, handle.digest):
                    handle.pinned[row.key] = row.head.incarnation
        handle.searched = True
        log.info(
            "version_gave_way",
            model=handle.name,
            version=handle.version,
            digest=handle.digest,
            sequences=len(handle.pinned),
        )

    async def look_after(self, model: Model) -> None:
        """Free the versions that no sequence lives on any more."""
        for handle in list(model.lingering):
            if await self._is_over(model, handle):
                model.lingering.remove(handle)
                await self._retire(handle)
                log.info("version_freed", model=handle.name, version=handle.version)

    async def _is_over(self, model: Model, handle: ModelHandle) -> bool:
        pinned = handle.pinned
        if pinned is None or not handle.searched:
            return False
        for key in list(islice(pinned, _PAGE)):
            if await self._manage(partial(_lives, key=key, incarnation=pinned[key])):
                return False
            del pinned[key]
        if pinned:
            return False
        return not model.creating or self._clock() - handle.gave_way_at > _GRACE_S


def _page(store: Store, *, model: str, after: int) -> list[Listed]:
    return list(islice(store.list(model, after=after), _PAGE))


def _lives(store: Store, *, key: SequenceKey, incarnation: bytes) -> bool:
    found = store.look(key)
    return isinstance(found, Listed) and found.head.incarnation == incarnation
