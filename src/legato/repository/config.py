"""``model.yaml``: what to serve and how, checked by pydantic.

Every model, whatever repository format it came from, becomes a
:class:`ModelConfig`. Bare model files get one with defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputConfig(_Strict):
    """How an input is fed; anything left out comes from the model file."""

    dtype: str | None = None
    shape: list[int] | None = Field(
        default=None, description="row shape with the batch axis as 1, -1 for any size"
    )
    batch_axis: int | None = None
    scalar: bool = Field(default=False, description="no batch axis; rows of a batch must agree")
    default: Any = None
    optional: bool = False
    from_client: bool = Field(
        default=False, description="clients send it: it is never taken for a state"
    )
    reshape: list[int] | None = Field(
        default=None, description="the model's own row shape, where clients see 'shape'"
    )
    control: Literal["start", "not_start", "end", "ready", "correlation_id"] | None = None
    control_values: list[Any] = Field(default=[0, 1], min_length=2, max_length=2)


class OutputConfig(_Strict):
    """How an output is read; anything left out comes from the model file."""

    dtype: str | None = None
    shape: list[int] | None = None
    batch_axis: int | None = None
    reshape: list[int] | None = Field(
        default=None, description="the model's own row shape, where clients see 'shape'"
    )


class StateConfig(_Strict):
    """One state; see :class:`legato.core.types.StateSpec`."""

    name: str | None = None
    input: str
    output: str | None = None
    rule: Literal["replace", "keep_if_empty", "write_once", "append", "window"] = "replace"
    dtype: str | None = None
    shape: list[int] | None = None
    batch_axis: int | None = None
    axis: int = 0
    size: int = 0
    append_new_only: bool = False
    max_length: int = 0
    initial: Any = Field(
        default=None,
        description="number, nested list, or path of a .npy file (another file: raw values)",
    )
    first_shape: list[int] | None = Field(
        default=None, description="row shape of the first value, where sizes vary; they begin as 0"
    )


class SequenceConfig(_Strict):
    """Limits and rules of the model's sequences."""

    idle_timeout_s: float = Field(default=3600.0, ge=0, description="0 = never expires")
    max_age_s: float = Field(
        default=0.0, ge=0, description="0 = none; an older one gives way to a new one"
    )
    max_live: int = Field(default=0, ge=0, description="0 = no limit")
    max_backlog: int = Field(default=1024, ge=0)
    max_queued_steps: int = Field(default=64, ge=1)
    receipts: int = Field(default=1, ge=1, le=1024)
    dedupe: Literal["none", "request_id"] = "none"
    start_of_live: Literal["dialect", "restart", "refuse"] = Field(
        default="dialect", description="what START of a live id does; dialect: as its protocol says"
    )
    iterative: bool = Field(
        default=False, description="each request is a sequence: the model may run it again"
    )


class RecordConfig(_Strict):
    """How the steps of a model's sequences are recorded."""

    max_bytes: int = Field(default=1 << 30, ge=0, description="of one file, 0 = no limit")


class WorkerConfig(_Strict):
    """How the worker processes of a model are run (``instance: process``)."""

    startup_timeout_s: float = Field(default=120.0, gt=0)
    response_timeout_s: float = Field(
        default=120.0, gt=0, description="longest model call; then the worker is killed"
    )
    python: str | None = Field(default=None, description="another interpreter than the server's")
    path: list[str] = Field(default=[], description="further folders to import from")
    environment: dict[str, str] = {}
    hide_variables: str = Field(
        default="", description="regular expression of variables that workers do not see"
    )
    shared_memory_from: int = Field(
        default=64 * 1024, ge=0, description="bytes of an array that goes by shared memory"
    )


class QueuePolicy(_Strict):
    """How long steps of a model without state may wait to be run, and how many."""

    timeout_s: float = Field(default=0.0, ge=0, description="0 = no limit")
    on_timeout: Literal["reject", "delay"] = Field(
        default="reject", description="delay: run it after all that are in time"
    )
    client_may_say: bool = Field(default=False, description="a request may name its own timeout")
    max_size: int = Field(default=0, ge=0, description="most waiting steps, 0 = no limit")


class QueueConfig(_Strict):
    """Priorities and time limits of the steps of a model without state."""

    levels: int = Field(default=0, ge=0, description="1 is the highest; 0 = no priorities")
    default_level: int = Field(default=0, ge=0)
    default: QueuePolicy = QueuePolicy()
    by_level: dict[int, QueuePolicy] = {}


class WarmupInput(_Strict):
    """What one input gets in a warm-up: zeros, random values, or the bytes of a file."""

    dtype: str
    shape: list[int]
    random: bool = False
    file: Path | None = None


