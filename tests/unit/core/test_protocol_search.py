"""Every interleaving of a small world, breadth first (spec durability, section 12, test 2).

Two workers, one sequence, one or two clients of two steps, a few sends each; messages
that are lost, late or twice; a crash. The workers decide with the server's own
:func:`legato.core.decide.decide`, the store with its own :func:`legato.stores.rules.judge`.
The state after a step is the list of requests applied, so loss, repetition and
reordering show at once.

Some things need no move of their own: a lost message is one that is never delivered,
a frozen worker one that is not scheduled, a commit whose answer is lost one that lands
after its worker gave up, and a worker killed with a step in hand one that gave up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import pytest

from legato.core.decide import Decision, Verdict, decide
from legato.core.types import NATIVE, Receipt, RecordHead, SequenceKey, StateRow, Step
from legato.stores.base import Commit, Duplicate
from legato.stores.rules import Standing, judge

KEY = SequenceKey("model", "a")
CLIENTS = b"ab"

NEW = -1  # an incarnation just drawn; "canonical" names it

Applied = tuple[bytes, ...]  # the state: requests applied, in order


class Rec(NamedTuple):
    """A record, or a worker's copy of one. One receipt is kept: that of the last step."""

    incarnation: int
    epoch: int
    owner: int
    state: Applied


class Request(NamedTuple):
    """A client's wish: its step ``number``."""

    client: int
    number: int

    @property
    def request_id(self) -> bytes:
        return b"%c%d" % (CLIENTS[self.client], self.number)


class Entry(NamedTuple):
    """A commit on its way to the store."""

    incarnation: int
    epoch: int
    state: Applied  # after the step
    create: bool


class Busy(NamedTuple):
    """What a worker waits for: the store's word on a commit."""

    request: Request
    entry: Entry


class Worker(NamedTuple):
    copy: Rec | None = None
    busy: Busy | None = None


class Client(NamedTuple):
    number: int = 1  # the step it waits for; beyond the last = done
    sends: int = 0


class Answer(NamedTuple):
    request: Request
    state: Applied
    refusal: str = ""  # code of the error


class World(NamedTuple):
    store: Rec | None
    forgotten: Rec | None  # the record before the last commit, for the failover
    workers: tuple[Worker, Worker]
    clients: tuple[Client, ...]
    requests: tuple[Request, ...]  # on their way to any worker
    commits: frozenset[tuple[int, Entry]]  # on their way to the store: (worker, entry)
    answers: frozenset[Answer]
    crashes: int
    repeats: int  # commits that the network may deliver twice
    shown: Applied  # longest state that ever left a worker


@dataclass(frozen=True)
class Rules:
    """The protocol, or a way to break it."""

    compare_step: bool = True
    compare_request_id: bool = True
    reply_after_commit: bool = True
    store_remembers: bool = True
    refuse_only_when_fresh: bool = True


class ViolationError(AssertionError):
    """An invariant does not hold; the message begins with its number."""


# -- the real decision functions, on the small world ----------------------------------------


def receipts_of(state: Applied) -> tuple[Receipt, ...]:
    if not state:
        return ()
    return (Receipt(len(state), state[-1], b"", b" ".join(state)),)


@cache
def decided(record: Rec | None, request: Request, rules: Rules) -> Decision:
    head = None
    request_id = request.request_id
    if record is not None:
        receipts = receipts_of(record.state)
        head = RecordHead(
            bytes([record.incarnation] * 16), record.epoch, len(record.state), receipts,
            "1", "", "native", 0.0, 0.0, "process",
        )  # fmt: skip
        if not rules.compare_request_id and receipts:
            request_id = receipts[-1].request_id
    step = Step(
        KEY.model, KEY.correlation_id, {}, NATIVE, number=request.number,
        start=request.number == 1, request_id=request_id.decode(),
    )  # fmt: skip
    return decide(head, step)


