"""``MicroBatching``: takes a batch through a handler in parts, its stages side by side."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MicroBatching"]

STAGES: Final = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """Stands for a handler's ``handle``: while one part is computed, the next is prepared.

    Args:
        parent_handler: Has the three stages.
        micro_batch_size: Rows of a part.
        parallelism: Threads of each stage, 1 where nothing is said.
    """

    def __init__(
        self,
        parent_handler: Any,
        micro_batch_size: int = 1,
        parallelism: Mapping[str, int] | None = None,
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._parallelism: dict[str, int] = {}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._local = threading.local()
        self.parallelism = dict(parallelism or {})

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads of each stage."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int]) -> None:
        unknown = sorted(set(parallelism) - set(STAGES))
        if unknown:
            raise ValueError(f"there is no stage {', '.join(unknown)}, only {', '.join(STAGES)}")
        self._parallelism.update(parallelism)
        self.shutdown()

    def shutdown(self) -> None:
        """End all threads; they come again when they are needed."""
        for pool in self._pools.values():
            pool.shutdown()
        self._pools.clear()

    def get_micro_batch_idx(self) -> int | None:
        """Return which part this thread works at."""
        return getattr(self._local, "index", None)

    def handle(self, data: list[Any]) -> list[Any]:
        """Take all parts through the stages; answers come in the order of the rows."""
        size = max(1, self.micro_batch_size)
        following: list[Future[Any]] = []
        for index, at in enumerate(range(0, len(data), size)):
            part: Any = data[at : at + size]
            for stage in STAGES:
                part = self._pool(stage).submit(self._run, stage, index, part)
            following.append(part)
        return [answer for part in following for answer in part.result()]

    def _pool(self, stage: str) -> ThreadPoolExecutor:
        if stage not in self._pools:
            threads = max(1, self._parallelism.get(stage, 1))
            self._pools[stage] = ThreadPoolExecutor(threads, f"micro-batching-{stage}")
        return self._pools[stage]

    def _run(self, stage: str, index: int, part: Any) -> Any:
        """Do one stage of one part; the stage before it has its own threads."""
        given = part.result() if isinstance(part, Future) else part
        self._local.index = index
        return getattr(self.handler, stage)(given)

    def __call__(self, data: list[Any], context: Any) -> list[Any]:
        """Take a batch as ``BaseHandler.handle`` does."""
        started = time.perf_counter()
        handler = self.handler
        handler.context = context
        if context.get_request_header(0, "describe") == "True":
            answers = [handler.describe_handle()]
        elif context.get_request_header(0, "explain") == "True":
            answers = handler.explain_handle(handler.preprocess(data), data)
        else:
            answers = self.handle(data)
        took_ms = round((time.perf_counter() - started) * 1e3, 2)
        context.metrics.add_time("HandlerTime", took_ms, None, "ms")
        return answers
