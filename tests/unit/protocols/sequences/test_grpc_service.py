"""The gRPC side: the same calls, the same fields, errors with trailers."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor as Field

from doubles import chain_of, state_of
from legato.archive.sequence import unpack
from legato.protocols.rpc.service import Status
from legato.protocols.sequences.gen import sequences_pb2 as pb
from legato.protocols.sequences.grpc_service import NAME, service
from legato.protocols.sequences.operations import OPERATIONS


def of(message, kind):
    """Parse an answer."""
    assert isinstance(message, bytes), message
    return kind.FromString(message)


async def test_a_life_over_grpc(front) -> None:
    """List, describe, freeze, fork, roll back, export, import, read, record, end."""
    await front.begin(1, 5)
    name = {"model": "m", "id": "1"}

    frozen = of(
        await front.rpc("Snapshot", pb.SnapshotRequest(**name, name="a")), pb.SnapshotResponse
    )
    await front.step(1, 6)
    forked = of(await front.rpc("Fork", pb.ForkRequest(**name, target="2")), pb.ForkResponse)
    back = of(
        await front.rpc("Rollback", pb.RollbackRequest(**name, snapshot="a")), pb.RollbackResponse
    )
    listed = of(await front.rpc("List", pb.ListRequest(model="m", min_step=2)), pb.ListResponse)
    state = of(await front.rpc("ReadState", pb.ReadStateRequest(**name)), pb.ReadStateResponse)
    file = of(await front.rpc("Export", pb.ExportRequest(model="m", id="2")), pb.ExportResponse)
    made = of(
        await front.rpc("Import", pb.ImportRequest(model="m", file=file.file, id="3", ttl_s=0)),
        pb.ImportResponse,
    )
    recorded = of(await front.rpc("Record", pb.RecordRequest(**name)), pb.RecordResponse)
    stopped = of(await front.rpc("Record", pb.RecordRequest(**name, on=False)), pb.RecordResponse)
    snapshots = of(
        await front.rpc("ListSnapshots", pb.ListSnapshotsRequest(**name)), pb.ListSnapshotsResponse
    )
    of(
        await front.rpc("DeleteSnapshot", pb.DeleteSnapshotRequest(**name, name="a")),
        pb.DeleteSnapshotResponse,
    )
    ended = of(await front.rpc("End", pb.EndRequest(**name)), pb.EndResponse)
    described = of(await front.rpc("Describe", pb.DescribeRequest(**name)), pb.DescribeResponse)

    assert (frozen.snapshot.name, frozen.snapshot.step) == ("a", 1)
    assert (forked.sequence.id, forked.sequence.step, back.sequence.step) == ("i:2", 2, 1)
    assert [row.id for row in listed.sequences] == ["i:2"]
    assert [tensor.data for tensor in state.tensors] == list(state_of([5]).data)
    assert list(state.tensors[1].values) == [1.0, 1.0]
    assert unpack(file.file).state == state_of([5, 6])
    assert (made.sequence.id, made.sequence.ttl_s) == ("i:3", 0.0)
    assert (recorded.recording.on, stopped.recording.on) == (True, False)
    assert [row.name for row in snapshots.snapshots] == ["a"]
    assert (ended.status, ended.step) == ("ended", 1)
    assert (described.sequence.status, described.sequence.HasField("state_bytes")) == (
        "ended",
        False,
    )
    assert (await front.step(3, 7)).data[0] == chain_of([5, 6, 7])


async def test_errors_carry_what_is_known(front) -> None:
    """Status, text, and the reason, step and time as trailers, as KServe's have them."""
    await front.begin(1, 5, 6)
    at = await front.rpc("Fork", pb.ForkRequest(model="m", id="1", target="2", at_step=1))
    await front.rpc("End", pb.EndRequest(model="m", id="1", reason="evicted"))
    late = await front.rpc("End", pb.EndRequest(model="m", id="1"))
    unknown = await front.rpc("End", pb.EndRequest(model="m", id="9"))

    assert at[0] is Status.FAILED_PRECONDITION
    assert at[2] == {"legato-reason": "not_at_step", "legato-expected-step": "3"}
    assert (late[0], late[2]["legato-reason"]) == (Status.NOT_FOUND, "evicted")
    assert (unknown[0], unknown[2]["legato-reason"]) == (Status.NOT_FOUND, "unknown_sequence")


