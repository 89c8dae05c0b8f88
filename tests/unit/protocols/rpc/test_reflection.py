"""Server reflection: what tools without .proto files see."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from tests.unit.protocols.rpc.fake import FakeStream, turn

from legato.protocols.rpc import health, reflection
from legato.protocols.rpc.app import RpcApp
from legato.protocols.rpc.gen.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)


async def ask(request: ServerReflectionRequest, name: str = reflection.NAMES[0]):
    services = [health.service(lambda: True)]
    app = RpcApp([*services, *reflection.services(services)])
    stream = FakeStream(f"/{name}/ServerReflectionInfo")
    await app(stream.scope, stream.receive, stream.send)
    stream.say(request.SerializeToString(), more=False)
    await turn()
    (reply,) = stream.replies
    return ServerReflectionResponse.FromString(reply)


@pytest.mark.parametrize("name", reflection.NAMES)
async def test_services_are_listed(name: str) -> None:
    """Both versions of the protocol list every service."""
    answer = await ask(ServerReflectionRequest(list_services="*"), name)

    found = [entry.name for entry in answer.list_services_response.service]
    assert found == ["grpc.health.v1.Health", *reflection.NAMES]


@pytest.mark.parametrize(
    "symbol",
    [
        "grpc.health.v1.Health",
        "grpc.health.v1.Health.Check",
        "grpc.health.v1.HealthCheckRequest",
        "grpc.health.v1.HealthCheckResponse.ServingStatus",
    ],
)
async def test_a_symbol_is_shown_in_its_public_package(symbol: str) -> None:
    """The descriptors form a working pool in which clients find their names."""
    answer = await ask(ServerReflectionRequest(file_containing_symbol=symbol))

    pool = DescriptorPool()
    for data in answer.file_descriptor_response.file_descriptor_proto:
        pool.Add(FileDescriptorProto.FromString(data))
    service = pool.FindServiceByName("grpc.health.v1.Health")
    method = service.methods_by_name["Check"]
    assert method.input_type.full_name == "grpc.health.v1.HealthCheckRequest"
    assert method.output_type.full_name == "grpc.health.v1.HealthCheckResponse"


async def test_a_file_can_be_asked_for_by_its_name() -> None:
    """The name that a descriptor carries finds it again."""
    first = await ask(ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"))
    (data,) = first.file_descriptor_response.file_descriptor_proto

    name = FileDescriptorProto.FromString(data).name
    again = await ask(ServerReflectionRequest(file_by_filename=name))

    assert list(again.file_descriptor_response.file_descriptor_proto) == [data]


@pytest.mark.parametrize(
    "request_",
    [
        ServerReflectionRequest(file_containing_symbol="no.Such"),
        ServerReflectionRequest(file_by_filename="no.proto"),
        ServerReflectionRequest(all_extension_numbers_of_type="grpc.health.v1.Health"),
        ServerReflectionRequest(),
    ],
    ids=["symbol", "file", "extensions", "empty"],
)
async def test_what_is_not_there_is_not_found(request_: ServerReflectionRequest) -> None:
    """The stream goes on; the answer says NOT_FOUND."""
    answer = await ask(request_)

    assert answer.error_response.error_code == 5


async def test_garbage_ends_the_stream_with_its_reason() -> None:
    """Bytes that are no request are the client's mistake, not ours: nothing is logged."""
    app = RpcApp(reflection.services([health.service(lambda: True)]))
    stream = FakeStream(f"/{reflection.NAMES[0]}/ServerReflectionInfo")
    await app(stream.scope, stream.receive, stream.send)

    stream.say(b"\xff\xff", more=False)
    await turn()

    assert stream.status == 13
    assert stream.trailers["grpc-message"] == "the message is not a ServerReflectionRequest"
