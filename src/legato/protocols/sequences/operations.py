"""The table of operations: what REST routes, gRPC methods and the OpenAPI page are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ValidationError

from legato.core.errors import ClientError
from legato.protocols.sequences import messages as m
from legato.protocols.sequences.gen import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message

    from legato.protocols.sequences.api import Api

ROOT = "/legato/v1"
_MODEL = ROOT + "/models/{model}"
_SEQUENCE = _MODEL + "/sequences/{id}"


class Operation(NamedTuple):
    """One thing that the API does.

    Attributes:
        name: Method of the gRPC service; the OpenAPI operation id.
        summary: One line.
        run: Carries it out.
        asked, answered: As Python has them.
        asked_pb, answered_pb: As gRPC has them.
        routes: HTTP method and path, one or more.
        file_in, file_out: The body of the HTTP request (answer) is a file, not JSON.
        created: HTTP answers 201.
    """

    name: str
    summary: str
    run: Callable[[Api], Callable[[Any], Awaitable[m.Answer]]]
    asked: type[BaseModel]
    answered: type[m.Answer]
    asked_pb: type[Message]
    answered_pb: type[Message]
    routes: tuple[tuple[str, str], ...]
    file_in: bool = False
    file_out: bool = False
    created: bool = False

    def read(self, values: Mapping[str, Any]) -> BaseModel:
        """Make a request of its fields.

        Raises:
            ClientError: One is missing, unknown or impossible.
        """
        try:
            return self.asked.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the request"
            raise ClientError(f"'{where}': {first['msg']}") from None


OPERATIONS = (
    Operation(
        "List", "List live sequences in pages", lambda api: api.list_sequences,
        m.ListRequest, m.ListResponse, pb.ListRequest, pb.ListResponse,
        (("GET", ROOT + "/sequences"), ("GET", _MODEL + "/sequences")),
    ),
    Operation(
        "Describe", "Describe a sequence, live or ended", lambda api: api.describe,
        m.DescribeRequest, m.DescribeResponse, pb.DescribeRequest, pb.DescribeResponse,
        (("GET", _SEQUENCE),),
    ),
    Operation(
        "End", "End a sequence without a step", lambda api: api.end,
        m.EndRequest, m.EndResponse, pb.EndRequest, pb.EndResponse,
        (("DELETE", _SEQUENCE),),
    ),
    Operation(
        "Export", "Get a sequence or a snapshot as a safetensors file", lambda api: api.export,
        m.ExportRequest, m.ExportResponse, pb.ExportRequest, pb.ExportResponse,
        (("GET", _SEQUENCE + "/export"),), file_out=True,
    ),
    Operation(
        "Import", "Make a sequence of an exported file", lambda api: api.import_,
        m.ImportRequest, m.ImportResponse, pb.ImportRequest, pb.ImportResponse,
        (("POST", _MODEL + "/sequences"),), file_in=True, created=True,
    ),
    Operation(
        "Snapshot", "Freeze the committed state under a name", lambda api: api.snapshot,
        m.SnapshotRequest, m.SnapshotResponse, pb.SnapshotRequest, pb.SnapshotResponse,
        (("POST", _SEQUENCE + "/snapshots"),), created=True,
    ),
    Operation(
        "ListSnapshots", "List snapshots", lambda api: api.list_snapshots,
        m.ListSnapshotsRequest, m.ListSnapshotsResponse,
        pb.ListSnapshotsRequest, pb.ListSnapshotsResponse,
        (("GET", _SEQUENCE + "/snapshots"), ("GET", _MODEL + "/snapshots")),
    ),
    Operation(
        "DeleteSnapshot", "Delete a snapshot", lambda api: api.delete_snapshot,
        m.DeleteSnapshotRequest, m.DeleteSnapshotResponse,
        pb.DeleteSnapshotRequest, pb.DeleteSnapshotResponse,
        (("DELETE", _SEQUENCE + "/snapshots/{name}"),),
    ),
    Operation(
        "Fork", "Make a second sequence of one", lambda api: api.fork,
        m.ForkRequest, m.ForkResponse, pb.ForkRequest, pb.ForkResponse,
        (("POST", _SEQUENCE + "/fork"),), created=True,
    ),
    Operation(
        "Rollback", "Put a sequence back to a snapshot", lambda api: api.rollback,
        m.RollbackRequest, m.RollbackResponse, pb.RollbackRequest, pb.RollbackResponse,
        (("POST", _SEQUENCE + "/rollback"),),
    ),
    Operation(
        "ReadState", "Read state tensors", lambda api: api.read_state,
        m.ReadStateRequest, m.ReadStateResponse, pb.ReadStateRequest, pb.ReadStateResponse,
        (("GET", _SEQUENCE + "/state"),),
    ),
    Operation(
        "Record", "Begin or stop recording steps", lambda api: api.record,
        m.RecordRequest, m.RecordResponse, pb.RecordRequest, pb.RecordResponse,
        (("POST", _SEQUENCE + "/record"),),
    ),
)  # fmt: skip
"""Every operation, in the order in which people meet them."""
