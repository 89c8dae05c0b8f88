"""What is asked and answered, once for REST and gRPC.

The REST side reads and writes these as JSON and documents them as OpenAPI; the gRPC
messages in ``proto/sequences.proto`` have the same fields (a test compares them).
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from legato.engine.manage import MOST_A_PAGE

MOST_VALUES = 4096
"""Values of a tensor that an answer holds as numbers; the bytes are always whole."""

_ID = "i:7 is the number 7, s:ann the text; bare digits are a number, other bare text itself"
_INCARNATION = "32 hex digits; empty = any"

Base64 = Annotated[
    bytes,
    PlainSerializer(
        lambda data: base64.b64encode(data).decode(), return_type=str, when_used="json"
    ),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""Bytes: as they are in gRPC, base64 in JSON."""


class _Ask(BaseModel):
    """A request; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid")


class _Of(_Ask):
    """A request about one sequence."""

    model: str = Field(min_length=1, description="model name")
    id: str = Field(min_length=1, description=_ID)


class ListRequest(_Ask):
    """Which sequences to list; what is left out is no limit."""

    model: str = ""
    min_age_s: float = Field(default=0.0, ge=0)
    max_age_s: float | None = Field(default=None, ge=0)
    min_idle_s: float = Field(default=0.0, ge=0)
    max_idle_s: float | None = Field(default=None, ge=0)
    min_bytes: int = Field(default=0, ge=0)
    max_bytes: int | None = Field(default=None, ge=0)
    min_step: int = Field(default=0, ge=0)
    max_step: int | None = Field(default=None, ge=0)
    dialect: str = Field(default="", description="protocol that it was opened in")
    residence: Literal["", "resident", "parked"] = Field(
        default="", description="resident: its state is in memory; parked: only in the store"
    )
    id_prefix: str = Field(default="", description="beginning of the id, written as text")
    limit: int = Field(default=100, ge=1, le=MOST_A_PAGE)
    cursor: str = Field(default="", description="of the page before; empty = from the beginning")


class DescribeRequest(_Of):
    """Which sequence to describe."""


class EndRequest(_Of):
    """End a sequence without a step; safe to repeat with its incarnation."""

    incarnation: str = Field(default="", description=_INCARNATION)
    reason: Literal["", "ended", "cancelled", "evicted"] = Field(
        default="", description="what a late step is told; empty = ended"
    )


class ExportRequest(_Of):
    """Which state to export."""

    snapshot: str = Field(default="", description="name; empty = the committed state of now")


class ImportRequest(_Ask):
    """A file to make a sequence of; it must have been written by the same model content."""

    model: str = Field(min_length=1, description="model name")
    file: Base64
    id: str = Field(default="", description="empty = the id in the file. " + _ID)
    ttl_s: float | None = Field(default=None, ge=0, description="idle limit; else that of the file")


class SnapshotRequest(_Of):
    """Freeze the committed state under a name."""

    name: str = Field(default="", description="empty = step-N")
    at_step: int = Field(default=0, ge=0, description="only at this step; 0 = wherever it is")
    ttl_s: float = Field(default=0.0, ge=0, description="0 = kept until it is deleted")


class ListSnapshotsRequest(_Ask):
    """Whose snapshots to list."""

    model: str = Field(min_length=1, description="model name")
    id: str = Field(default="", description="empty = of all sequences of the model. " + _ID)
    cursor: str = ""


class DeleteSnapshotRequest(_Of):
    """Which snapshot to delete."""

    name: str = Field(min_length=1)


class ForkRequest(_Of):
    """Make a second sequence from the committed state, or from a snapshot."""

    target: str = Field(min_length=1, description="id of the new sequence. " + _ID)
    snapshot: str = Field(default="", description="name; empty = the committed state of now")
    at_step: int = Field(default=0, ge=0, description="only at this step; 0 = of any")
    ttl_s: float | None = Field(default=None, ge=0, description="idle limit of the new sequence")


class RollbackRequest(_Of):
    """Put a live sequence back to one of its snapshots."""

    snapshot: str = Field(min_length=1)
    incarnation: str = Field(default="", description=_INCARNATION)


class ReadStateRequest(_Of):
    """Which state to read."""

    snapshot: str = Field(default="", description="name; empty = the committed state of now")
    names: str = Field(default="", description="states wanted, with commas; empty = all")


class RecordRequest(_Of):
    """Begin or stop recording the steps of a sequence."""

    on: bool = True


# -- answers --------------------------------------------------------------------------------


class Answer(BaseModel):
    """An answer."""

    model_config = ConfigDict(extra="forbid")


class Sequence(Answer):
    """One sequence.

    ``status`` is live, or how it ended: ended, expired, evicted, cancelled, displaced,
    failed, rolled_back, lost.
    """

    model: str
    id: str
    status: str
    step: int = Field(description="steps applied")
    incarnation: str
    version: str
    model_digest: str
    dialect: str
    created: float = Field(description="seconds since 1970")
    age_s: float
    ttl_s: float = Field(description="idle limit, 0 = none")
    level: str = Field(description="durability asked for; empty = the server's")
    idle_s: float | None = None
    state_bytes: int | None = None
    resident: bool | None = None
    waiting: int | None = Field(default=None, description="steps that wait")
    recording: bool | None = None
    ended_at: float | None = Field(default=None, description="seconds since 1970")
    ended_ago_s: float | None = None


class StateInfo(Answer):
    """Name and size of one state."""

    name: str
    dtype: str
    shape: list[int] = Field(description="of a row, -1 = varies")


class Recording(Answer):
    """How a recording goes."""

    on: bool
    file: str = Field(default="", description="on the server; empty until the next step")
    steps: int = 0
    lost: int = Field(default=0, description="steps that are missing: the disk was too slow")
    problem: str = ""


class Snapshot(Answer):
    """One snapshot."""

    model: str
    id: str = Field(description="of the sequence")
    name: str
    step: int
    state_bytes: int
    created: float
    ttl_s: float
    model_digest: str


class ListResponse(Answer):
    """A page; go on with ``cursor`` until it is empty. A page may hold no rows."""

    sequences: list[Sequence]
    cursor: str = ""


class DescribeResponse(Answer):
    """A sequence, and what belongs to it."""

    sequence: Sequence
    states: list[StateInfo] = []
    snapshots: list[Snapshot] = []
    recording: Recording | None = None


class EndResponse(Answer):
    """How it ended."""

    status: str
    step: int
    at: float


class ExportResponse(Answer):
    """A safetensors file."""

    file: Base64
    step: int


class ImportResponse(Answer):
    """The sequence made."""

    sequence: Sequence


class SnapshotResponse(Answer):
    """The snapshot made."""

    snapshot: Snapshot


class ListSnapshotsResponse(Answer):
    """A page of snapshots; go on with ``cursor`` until it is empty."""

    snapshots: list[Snapshot]
    cursor: str = ""


class DeleteSnapshotResponse(Answer):
    """It is gone."""


class ForkResponse(Answer):
    """The sequence made."""

    sequence: Sequence


class RollbackResponse(Answer):
    """The sequence as it is now; ``step`` + 1 is expected next."""

    sequence: Sequence


class Tensor(Answer):
    """One state. ``data`` is little-endian and row-major (base64 in JSON)."""

    name: str
    dtype: str
    shape: list[int]
    data: Base64
    values: list[float] = Field(
        default=[], description=f"as numbers, row-major, if there are at most {MOST_VALUES}"
    )
    digest: str = Field(description="xxh3-64 of the data, hex")


class ReadStateResponse(Answer):
    """States of one moment."""

    step: int
    incarnation: str
    model_digest: str
    tensors: list[Tensor]


class RecordResponse(Answer):
    """How the recording goes now."""

    recording: Recording


class Problem(Answer):
    """Why not.

    ``code`` is stable. ``expected_step`` is what a sequence expects next, ``status`` how
    it ended, where that is known.
    """

    error: str
    code: str
    expected_step: int | None = None
    retry_after_s: float | None = None
    status: str | None = None
