"""KServe messages of one sequence: steps out, answers in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from legato.client.errors import Failure
from legato.client.tensors import ModelInfo, Outputs, Payload, TensorInfo, decode
from legato.protocols.kserve.gen import kserve_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from legato.client.window import Pending
    from legato.repository.triton.gen import model_config_pb2 as config_pb

SERVICE = "/inference.GRPCInferenceService/"
RECEIPTS = "sequence_receipts"  # parameter of a model's configuration

_STATUS = "legato-status"
_REASON = "legato-reason"
_EXPECTED_STEP = "legato-expected-step"
_RETRY_AFTER_MS = "legato-retry-after-ms"


def start_parameters(
    *, restart: bool = False, idle_timeout_s: float | None = None, durability: str = ""
) -> dict[str, bool | float | str]:
    """Return the parameters of a first step.

    Args:
        restart: It may replace a live sequence of this id.
        idle_timeout_s: When to give up the sequence; ``None`` = as the model says.
        durability: What its steps are to survive; "" = as the server says.
    """
    made: dict[str, bool | float | str] = {"sequence_start": True}
    if restart:
        made["sequence_restart"] = True
    if idle_timeout_s is not None:
        made["sequence_idle_timeout_s"] = float(idle_timeout_s)
    if durability:
        made["sequence_durability"] = durability
    return made


class StepWriter:
    """Writes the requests of one sequence. Not thread-safe.

    Args:
        model, version: What to step; version "" = the server's choice.
        sequence: Correlation id.
        outputs: Outputs asked for; empty = all.
        starting: Parameters of the first step (:func:`start_parameters`).
    """

    def __init__(
        self,
        model: str,
        version: str,
        sequence: int | str,
        outputs: Sequence[str] = (),
        *,
        starting: Mapping[str, bool | float | str],
    ) -> None:
        self._request = pb.ModelInferRequest(model_name=model, model_version=version)
        name = self._request.parameters["sequence_id"]
        if isinstance(sequence, str):
            name.string_param = sequence
        elif sequence < 2**63:
            name.int64_param = sequence
        else:
            name.uint64_param = sequence
        for output in outputs:
            self._request.outputs.add(name=output)
        self._start_parameters = starting
        self._headers: object = None
        self._starting = False

    def write(self, step: Pending, acknowledged: int, incarnation: str) -> bytes:
        """Return the request of a step.

        Args:
            step: The step; its payload is a :class:`~legato.client.tensors.Payload`.
            acknowledged: Number of the last step whose answer has arrived.
            incarnation: What the first answer said; "" = not known.
        """
        request, parameters = self._request, self._request.parameters
        request.id = step.request_id
        parameters["sequence_step"].int64_param = step.number
        if acknowledged:
            parameters["sequence_acknowledged"].int64_param = acknowledged
        if incarnation:
            parameters["sequence_incarnation"].string_param = incarnation
        if step.end or "sequence_end" in parameters:
            parameters["sequence_end"].bool_param = step.end
        self._mark_start(starting=step.number == 1)
        self._put(step.payload)
        return request.SerializeToString()

    def _mark_start(self, *, starting: bool) -> None:
        if starting == self._starting:
            return
        self._starting = starting
        for key, value in self._start_parameters.items():
            if not starting:
                del self._request.parameters[key]
            elif isinstance(value, bool):
                self._request.parameters[key].bool_param = value
            elif isinstance(value, str):
                self._request.parameters[key].string_param = value
            else:
                self._request.parameters[key].double_param = value

    def _put(self, payload: Payload) -> None:
        request = self._request
        if payload.headers != self._headers:
            del request.inputs[:]
            for name, datatype, shape in payload.headers:
                request.inputs.add(name=name, datatype=datatype, shape=shape)
            self._headers = payload.headers
        request.raw_input_contents[:] = payload.raws


# -- answers ------------------------------------------------------------------------------


def read_outputs(response: pb.ModelInferResponse, step: int) -> Outputs:
    """Return the arrays of an answer.

    Raises:
        SequenceError: They do not fit their shapes.
    """
    contents = zip(response.outputs, response.raw_output_contents, strict=True)
    arrays = {tensor.name: decode(raw, tensor.datatype, tensor.shape) for tensor, raw in contents}
    return Outputs(
        arrays,
        step,
        replayed="sequence_replayed" in response.parameters,
        version=response.model_version,
        durability=_text(response, "sequence_durability"),
    )


def incarnation_of(response: pb.ModelInferResponse) -> str:
    """Return the incarnation that an answer names, "" if it names none."""
    return _text(response, "sequence_incarnation")


def _text(response: pb.ModelInferResponse, key: str) -> str:
    # Asking a protobuf map for a key would put it there.
    return response.parameters[key].string_param if key in response.parameters else ""


def failure_of(
    code: str, message: str, trailers: Iterable[tuple[str, str | bytes]] | None
) -> Failure:
    """Return the failure that a gRPC status and its trailers tell of."""
    return _failure(code, message, {k: v for k, v in trailers or () if isinstance(v, str)})


def streamed_failure(message: pb.ModelStreamInferResponse) -> Failure:
    """Return the failure that a message of a stream tells of; only Legato tells its status."""
    parameters = message.infer_response.parameters
    facts = {key: value.string_param for key, value in parameters.items()}
    return _failure(facts.get(_STATUS, ""), message.error_message, facts)


def _failure(code: str, message: str, facts: Mapping[str, str]) -> Failure:
    expected, hint = facts.get(_EXPECTED_STEP, ""), facts.get(_RETRY_AFTER_MS, "")
    return Failure(
        code,
        message,
        facts.get(_REASON, ""),
        int(expected) if expected.isdigit() else None,
        int(hint) / 1000 if hint.isdigit() else None,
    )


# -- models -------------------------------------------------------------------------------


def model_info(
    metadata: pb.ModelMetadataResponse, config: config_pb.ModelConfig | None
) -> ModelInfo:
    """Return what a server tells of a model; a configuration says a little more."""
    optional: set[str] = set()
    receipts = None
    if config is not None:
        optional = {entry.name for entry in config.input if entry.optional}
        told = config.parameters[RECEIPTS].string_value if RECEIPTS in config.parameters else ""
        receipts = int(told) if told.isdigit() else None
    return ModelInfo(
        metadata.name,
        tuple(metadata.versions),
        tuple(
            TensorInfo(t.name, t.datatype, tuple(t.shape), t.name in optional)
            for t in metadata.inputs
        ),
        tuple(TensorInfo(t.name, t.datatype, tuple(t.shape)) for t in metadata.outputs),
        batched=config is not None and config.max_batch_size > 0,
        receipts=receipts,
    )