@cache
def judged(record: Rec | None, entry: Entry, rules: Rules) -> object:
    commit = Commit(
        KEY, bytes([entry.incarnation] * 16), entry.epoch, len(entry.state),
        receipts_of(entry.state), StateRow((), ()), entry.create, b"", None,
        "1", "", "native", 0.0, "process",
    )  # fmt: skip
    if record is None:
        return judge(None, commit)
    step, newest = len(record.state), next(iter(receipts_of(record.state)), None)
    if not rules.compare_step and not entry.create:
        step = commit.step - 1
    if not rules.compare_request_id and newest is not None:
        newest = newest._replace(request_id=commit.receipts[-1].request_id)
    return judge(
        Standing(bytes([record.incarnation] * 16), record.epoch, step, newest, None), commit
    )


# -- moves ------------------------------------------------------------------------------------


def with_worker(world: World, index: int, worker: Worker, **changes) -> World:
    workers = (worker, world.workers[1]) if index == 0 else (world.workers[0], worker)
    return world._replace(workers=workers, **changes)


def acquire(world: World, index: int) -> World:
    """The worker takes ownership; the epoch grows if the owner changes."""
    store = world.store
    if store is not None and store.owner != index:
        store = store._replace(epoch=store.epoch + 1, owner=index)
    return with_worker(world, index, Worker(copy=store), store=store)


def take(world: World, index: int, request: Request, rules: Rules) -> World:
    """A worker decides about a request, on its copy or on a fresh one."""
    copy = world.workers[index].copy
    fresh = copy is None
    if fresh:
        world = acquire(world, index)
        copy = world.workers[index].copy
    decision = decided(copy, request, rules)
    if decision.verdict is Verdict.REFUSE and not fresh and rules.refuse_only_when_fresh:
        world = acquire(world, index)
        copy = world.workers[index].copy
        decision = decided(copy, request, rules)
    if decision.verdict is Verdict.REFUSE:
        refusal = Answer(request, (), decision.error.code)
        return world._replace(answers=world.answers | {refusal})
    if decision.verdict is Verdict.REPLAY:
        return reply(world, request, tuple(decision.receipt.response.split(b" ")))
    create = decision.verdict is Verdict.CREATE
    base = () if create else copy.state
    if decision.number != len(base) + 1:
        raise ViolationError(f"D2: step {decision.number} on a state of {len(base)} steps")
    state = (*base, request.request_id)
    if create:
        entry = Entry(NEW, 1, state, create=True)
    else:
        entry = Entry(copy.incarnation, copy.epoch, state, create=False)
    worker = Worker(copy, Busy(request, entry))
    world = with_worker(world, index, worker, commits=world.commits | {(index, entry)})
    return world if rules.reply_after_commit else reply(world, request, state)


def reply(world: World, request: Request, state: Applied) -> World:
    """A reply leaves. D1: what it shows is committed; D3: it shows this very request."""
    held = () if world.store is None else world.store.state
    if held[: len(state)] != state:
        raise ViolationError(f"D1: a reply shows {state}, the record holds {held}")
    if state[request.number - 1 : request.number] != (request.request_id,):
        raise ViolationError(f"D3: {request.request_id} is answered with {state}")
    shown = max(world.shown, state, key=len)
    return world._replace(answers=world.answers | {Answer(request, state)}, shown=shown)


def land(world: World, index: int, entry: Entry, rules: Rules) -> World:
    """A commit reaches the store; its worker replies, if it still waits."""
    verdict = judged(world.store, entry, rules)
    if verdict is None:
        # A new sequence has no owner; an old one keeps the one that holds its epoch.
        owner = world.store.owner if world.store and not entry.create else -1
        store = Rec(entry.incarnation, entry.epoch, owner, entry.state)
        forgotten = None if rules.store_remembers else world.store
        world = world._replace(store=store, forgotten=forgotten)
    worker = world.workers[index]
    if worker.busy is None or worker.busy.entry != entry:
        return world
    request = worker.busy.request
    if verdict is None:
        return reply(with_worker(world, index, Worker(world.store)), request, entry.state)
    if isinstance(verdict, Duplicate):
        stands = tuple(verdict.receipt.response.split(b" "))
        return reply(with_worker(world, index, Worker()), request, stands)
    return take(with_worker(world, index, Worker()), index, request, rules)


