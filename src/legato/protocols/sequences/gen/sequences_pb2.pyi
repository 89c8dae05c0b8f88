from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListRequest(_message.Message):
    __slots__ = ("model", "min_age_s", "max_age_s", "min_idle_s", "max_idle_s", "min_bytes", "max_bytes", "min_step", "max_step", "dialect", "residence", "id_prefix", "limit", "cursor")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MIN_AGE_S_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_S_FIELD_NUMBER: _ClassVar[int]
    MIN_IDLE_S_FIELD_NUMBER: _ClassVar[int]
    MAX_IDLE_S_FIELD_NUMBER: _ClassVar[int]
    MIN_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MIN_STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_FIELD_NUMBER: _ClassVar[int]
    DIALECT_FIELD_NUMBER: _ClassVar[int]
    RESIDENCE_FIELD_NUMBER: _ClassVar[int]
    ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    model: str
    min_age_s: float
    max_age_s: float
    min_idle_s: float
    max_idle_s: float
    min_bytes: int
    max_bytes: int
    min_step: int
    max_step: int
    dialect: str
    residence: str
    id_prefix: str
    limit: int
    cursor: str
    def __init__(self, model: _Optional[str] = ..., min_age_s: _Optional[float] = ..., max_age_s: _Optional[float] = ..., min_idle_s: _Optional[float] = ..., max_idle_s: _Optional[float] = ..., min_bytes: _Optional[int] = ..., max_bytes: _Optional[int] = ..., min_step: _Optional[int] = ..., max_step: _Optional[int] = ..., dialect: _Optional[str] = ..., residence: _Optional[str] = ..., id_prefix: _Optional[str] = ..., limit: _Optional[int] = ..., cursor: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("model", "id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class EndRequest(_message.Message):
    __slots__ = ("model", "id", "incarnation", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    incarnation: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., incarnation: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("model", "id", "snapshot")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    snapshot: str
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., snapshot: _Optional[str] = ...) -> None: ...

class ImportRequest(_message.Message):
    __slots__ = ("model", "file", "id", "ttl_s")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    model: str
    file: bytes
    id: str
    ttl_s: float
    def __init__(self, model: _Optional[str] = ..., file: _Optional[bytes] = ..., id: _Optional[str] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("model", "id", "name", "at_step", "ttl_s")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    name: str
    at_step: int
    ttl_s: float
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., name: _Optional[str] = ..., at_step: _Optional[int] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ("model", "id", "cursor")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    cursor: str
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., cursor: _Optional[str] = ...) -> None: ...

class DeleteSnapshotRequest(_message.Message):
    __slots__ = ("model", "id", "name")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    name: str
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ForkRequest(_message.Message):
    __slots__ = ("model", "id", "target", "snapshot", "at_step", "ttl_s")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    target: str
    snapshot: str
    at_step: int
    ttl_s: float
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., target: _Optional[str] = ..., snapshot: _Optional[str] = ..., at_step: _Optional[int] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("model", "id", "snapshot", "incarnation")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    snapshot: str
    incarnation: str
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., snapshot: _Optional[str] = ..., incarnation: _Optional[str] = ...) -> None: ...

class ReadStateRequest(_message.Message):
    __slots__ = ("model", "id", "snapshot", "names")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    snapshot: str
    names: str
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., snapshot: _Optional[str] = ..., names: _Optional[str] = ...) -> None: ...

class RecordRequest(_message.Message):
    __slots__ = ("model", "id", "on")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ON_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    on: bool
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., on: bool = ...) -> None: ...

class Sequence(_message.Message):
    __slots__ = ("model", "id", "status", "step", "incarnation", "version", "model_digest", "dialect", "created", "age_s", "ttl_s", "level", "idle_s", "state_bytes", "resident", "waiting", "recording", "ended_at", "ended_ago_s")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIALECT_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RECORDING_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AGO_S_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    status: str
    step: int
    incarnation: str
    version: str
    model_digest: str
    dialect: str
    created: float
    age_s: float
    ttl_s: float
    level: str
    idle_s: float
    state_bytes: int
    resident: bool
    waiting: int
    recording: bool
    ended_at: float
    ended_ago_s: float
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., status: _Optional[str] = ..., step: _Optional[int] = ..., incarnation: _Optional[str] = ..., version: _Optional[str] = ..., model_digest: _Optional[str] = ..., dialect: _Optional[str] = ..., created: _Optional[float] = ..., age_s: _Optional[float] = ..., ttl_s: _Optional[float] = ..., level: _Optional[str] = ..., idle_s: _Optional[float] = ..., state_bytes: _Optional[int] = ..., resident: bool = ..., waiting: _Optional[int] = ..., recording: bool = ..., ended_at: _Optional[float] = ..., ended_ago_s: _Optional[float] = ...) -> None: ...