class WarmupConfig(_Strict):
    """Model calls made at load, before the first step is taken."""

    name: str = ""
    rows: int = Field(default=1, ge=1)
    calls: int = Field(default=1, ge=1)
    inputs: dict[str, WarmupInput] = {}


class ModelConfig(_Strict):
    """A model to serve."""

    name: str = Field(min_length=1, max_length=200)
    version: str = "1"
    runtime: Literal["onnx", "python", "openvino", "torch", "torchserve", "triton_python"] = "onnx"
    file: Path | None = Field(default=None, description="model file, absolute once loaded")
    entry: str | None = Field(default=None, description="python: 'file.py:Class'")
    files: list[Path] = Field(
        default=[],
        description="further files the model reads, from its folder; part of its content digest",
    )
    folder: Path = Path()
    options: dict[str, Any] = Field(
        default_factory=dict, description="handed to the runtime; python: to the class"
    )

    batching: Literal["auto", "off", "force"] = "auto"
    max_batch_size: int = Field(default=128, ge=1)
    max_queue_delay_ms: float = Field(default=0.0, ge=0)
    preferred_batch_sizes: list[int] = []
    wait_for: Literal["any", "live"] = Field(
        default="any", description="live: a delay waits only for sequences that live now"
    )
    preserve_order: bool = Field(
        default=False, description="answers leave in the order in which the steps came"
    )
    queue: QueueConfig | None = None
    max_queued: int = Field(default=100_000, ge=1)
    instances: int = Field(
        default=1, ge=0, le=64, description="0 only for workers that are added later"
    )
    instance: Literal["thread", "process"] = Field(
        default="thread", description="where a model call runs: in this process or in a worker"
    )
    worker: WorkerConfig = WorkerConfig()
    threads: int = Field(default=1, ge=0, description="threads inside a model call, 0 = runtime's")
    execution: Literal["auto", "inline", "thread"] = "auto"
    gate: bool = True
    reject_non_finite: bool = True

    inputs: dict[str, InputConfig] = {}
    outputs: dict[str, OutputConfig] = {}
    states: list[StateConfig] | None = Field(default=None, description="None = discover")
    discover: bool = True
    only_named_inputs: bool = Field(
        default=False, description="the config names every input that clients send"
    )
    only_named_outputs: bool = Field(
        default=False, description="outputs that the config does not name are not served"
    )
    sequenced: bool = Field(
        default=False, description="steps belong to sequences also where nothing is carried"
    )
    sequences: SequenceConfig = SequenceConfig()
    warmup: list[WarmupConfig] = []
    record: bool | RecordConfig = Field(
        default=False, description="write the steps of every sequence to the data folder"
    )
    compatible_with: list[str] = Field(
        default=[], description="content digests of models whose state this one can read"
    )
    origin: dict[str, Any] = Field(
        default={},
        description="the model as its own repository describes it, for protocols that tell it; "
        "Triton: the completed ModelConfig as JSON, names in snake_case. Changes no state and no "
        "digest",
    )

    @property
    def recording(self) -> RecordConfig:
        """How steps are recorded, where they are."""
        return self.record if isinstance(self.record, RecordConfig) else RecordConfig()

    @property
    def decoupled(self) -> bool:
        """Whether a request may get any number of answers (Triton's transaction policy)."""
        return bool(self.origin.get("model_transaction_policy", {}).get("decoupled"))

    @property
    def late(self) -> bool:
        """Whether a call may end before all of its requests are answered."""
        return self.runtime == "triton_python" and self.decoupled and not self.sequenced

    @model_validator(mode="after")
    def _has_an_instance(self) -> Self:
        if self.runtime == "torchserve":
            if self.instance != "process":
                raise ValueError("'runtime: torchserve' needs 'instance: process'")
        elif not self.instances:
            raise ValueError("'instances' must be at least 1")
        if self.runtime == "triton_python" and self.instance != "process":
            raise ValueError("'runtime: triton_python' needs 'instance: process'")
        if self.instance == "process" and self.execution == "inline":
            raise ValueError("'execution: inline' does not go with 'instance: process'")
        return self

    @field_validator("name", "version")
    @classmethod
    def _fits_a_path(cls, value: str) -> str:
        # Both become parts of URL paths in every protocol.
        if not value or "/" in value or not value.isprintable():
            raise ValueError("must be printable text without '/'")
        return value

    @field_validator("version", mode="before")
    @classmethod
    def _version_as_text(cls, value: object) -> object:
        # People write 'version: 2', which YAML reads as a number.
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