def receive(world: World, answer: Answer) -> World:
    """A client reads an answer; one that it does not wait for is nothing to it."""
    request = answer.request
    client = world.clients[request.client]
    world = world._replace(answers=world.answers - {answer})
    if client.number != request.number:
        return world
    if answer.refusal:
        held = () if world.store is None else world.store.state
        # One honest case: another client went on before this one got its answer, and
        # the receipt is no longer kept. Then it is told just that.
        overtaken = answer.refusal == "step_already_applied" and len(held) > request.number
        if len(world.clients) == 1 or (request.request_id in held and not overtaken):
            raise ViolationError(f"itself: {request} is told {answer.refusal}, {held} is held")
    clients = list(world.clients)
    clients[request.client] = Client(client.number + 1, 0)
    return world._replace(clients=tuple(clients))


def canonical(world: World, rules: Rules) -> World:
    """Worlds that differ only in names, or in messages without any effect, are one.

    Incarnations and epochs are compared, never counted: their order is all that
    matters, so both are numbered afresh. Nobody waits for an answer to an earlier step.
    A commit that nobody waits for and that is refused now is refused for ever, since a
    record only moves forward (unless the store forgets).
    """
    answers = frozenset(
        answer
        for answer in world.answers
        if world.clients[answer.request.client].number == answer.request.number
    )
    waiting = {(n, worker.busy.entry) for n, worker in enumerate(world.workers) if worker.busy}
    commits = frozenset(
        commit
        for commit in world.commits
        if commit in waiting
        or not rules.store_remembers
        or judged(world.store, commit[1], rules) is None
    )
    return renamed(world._replace(answers=answers, commits=commits))


def renamed(world: World) -> World:
    """Number incarnations and epochs afresh, in a fixed order."""
    named = [record for record in (world.store, world.forgotten) if record]
    for worker in world.workers:
        named += [worker.copy] if worker.copy else []
        named += [worker.busy.entry] if worker.busy else []
    named += [entry for _, entry in sorted(world.commits)]
    names: dict[int, int] = {}
    epochs: dict[int, set[int]] = {}
    for item in named:
        names.setdefault(item.incarnation, len(names))
        epochs.setdefault(item.incarnation, set()).add(item.epoch)
    ranks = {
        (incarnation, epoch): rank
        for incarnation, used in epochs.items()
        for rank, epoch in enumerate(sorted(used), 1)
    }
    if all(old == new for old, new in names.items()) and all(
        epoch == rank for (_, epoch), rank in ranks.items()
    ):
        return world

    def rename(item):
        rank = ranks[item.incarnation, item.epoch]
        return item._replace(incarnation=names[item.incarnation], epoch=rank)

    workers = tuple(
        Worker(
            worker.copy and rename(worker.copy),
            worker.busy and worker.busy._replace(entry=rename(worker.busy.entry)),
        )
        for worker in world.workers
    )
    return world._replace(
        store=world.store and rename(world.store),
        forgotten=world.forgotten and rename(world.forgotten),
        workers=workers,
        commits=frozenset((index, rename(entry)) for index, entry in world.commits),
    )


