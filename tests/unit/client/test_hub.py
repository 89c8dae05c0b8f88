"""A hub shares connections, asks again, finds sequences and ends those that are its own."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from tests.unit.client.fakes import PAYLOAD, Server, status

import legato
from legato.client import hub as hub_module
from legato.client.errors import (
    SequenceError,
    SequenceGoneError,
    StepConflictError,
    UnavailableError,
    UnknownModelError,
)
from legato.client.hub import Hub, Options
from legato.client.settings import target
from legato.client.window import Patience
from legato.protocols.sequences.gen import sequences_pb2 as pb

ENDED = pb.EndResponse(status="ended", step=1)


def described(**fields: object) -> pb.DescribeResponse:
    sequence = {"status": "live", "step": 5, "incarnation": "cd", **fields}
    return pb.DescribeResponse(sequence=pb.Sequence(**sequence))


@pytest.fixture
def at(monkeypatch):
    """Return ``at(server, **options)``: a hub whose connections lead to that server."""
    monkeypatch.setattr(hub_module, "SHORTEST_WAIT_S", 0)
    monkeypatch.setattr(hub_module, "LONGEST_WAIT_S", 0)

    @asynccontextmanager
    async def at(server: Server, **options):
        monkeypatch.setattr(grpc.aio, "insecure_channel", server.channel)
        hub = Hub(Options("there", **options))
        yield hub
        await hub.close()

    return at


async def step(pilot) -> object:
    sink = asyncio.get_running_loop().create_future()
    pilot.submit(PAYLOAD, sink)
    return await sink


async def stepped(hub: Hub, aim) -> object:
    """Open a sequence and take a step."""
    pilot = hub.open(aim, await hub.model("m"))
    await step(pilot)
    return pilot


# -- connections --------------------------------------------------------------------------


async def test_connections_are_shared_up_to_a_limit(at) -> None:
    """The one with the most room is taken; room comes back with a release."""
    server = Server()
    async with at(server, streams_per_connection=2) as hub:
        model = await hub.model("m")
        pilots = [hub.open(target("m", None), model) for _index in range(4)]
        await hub.release(pilots[0])
        hub.open(target("m", None), model)
        count = hub.connections

    assert count == 2
    assert all(channel.closed for channel in server.channels)


@pytest.mark.parametrize("ours", [True, False])
async def test_only_other_servers_are_asked_to_end_streams_with_a_status(at, ours) -> None:
    """Legato tells the status in the message; its streams outlive a refusal."""
    server = Server(**({} if ours else {"ModelConfig": status(grpc.StatusCode.UNIMPLEMENTED)}))
    async with at(server, metadata=(("authorization", "me"),)) as hub:
        await stepped(hub, target("m", "ann"))

    (metadata,) = server.metadata
    assert (metadata["authorization"], metadata["x-sequence-id"]) == ("me", "ann")
    assert ("triton_grpc_error" in metadata) is not ours


# -- questions ----------------------------------------------------------------------------


async def test_question_is_asked_again_while_there_is_hope(at) -> None:
    """And its answer is remembered."""
    server = Server()
    server.answers["ModelMetadata"] = [
        status(grpc.StatusCode.UNAVAILABLE),
        server.answers["ModelMetadata"],
    ]
    async with at(server) as hub:
        first, second = await hub.model("m"), await hub.model("m")

    assert first is second
    assert (len(server.asked("ModelMetadata")), first.receipts) == (2, 1)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, UnknownModelError),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
    ],
)
async def test_question_without_hope_or_time_fails(at, code, kind) -> None:
    """By the name of what went wrong."""
    server = Server(ModelMetadata=status(code))
    async with at(server, patience=Patience(retry_for_s=0)) as hub:
        with pytest.raises(kind):
            await hub.model("m")


async def test_sequence_is_found_at_its_step(at) -> None:
    """The id travels typed, so that a number is not its text."""
    server = Server(Describe=described())
    async with at(server) as hub:
        found = await hub.find(target("m", "7", None))

    assert (found.step, found.incarnation) == (5, "cd")
    assert server.asked("Describe")[0].id == "s:7"


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (described(status="expired"), SequenceGoneError, "expired"),
        (described(incarnation="ee"), SequenceGoneError, "sequence_recreated"),
        (
            status(grpc.StatusCode.NOT_FOUND, "unknown_sequence"),
            SequenceGoneError,
            "unknown_sequence",
        ),
        (status(grpc.StatusCode.UNIMPLEMENTED), SequenceError, ""),
    ],
)
async def test_sequence_that_cannot_be_resumed_says_why(at, answer, kind, reason) -> None:
    """Over, another one, never there, or a server that does not tell."""
    async with at(Server(Describe=answer)) as hub:
        with pytest.raises(kind) as caught:
            await hub.find(target("m", "a", None, "cd"))

    assert (type(caught.value), caught.value.reason) == (kind, reason)


# -- ends ---------------------------------------------------------------------------------


async def test_own_incarnation_is_ended_however_often_it_takes(at) -> None:
    """The call is repeated until it is answered, and may be made again after that."""
    server = Server(End=[status(grpc.StatusCode.UNAVAILABLE), ENDED, ENDED])
    async with at(server) as hub:
        aim = target("m", 7)
        pilot = await stepped(hub, aim)

        await hub.end(pilot, aim)
        await hub.end(pilot, aim)

    asked = [(ask.model, ask.id, ask.incarnation) for ask in server.asked("End")]
    assert asked == [("m", "i:7", "cd")] * 3


async def test_sequence_that_never_began_is_not_ended(at) -> None:
    """What has the id is somebody else's."""
    server = Server(End=ENDED)
    async with at(server) as hub:
        aim = target("m", "a")
        await hub.end(hub.open(aim, await hub.model("m")), aim)

    assert server.asked("End") == []


