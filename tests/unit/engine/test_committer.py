"""The way to the store: on the loop, or through one thread with group commit."""

from __future__ import annotations

import asyncio
import threading

import pytest

from legato.engine.committer import Committer


class Slow:
    """A store in a thread: its commits wait for a gate."""

    inline = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.batches: list[list] = []
        self.threads: set[str] = set()
        self.fail: Exception | None = None

    def commit(self, batch):
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(batch))
        self.begun.set()
        assert self.gate.wait(10)
        if self.fail:
            raise self.fail
        return [("ok", entry) for entry in batch]


class Quick(Slow):
    inline = True

    def __init__(self) -> None:
        super().__init__()
        self.gate.set()


def collect(into: list, count: int):
    """A callback that fills a list, and a future for when it is full."""
    full = asyncio.get_running_loop().create_future()

    def done(result) -> None:
        into.append(result)
        if len(into) == count:
            full.set_result(None)

    return done, full


async def test_a_quick_store_is_called_at_once() -> None:
    """Results and exceptions alike reach the callback before commit returns."""
    store = Quick()
    committer = Committer(store, asyncio.get_running_loop())
    got: list = []

    committer.commit(["a", "b"], got.append)
    store.fail = OSError("x")
    committer.commit(["c"], got.append)
    committer.call(lambda: 1 / 0, got.append)
    committer.close()

    assert got[:2] == [[("ok", "a"), ("ok", "b")], store.fail]
    assert isinstance(got[2], ZeroDivisionError)


async def test_commits_that_arrive_during_a_commit_share_the_next() -> None:
    """Group commit: each batch gets its own results, on the loop, in order."""
    store = Slow()
    committer = Committer(store, asyncio.get_running_loop())
    got: list = []
    done, full = collect(got, 3)
    committer.commit(["a"], done)
    await asyncio.to_thread(store.begun.wait, 10)
    committer.commit(["b", "c"], done)
    committer.commit(["d"], done)

    store.gate.set()
    await full
    committer.close()

    assert store.batches == [["a"], ["b", "c", "d"]]
    assert got == [[("ok", "a")], [("ok", "b"), ("ok", "c")], [("ok", "d")]]
    assert store.threads == {"legato-store"}


async def test_other_calls_keep_their_place_among_commits() -> None:
    """A read between two commits sees the first and not the second."""
    store = Slow()
    committer = Committer(store, asyncio.get_running_loop())
    got: list = []
    done, full = collect(got, 4)
    committer.commit(["a"], done)
    await asyncio.to_thread(store.begun.wait, 10)
    committer.commit(["b"], done)
    committer.call(lambda: len(store.batches), done)
    committer.commit(["c"], done)

    store.gate.set()
    await full
    committer.close()

    assert store.batches == [["a"], ["b"], ["c"]]
    assert got[2] == 2


async def test_an_exception_reaches_every_batch_of_its_group() -> None:
    """Each finds out for itself what became of its entries."""
    store = Slow()
    committer = Committer(store, asyncio.get_running_loop())
    got: list = []
    done, full = collect(got, 3)
    committer.commit(["a"], done)
    await asyncio.to_thread(store.begun.wait, 10)
    committer.commit(["b"], done)
    committer.commit(["c"], done)
    store.fail = OSError("x")

    store.gate.set()
    await full
    committer.close()

    assert got == [store.fail] * 3


@pytest.mark.parametrize("kind", [Quick, Slow])
async def test_a_call_can_be_waited_for(kind) -> None:
    """Its result comes back, or its exception is raised."""
    committer = Committer(kind(), asyncio.get_running_loop())

    assert await committer.run(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await committer.run(lambda: 1 // 0)
    committer.close()


async def test_a_waiter_that_left_breaks_nothing() -> None:
    """A cancelled call is still carried out, and its result dropped."""
    store = Slow()
    committer = Committer(store, asyncio.get_running_loop())
    committer.commit(["a"], lambda _result: None)
    waiter = asyncio.create_task(committer.run(lambda: 5))
    await asyncio.to_thread(store.begun.wait, 10)

    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    store.gate.set()

    assert await committer.run(lambda: 6) == 6
    committer.close()


async def test_closing_finishes_what_is_queued() -> None:
    """Nothing that was handed in is lost."""
    store = Slow()
    committer = Committer(store, asyncio.get_running_loop())
    got: list = []
    done, full = collect(got, 2)
    committer.commit(["a"], done)
    committer.commit(["b"], done)
    store.gate.set()

    committer.close()
    await full

    assert [entry for batch in store.batches for entry in batch] == ["a", "b"]