def moves(world: World, steps: int, sends: tuple[int, ...], rules: Rules):
    """Every world that may come next."""
    for index, client in enumerate(world.clients):
        if client.number <= steps and client.sends < sends[index]:
            clients = list(world.clients)
            clients[index] = client._replace(sends=client.sends + 1)
            sent = tuple(sorted((*world.requests, Request(index, client.number))))
            yield world._replace(clients=tuple(clients), requests=sent)
    for index, worker in enumerate(world.workers):
        if worker.busy is None:
            for request in set(world.requests):
                rest = list(world.requests)
                rest.remove(request)
                yield take(world._replace(requests=tuple(rest)), index, request, rules)
        else:
            yield with_worker(world, index, Worker())  # gives up: the outcome is unknown (D5)
        if world.crashes and worker.copy is not None and worker.busy is None:
            yield with_worker(world, index, Worker(), crashes=world.crashes - 1)
    for index, entry in world.commits:
        left = world._replace(commits=world.commits - {(index, entry)})
        yield land(left, index, entry, rules)
        if world.repeats:
            yield land(world._replace(repeats=world.repeats - 1), index, entry, rules)
    for answer in world.answers:
        yield receive(world, answer)
    if not rules.store_remembers and world.store is not None and world.crashes:
        yield world._replace(store=world.forgotten, crashes=world.crashes - 1)


def check(world: World) -> None:
    """What must hold in every state."""
    held = () if world.store is None else world.store.state
    if held[: len(world.shown)] != world.shown:
        raise ViolationError(f"D1: {world.shown} was shown, the record holds {held}")
    if len(set(held)) != len(held):
        raise ViolationError(f"D3: a request was applied twice: {held}")
    if [request[1:] for request in held] != [b"%d" % (n + 1) for n in range(len(held))]:
        raise ViolationError(f"D2: out of order: {held}")


def search(
    sends: tuple[int, ...], rules: Rules = Rules(), *, steps: int = 2, begun: bool = False
) -> int:
    """Visit every reachable state; the number of them.

    Args:
        sends: How often each client may send one request.
        rules: The protocol.
        steps: How many steps each client takes.
        begun: The sequence exists at step 0 (as an import leaves it).

    Raises:
        ViolationError: An invariant does not hold in one of them.
    """
    start = World(
        store=Rec(0, 1, -1, ()) if begun else None,
        forgotten=None,
        workers=(Worker(), Worker()),
        clients=(Client(),) * len(sends),
        requests=(),
        commits=frozenset(),
        answers=frozenset(),
        crashes=1,
        repeats=1,
        shown=(),
    )
    seen = {start}
    queue = deque([start])
    while queue:
        for found in moves(queue.popleft(), steps, sends, rules):
            world = canonical(found, rules)
            if world not in seen:
                check(world)
                seen.add(world)
                queue.append(world)
    return len(seen)


# -- tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sends", "steps", "begun"),
    [
        ((3,), 2, False),
        ((3,), 2, True),
        ((2,), 3, False),
        ((2,), 3, True),
        ((2, 1), 2, False),
        ((1, 1), 2, True),
    ],
)
def test_no_interleaving_breaks_an_invariant(sends, steps, begun) -> None:
    """D1, D2, D3 hold everywhere, and no client is told of a conflict with itself."""
    visited = search(sends, steps=steps, begun=begun)

    assert visited > 1_000


@pytest.mark.parametrize(
    ("rules", "sends", "steps", "broken"),
    [
        pytest.param(Rules(compare_step=False), (2,), 2, "D1", id="no step compare"),
        pytest.param(Rules(compare_request_id=False), (1, 1), 2, "D3", id="no request-id compare"),
        pytest.param(Rules(reply_after_commit=False), (2,), 2, "D1", id="reply before commit"),
        pytest.param(Rules(store_remembers=False), (2,), 2, "D1", id="store forgets"),
        pytest.param(Rules(refuse_only_when_fresh=False), (2,), 3, "itself", id="stale refusal"),
    ],
)
def test_search_finds_what_a_broken_protocol_does(rules, sends, steps, broken) -> None:
    """Each rule is needed: without it the search meets a violation."""
    with pytest.raises(ViolationError, match=f"^{broken}: "):
        search(sends, rules, steps=steps, begun=True)