class StateInfo(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Recording(_message.Message):
    __slots__ = ("on", "file", "steps", "lost", "problem")
    ON_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    on: bool
    file: str
    steps: int
    lost: int
    problem: str
    def __init__(self, on: bool = ..., file: _Optional[str] = ..., steps: _Optional[int] = ..., lost: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class SnapshotInfo(_message.Message):
    __slots__ = ("model", "id", "name", "step", "state_bytes", "created", "ttl_s", "model_digest")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    name: str
    step: int
    state_bytes: int
    created: float
    ttl_s: float
    model_digest: str
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., name: _Optional[str] = ..., step: _Optional[int] = ..., state_bytes: _Optional[int] = ..., created: _Optional[float] = ..., ttl_s: _Optional[float] = ..., model_digest: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("sequences", "cursor")
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    sequences: _containers.RepeatedCompositeFieldContainer[Sequence]
    cursor: str
    def __init__(self, sequences: _Optional[_Iterable[_Union[Sequence, _Mapping]]] = ..., cursor: _Optional[str] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("sequence", "states", "snapshots", "recording")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    RECORDING_FIELD_NUMBER: _ClassVar[int]
    sequence: Sequence
    states: _containers.RepeatedCompositeFieldContainer[StateInfo]
    snapshots: _containers.RepeatedCompositeFieldContainer[SnapshotInfo]
    recording: Recording
    def __init__(self, sequence: _Optional[_Union[Sequence, _Mapping]] = ..., states: _Optional[_Iterable[_Union[StateInfo, _Mapping]]] = ..., snapshots: _Optional[_Iterable[_Union[SnapshotInfo, _Mapping]]] = ..., recording: _Optional[_Union[Recording, _Mapping]] = ...) -> None: ...

class EndResponse(_message.Message):
    __slots__ = ("status", "step", "at")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    status: str
    step: int
    at: float
    def __init__(self, status: _Optional[str] = ..., step: _Optional[int] = ..., at: _Optional[float] = ...) -> None: ...

class ExportResponse(_message.Message):
    __slots__ = ("file", "step")
    FILE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    file: bytes
    step: int
    def __init__(self, file: _Optional[bytes] = ..., step: _Optional[int] = ...) -> None: ...

class ImportResponse(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: Sequence
    def __init__(self, sequence: _Optional[_Union[Sequence, _Mapping]] = ...) -> None: ...

class SnapshotResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: SnapshotInfo
    def __init__(self, snapshot: _Optional[_Union[SnapshotInfo, _Mapping]] = ...) -> None: ...

class ListSnapshotsResponse(_message.Message):
    __slots__ = ("snapshots", "cursor")
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[SnapshotInfo]
    cursor: str
    def __init__(self, snapshots: _Optional[_Iterable[_Union[SnapshotInfo, _Mapping]]] = ..., cursor: _Optional[str] = ...) -> None: ...

class DeleteSnapshotResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForkResponse(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: Sequence
    def __init__(self, sequence: _Optional[_Union[Sequence, _Mapping]] = ...) -> None: ...

class RollbackResponse(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: Sequence
    def __init__(self, sequence: _Optional[_Union[Sequence, _Mapping]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "data", "values", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    values: _containers.RepeatedScalarFieldContainer[float]
    digest: str
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., values: _Optional[_Iterable[float]] = ..., digest: _Optional[str] = ...) -> None: ...

class ReadStateResponse(_message.Message):
    __slots__ = ("step", "incarnation", "model_digest", "tensors")
    STEP_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    step: int
    incarnation: str
    model_digest: str
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, step: _Optional[int] = ..., incarnation: _Optional[str] = ..., model_digest: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class RecordResponse(_message.Message):
    __slots__ = ("recording",)
    RECORDING_FIELD_NUMBER: _ClassVar[int]
    recording: Recording
    def __init__(self, recording: _Optional[_Union[Recording, _Mapping]] = ...) -> None: ...