async def test_sequence_whose_last_step_is_taken_is_not_ended_again(at) -> None:
    """The step was the end."""
    server = Server(End=ENDED)
    async with at(server) as hub:
        aim = target("m", "a")
        pilot = await stepped(hub, aim)
        sink = asyncio.get_running_loop().create_future()
        pilot.submit(PAYLOAD, sink, end=True)
        await sink

        await hub.end(pilot, aim)

    assert server.asked("End") == []


async def test_unanswered_beginning_is_not_ended(at) -> None:
    """It is not known whose sequence has the id."""
    server = Server(End=ENDED)
    async with at(server) as hub:
        aim = target("m", "a")
        pilot = hub.open(aim, await hub.model("m"))
        pilot.submit(PAYLOAD, asyncio.get_running_loop().create_future())

        for _time in range(2):
            with pytest.raises(SequenceError, match="its first step has no answer"):
                await hub.end(pilot, aim)

    assert server.asked("End") == []


async def test_resumed_sequence_is_ended_if_it_is_where_this_client_left_it(at) -> None:
    """Its incarnation is asked for when it is needed."""
    server = Server(End=ENDED, Describe=described(step=5))
    async with at(server) as hub:
        aim = target("m", "a", 5)
        await hub.end(hub.open(aim, await hub.model("m")), aim)

    assert server.asked("End")[0].incarnation == "cd"


async def test_resumed_sequence_that_others_moved_is_left_alone(at) -> None:
    """It is not this client's to end."""
    server = Server(End=ENDED, Describe=described(step=9))
    async with at(server) as hub:
        aim = target("m", "a", 5)

        with pytest.raises(StepConflictError) as caught:
            await hub.end(hub.open(aim, await hub.model("m")), aim)

    assert caught.value.expected_step == 10
    assert server.asked("End") == []


@pytest.mark.parametrize("reason", ["expired", "unknown_sequence", "sequence_recreated"])
async def test_sequence_that_is_over_counts_as_ended(at, reason) -> None:
    """Nothing is left to do."""
    server = Server(End=status(grpc.StatusCode.NOT_FOUND, reason))
    async with at(server) as hub:
        aim = target("m", "a")
        await hub.end(await stepped(hub, aim), aim)

    assert len(server.asked("End")) == 1


@pytest.mark.parametrize("begun_here", [True, False])
async def test_server_without_the_sequence_api_keeps_its_sequences(at, caplog, begun_here) -> None:
    """Which is said once."""
    async with at(Server()) as hub:
        for name in ("a", "b"):
            aim = target("m", name, 0 if begun_here else 5)
            await hub.end(await stepped(hub, aim), aim)

    (record,) = caplog.records
    assert "live on until their idle limit" in record.getMessage()


# -- sequences that are lost ---------------------------------------------------------------


async def test_lost_sequence_lets_go_of_its_stream(at) -> None:
    """Nobody closed it; the collector does."""
    server = Server()
    async with at(server) as hub:
        client = legato.AsyncClient("there")
        client._made = hub
        seq = client.sequence("m")
        await seq._open()
        await step(seq._pilot)

        del seq
        gc.collect()
        await asyncio.sleep(0)  # the collector may run in any thread: the loop is told of it
        await asyncio.gather(*hub._leaving)

        assert not hub._pilots
        assert server.streams[0].cancelled
        assert server.asked("End") == []


async def test_sequence_lost_after_its_loop_is_no_trouble(at) -> None:
    """There is no stream left to close."""
    loop = asyncio.new_event_loop()
    async with at(Server()) as hub:
        pilot = hub.open(target("m", None), await hub.model("m"))
        hub._loop, real = loop, hub._loop
        loop.close()

        hub.forget(pilot)

        hub._loop = real
        assert pilot in hub._pilots