async def test_bad_requests_are_refused(front) -> None:
    """A field that is missing or impossible, and bytes that are no message."""
    empty = await front.rpc("Describe", pb.DescribeRequest())
    wrong = await front.rpc("End", pb.EndRequest(model="m", id="1", reason="bored"))

    class Junk:
        @staticmethod
        def SerializeToString():  # noqa: N802 - what a message has
            return b"\xff"

    junk = await front.rpc("End", Junk)

    assert [answer[0] for answer in (empty, wrong)] == [Status.INVALID_ARGUMENT] * 2
    assert junk[0] is Status.INTERNAL


async def test_a_mistake_of_ours_leaves_no_caller_waiting(front, monkeypatch) -> None:
    """It is an answer like any other."""

    async def broken(*_args):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(front.api.manager, "end", broken)

    answer = await front.rpc("End", pb.EndRequest(model="m", id="1"))
    over_http = await front.delete("/models/m/sequences/1")

    assert answer[0] is Status.INTERNAL
    assert "a mistake" in answer[1]
    assert (over_http.status_code, over_http.json()["code"]) == (500, "internal")


def test_the_service_is_what_its_proto_says() -> None:
    """Every method is there, unary, with the messages of the table."""
    described = pb.DESCRIPTOR.services_by_name["Sequences"]

    assert described.full_name == NAME
    assert {method.name for method in described.methods} == {op.name for op in OPERATIONS}
    for operation in OPERATIONS:
        method = described.methods_by_name[operation.name]
        assert method.input_type == operation.asked_pb.DESCRIPTOR
        assert method.output_type == operation.answered_pb.DESCRIPTOR
        assert not (method.client_streaming)
        assert not (method.server_streaming)


async def test_reflection_shows_the_service(front) -> None:
    """The file that describes it holds it, under the name that is served."""
    served = service(front.api)
    file = descriptor_pb2.FileDescriptorProto.FromString(served.file_descriptors[0])

    assert set(served.methods) == {method.name for method in file.service[0].method}
    assert f"{file.package}.{file.service[0].name}" == served.name == NAME


KINDS = {
    Field.TYPE_STRING: {"string"},
    Field.TYPE_BYTES: {"string"},
    Field.TYPE_BOOL: {"boolean"},
    Field.TYPE_DOUBLE: {"number"},
    Field.TYPE_UINT64: {"integer"},
    Field.TYPE_UINT32: {"integer"},
    Field.TYPE_INT64: {"integer"},
}


def same_fields(schema: dict, defs: dict, descriptor) -> None:
    """Compare a JSON schema with a message, nested ones too."""
    properties = schema.get("properties", {})
    assert set(properties) == {field.name for field in descriptor.fields}, descriptor.name
    for field in descriptor.fields:
        found = properties[field.name]
        options = [kind for kind in found.get("anyOf", [found]) if kind.get("type") != "null"]
        (found,) = options
        assert (found.get("type") == "array") == field.is_repeated, field.full_name
        found = found.get("items", found)
        if "$ref" in found:
            found = defs[found["$ref"].rpartition("/")[2]]
        if field.message_type is not None:
            same_fields(found, defs, field.message_type)
        else:
            assert found["type"] in KINDS[field.type], field.full_name


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_both_wires_have_the_same_fields(operation) -> None:
    """By name and kind, so that neither can say what the other cannot."""
    for model, message in (
        (operation.asked, operation.asked_pb),
        (operation.answered, operation.answered_pb),
    ):
        schema = model.model_json_schema()
        same_fields(schema, schema.get("$defs", {}), message.DESCRIPTOR)
