"""Tensors in shared memory, with Triton's own clients on the same machine."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException, shared_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = {"grpc": triton_grpc, "http": triton_http}


@pytest.fixture(scope="module")
def server(serve, model) -> str:
    """Address of a server that lets its clients use shared memory."""
    return serve(model, allow_client_shm="true").address


class Memory:
    """A piece of shared memory with a name of its own, as Triton's clients make it."""

    def __init__(self, size: int = 64) -> None:
        self.name = f"legatotest{uuid.uuid4().hex}"
        self.key = f"/test_{self.name}"
        self.size = size
        self.handle = shared_memory.create_shared_memory_region(self.name, self.key, size)

    def write(self, value: float) -> None:
        shared_memory.set_shared_memory_region(self.handle, [np.float32([[value]])])

    def read(self) -> list[float]:
        found = shared_memory.get_contents_as_numpy(self.handle, np.float32, [self.size // 4])
        return found.tolist()


@pytest.fixture
def memory() -> Iterator[Any]:
    """Return ``memory(size)``: shared memory that is gone after the test."""
    made: list[Memory] = []

    def memory(size: int = 64) -> Memory:
        made.append(Memory(size))
        return made[-1]

    yield memory
    for one in made:
        shared_memory.destroy_shared_memory_region(one.handle)


@pytest.fixture(params=["grpc", "http"])
def kind(request) -> Any:
    return KINDS[request.param]


@pytest.fixture
def client(server, kind):
    with kind.InferenceServerClient(server) as client:
        yield client
        client.unregister_system_shared_memory()


def tensors(kind: Any, source: str, target: str, **options: int) -> dict[str, Any]:
    """An input and an output in regions."""
    given = kind.InferInput("INPUT", [1, 1], "FP32")
    given.set_shared_memory(source, 4)
    wanted = kind.InferRequestedOutput("OUTPUT")
    wanted.set_shared_memory(target, 4, **options)
    return {"inputs": [given], "outputs": [wanted]}


def test_a_sequence_lives_in_shared_memory(client, kind, memory, fresh_id) -> None:
    """No tensor travels; the region holds what the client wrote last, and what came of it."""
    source, target = memory(), memory()
    client.register_system_shared_memory("in", source.key, source.size)
    client.register_system_shared_memory("out", target.key, target.size)

    sums = []
    for value in (1, 2, 3):
        source.write(value)
        result = client.infer(
            "accumulator",
            sequence_id=fresh_id,
            sequence_start=value == 1,
            request_id=f"r{value}",
            **tensors(kind, "in", "out", offset=8),
        )
        sums.append(target.read()[2])

    response = result.get_response()
    assert sums == [1, 3, 6]
    assert (response["id"] if kind is triton_http else response.id) == "r3"


def test_shared_memory_on_a_stream(server, memory, tools, fresh_id) -> None:
    """Steps sent ahead each find their own input and have their own place."""
    source, target = memory(), memory()
    shared_memory.set_shared_memory_region(source.handle, [np.float32([1, 2, 3, 4])])
    with triton_grpc.InferenceServerClient(server) as client:
        client.register_system_shared_memory("in", source.key, source.size)
        client.register_system_shared_memory("out", target.key, target.size)
        stream = tools.Stream(client)
        for at in range(4):
            given = triton_grpc.InferInput("INPUT", [1, 1], "FP32")
            given.set_shared_memory("in", 4, offset=4 * at)
            wanted = triton_grpc.InferRequestedOutput("OUTPUT")
            wanted.set_shared_memory("out", 4, offset=4 * at)
            client.async_stream_infer(
                "accumulator", [given], outputs=[wanted], sequence_id=fresh_id,
                sequence_start=at == 0,
            )  # fmt: skip
        answers = [stream.next() for _ in range(4)]
        client.stop_stream()
        client.unregister_system_shared_memory()

    assert [error for _result, error in answers] == [None] * 4
    assert target.read()[:4] == [1, 3, 6, 10]


async def test_asyncio_clients_use_it_too(server, memory, fresh_id) -> None:
    """Both of them, on one region each."""
    for module, offset in ((triton_grpc_aio, 0), (triton_http_aio, 1)):
        source, target = memory(), memory()
        source.write(5)
        async with module.InferenceServerClient(server) as client:
            await client.register_system_shared_memory(source.name, source.key, source.size)
            await client.register_system_shared_memory(target.name, target.key, target.size)
            await client.infer(
                "accumulator",
                sequence_id=fresh_id + offset,
                sequence_start=True,
                **tensors(module, source.name, target.name),
            )
            await client.unregister_system_shared_memory()
        assert target.read()[0] == 5


def test_regions_are_listed(client, kind, memory) -> None:
    """With key, offset and size; unregistered ones are gone, and so are all at once."""
    one = memory()
    client.register_system_shared_memory("a", one.key, 16, offset=8)
    client.register_system_shared_memory("b", one.key, 4)

    listed = client.get_system_shared_memory_status()
    client.unregister_system_shared_memory("a")
    left = client.get_system_shared_memory_status("b")

    if kind is triton_http:
        assert [entry["name"] for entry in listed] == ["a", "b"]
        assert left == [{"name": "b", "key": one.key, "offset": 0, "byte_size": 4}]
    else:
        assert sorted(listed.regions) == ["a", "b"]
        assert (left.regions["b"].key, left.regions["b"].byte_size) == (one.key, 4)
    with pytest.raises(InferenceServerException, match="Unable to find system shared memory"):
        client.get_system_shared_memory_status("a")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("taken", 4, 0), "shared memory region 'taken' already in manager"),
        (("new", 65, 0), "failed to register shared memory region 'new': invalid args"),
        (("new", 4, 64), "failed to register shared memory region 'new': invalid args"),
    ],
)
def test_wrong_registrations_are_refused(client, memory, arguments, text) -> None:
    """Triton's words."""
    one = memory()
    client.register_system_shared_memory("taken", one.key, 64)
    name, size, offset = arguments

    with pytest.raises(InferenceServerException, match=text):
        client.register_system_shared_memory(name, one.key, size, offset=offset)


