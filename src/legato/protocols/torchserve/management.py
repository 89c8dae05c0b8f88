"""What both management APIs do; they differ only in how they are asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from legato.observe.log import get_logger
from legato.protocols.torchserve import errors
from legato.protocols.torchserve.describe import describe
from legato.protocols.torchserve.errors import Failure
from legato.protocols.torchserve.jobs import Job, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from legato.protocols.torchserve.jobs import Door
    from legato.protocols.torchserve.registry import Registered, Wish
    from legato.runtimes.torchserve.exchange import Answer

log = get_logger()

SCALING = "Processing worker updates..."


class Done(NamedTuple):
    """What to tell the client.

    Attributes:
        status: HTTP status.
        text: The status text.
    """

    status: int
    text: str


class Management:
    """Registers, scales and describes models.

    Args:
        door: Where a handler is asked to describe itself.
        model_api: Clients may register and unregister.
    """

    def __init__(self, door: Door, *, model_api: bool) -> None:
        self.door = door
        self.registry = door.registry
        self.model_api = model_api

    async def register(self, wish: Wish, *, synchronous: bool) -> Done:
        """Register a model; without workers, or synchronously, the answer comes when it is done.

        Raises:
            Failure: It cannot be done, or is not allowed.
        """
        if not self.model_api:
            raise errors.model_api_off()
        if not wish.url:
            raise errors.bad_request("Parameter url is required.")
        if synchronous or not wish.workers:
            return Done(200, await self.registry.register(wish))
        self._later(self.registry.register(wish))
        return Done(202, SCALING)

    async def unregister(self, name: str, version: str) -> str:
        """Unregister a version.

        Raises:
            Failure: It cannot be done, or is not allowed.
        """
        if not self.model_api:
            raise errors.model_api_off()
        return await self.registry.unregister(name, version)

    async def scale(
        self, name: str, version: str, least: int, most: int, *, synchronous: bool
    ) -> Done:
        """Change the number of workers.

        Raises:
            Failure: It cannot be done.
        """
        self.registry.find(name, version)
        if most < least:
            raise errors.bad_request("max_worker cannot be less than min_worker.")
        work = self.registry.scale(name, version, least, most)
        if synchronous:
            return Done(200, await work)
        self._later(work)
        return Done(202, SCALING)

    def _later(self, work: Awaitable[str]) -> None:
        async def run() -> None:
            try:
                await work
            except Failure as error:
                log.error("model_not_changed", problem=error.message)  # noqa: TRY400 - told

        self.door.run(run())

    async def describe(
        self, name: str, version: str, *, customized: bool = False
    ) -> list[dict[str, Any]]:
        """Describe one version, or ``all``.

        Raises:
            Failure: It is not registered.
        """
        if version == "all":
            found = self.registry.versions(name)
        else:
            found = [self.registry.find(name, version)]
        made = []
        for one in found:
            metadata = await self._ask(one) if customized and one.handle is not None else None
            made.append(describe(one, metadata))
        return made

    async def _ask(self, one: Registered) -> object:
        """Ask the handler; a model with sequences gets one of a single step."""
        answered: asyncio.Future[Answer | Failure] = asyncio.get_running_loop().create_future()

        def done(_job: Job, outcome: Answer | Failure) -> None:
            if not answered.done():
                answered.set_result(outcome)

        request = Request(one.name, one.version, [], {"describe": "True"})
        request.start = request.end = True
        Job(self.door, request, done).begin()
        outcome = await answered
        if isinstance(outcome, Failure):
            raise outcome
        try:
            return orjson.loads(outcome.body)
        except orjson.JSONDecodeError:
            return outcome.body.decode("utf-8", "replace")