@pytest.mark.parametrize("key", ["/nobody-has-this", "/../etc/passwd", "/envoy_shared_memory_0"])
def test_keys_that_are_none_are_refused(client, key) -> None:
    """What is not there, leads elsewhere or belongs to the server itself."""
    with pytest.raises(InferenceServerException, match="shared memory region"):
        client.register_system_shared_memory("r", key, 4)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"source": "nobody"}, "Unable to find shared memory region: 'nobody'"),
        ({"target": "nobody"}, "Unable to find shared memory region: 'nobody'"),
        ({"offset": 64}, "Invalid offset for shared memory region: 'r'"),
        ({"offset": 62}, r"Invalid offset \+ byte size for shared memory region: 'r'"),
    ],
)
def test_a_step_with_a_wrong_place_is_not_applied(
    client, kind, memory, fresh_id, changes, text
) -> None:
    """The sequence is as it was."""
    one = memory()
    one.write(5)
    client.register_system_shared_memory("r", one.key, one.size)
    options = {"source": "r", "target": "r", **changes}
    right = tensors(kind, "r", "r", offset=4)
    client.infer("accumulator", sequence_id=fresh_id, sequence_start=True, **right)

    with pytest.raises(InferenceServerException, match=text):
        client.infer("accumulator", sequence_id=fresh_id, **tensors(kind, **options))
    client.infer("accumulator", sequence_id=fresh_id, **right)

    assert one.read()[1] == 10


def test_memory_that_is_cut_off_does_not_hurt_the_server(
    client, kind, memory, tools, fresh_id
) -> None:
    """A mapping would end the process with SIGBUS; here one step fails, and others go on."""
    source, target = memory(), memory()
    client.register_system_shared_memory("in", source.key, source.size)
    client.register_system_shared_memory("out", target.key, target.size)
    begun = tensors(kind, "in", "out")
    client.infer("accumulator", sequence_id=fresh_id, sequence_start=True, **begun)

    for one in (target, source):
        os.truncate(f"/dev/shm{one.key}", 0)
        with pytest.raises(InferenceServerException, match="was truncated"):
            client.infer("accumulator", sequence_id=fresh_id, **begun)

    plain = tools.http_input(1) if kind is triton_http else tools.grpc_input(1)
    assert client.infer("accumulator", plain, sequence_id=fresh_id).as_numpy("OUTPUT") == 1
    os.truncate(f"/dev/shm{target.key}", 64)
    os.truncate(f"/dev/shm{source.key}", 64)


def test_a_gpus_memory_is_answered(client) -> None:
    """Load generators give it back before they begin; registering it is refused."""
    client.unregister_cuda_shared_memory()

    listed = client.get_cuda_shared_memory_status()
    with pytest.raises(InferenceServerException, match="GPUs not supported"):
        client.register_cuda_shared_memory("r", b"\0" * 64, 0, 64)

    assert not (listed.regions if hasattr(listed, "regions") else listed)
