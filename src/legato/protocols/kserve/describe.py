"""What is served, in messages of the protocol: metadata, configuration, statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from google.protobuf.json_format import ParseDict

from legato.core.types import ControlKind, InputKind, UpdateRule
from legato.protocols.kserve.datatypes import config_type, wire_name
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.repository.triton.gen import model_config_pb2 as config_pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from legato.core.types import Signature, StateSpec, TensorSpec
    from legato.engine.statistics import ModelStatistics
    from legato.protocols.kserve.ports import ServedModel

RECEIPTS = "sequence_receipts"
"""Parameter of a configuration: answers that are kept of a sequence, for repeated steps."""

_BACKENDS = {"onnx": "onnxruntime", "python": "python", "openvino": "openvino", "torch": "pytorch"}
_CONTROL_KINDS = {
    ControlKind.START: "CONTROL_SEQUENCE_START",
    ControlKind.END: "CONTROL_SEQUENCE_END",
    ControlKind.READY: "CONTROL_SEQUENCE_READY",
    ControlKind.CORRELATION_ID: "CONTROL_SEQUENCE_CORRID",
}


def server_metadata(version: str, extensions: Iterable[str]) -> pb.ServerMetadataResponse:
    """Return the answer to ServerMetadata."""
    return pb.ServerMetadataResponse(name="legato", version=version, extensions=extensions)


def client_inputs(signature: Signature) -> list[TensorSpec]:
    """Return the inputs that clients send."""
    return [spec for spec in signature.inputs if spec.kind is not InputKind.CONTROL]


def may_be_left_out(spec: TensorSpec, signature: Signature) -> bool:
    """Tell whether a step is complete without this input."""
    sent_once = any(
        state.rule is UpdateRule.WRITE_ONCE and state.input == spec.name
        for state in signature.states
    )
    return sent_once or spec.optional or spec.default is not None


def has_batch_dimension(signature: Signature) -> bool:
    """Tell whether every tensor of a client has its batch axis in front.

    Only then can ``max_batch_size`` be above 0, which means just that to clients.
    """
    return all(
        spec.batch_axis == 0 and len(spec.shape) > 0
        for spec in (*client_inputs(signature), *signature.outputs)
    )


def is_batched(model: ServedModel) -> bool:
    """Tell whether clients see a batch dimension in front: as the model's own config says."""
    origin = model.config.origin
    if origin.get("input") or origin.get("max_batch_size"):
        return bool(origin.get("max_batch_size"))
    return has_batch_dimension(model.signature)


def model_metadata(model: ServedModel, versions: Iterable[str] = ()) -> pb.ModelMetadataResponse:
    """Return the answer to ModelMetadata.

    Args:
        model: What is described.
        versions: All served versions of the model; by default this one.
    """
    signature = model.signature
    batched = is_batched(model)
    response = pb.ModelMetadataResponse(
        name=model.name, versions=versions or [model.version], platform=_platform(model)
    )
    for spec in client_inputs(signature):
        shape = (-1, *spec.shape[1:]) if batched else spec.shape
        response.inputs.add(name=spec.name, datatype=wire_name(spec.dtype), shape=shape)
    for spec in signature.outputs:
        shape = (-1, *spec.shape[1:]) if batched else spec.shape
        response.outputs.add(name=spec.name, datatype=wire_name(spec.dtype), shape=shape)
    return response


def _platform(model: ServedModel) -> str:
    return model.signature.platform or _BACKENDS.get(model.config.runtime, model.config.runtime)


# -- configuration ------------------------------------------------------------------------


def model_config(model: ServedModel) -> config_pb.ModelConfig:
    """Return a model's configuration as Triton's clients read it.

    A model of a Triton repository has its own, completed; it is made up for others.
    """
    made = _own_config(model) if model.config.origin else _made_up_config(model)
    if model.signature.states:
        receipts = str(model.config.sequences.receipts)
        made.parameters[RECEIPTS].string_value = receipts
    return made


def _own_config(model: ServedModel) -> config_pb.ModelConfig:
    """Return what the repository says, and what it leaves out as it was found."""
    made = ParseDict(model.config.origin, config_pb.ModelConfig(), ignore_unknown_fields=True)
    found = _made_up_config(model)
    if not made.input and not made.max_batch_size:
        made.max_batch_size = found.max_batch_size
    for tensors, others in ((made.input, found.input), (made.output, found.output)):
        if not tensors:
            tensors.extend(others)  # type: ignore[arg-type]  # of the same kind each
    if found.HasField("sequence_batching"):
        inferred = found.sequence_batching
        if made.WhichOneof("scheduling_choice") is None:
            made.sequence_batching.CopyFrom(inferred)
        elif made.HasField("sequence_batching") and not made.sequence_batching.state:
            made.sequence_batching.state.extend(inferred.state)
    return made


def _made_up_config(model: ServedModel) -> config_pb.ModelConfig:
    signature, config = model.signature, model.config
    batched = is_batched(model)
    largest = signature.most_rows or config.max_batch_size if signature.batching else 1
    made = config_pb.ModelConfig(
        name=model.name,
        platform=_platform(model),
        backend=_BACKENDS.get(config.runtime, config.runtime),
        max_batch_size=largest if batched else 0,
        default_model_filename=config.file.name if config.file is not None else "",
    )
    made.version_policy.latest.num_versions = 1
    made.model_transaction_policy.decoupled = False
    made.instance_group.add(
        name=f"{model.name}_0", count=config.instances, kind=config_pb.ModelInstanceGroup.KIND_CPU
    )
    for spec in client_inputs(signature):
        made.input.add(
            name=spec.name,
            data_type=config_type(spec.dtype),
            dims=_dims(spec, batched=batched),
            optional=may_be_left_out(spec, signature),
        )
    for spec in signature.outputs:
        made.output.add(
            name=spec.name,
            data_type=config_type(spec.dtype),
            dims=_dims(spec, batched=batched),
        )
    if signature.states:
        _describe_sequences(made.sequence_batching, model, batched=batched)
    elif batched and signature.batching:
        made.dynamic_batching.max_queue_delay_microseconds = round(config.max_queue_delay_ms * 1000)
        made.dynamic_batching.preferred_batch_size.extend(config.preferred_batch_sizes)
    return made


def _dims(spec: TensorSpec, *, batched: bool) -> tuple[int, ...]:
    return spec.shape[1:] if batched else spec.shape


def _describe_sequences(
    made: config_pb.ModelSequenceBatching, model: ServedModel, *, batched: bool
) -> None:
    config = model.config
    made.max_sequence_idle_microseconds = round(config.sequences.idle_timeout_s * 1e6)
    made.oldest.max_candidate_sequences = min(config.sequences.max_live, 2**31 - 1)
    made.oldest.preferred_batch_size.extend(config.preferred_batch_sizes)
    made.oldest.max_queue_delay_microseconds = round(config.max_queue_delay_ms * 1000)
    for spec in model.signature.inputs:
        if spec.control is not None and spec.control in _CONTROL_KINDS:
            _describe_control(made.control_input.add(name=spec.name).control.add(), spec)
    for state in model.signature.states:
        # A window is no input of the graph, nor is what a Python model keeps by itself.
        if state.rule is not UpdateRule.WINDOW and not state.ragged:
            _describe_state(made.state.add(), state, batched=batched)


def _describe_control(control: config_pb.ModelSequenceBatching.Control, spec: TensorSpec) -> None:
    kind = _CONTROL_KINDS[spec.control or ControlKind.START]
    control.kind = cast("Any", config_pb.ModelSequenceBatching.Control.Kind.Value(kind))
    if spec.control is ControlKind.CORRELATION_ID:
        control.data_type = config_type(spec.dtype)
    elif spec.dtype == "bool":
        control.bool_false_true.extend(bool(value) for value in spec.control_values)
    elif spec.dtype.startswith("float"):
        control.fp32_false_true.extend(float(value) for value in spec.control_values)
    else:
        control.int32_false_true.extend(int(value) for value in spec.control_values)


def _describe_state(
    made: config_pb.ModelSequenceBatching.State, state: StateSpec, *, batched: bool
) -> None:
    made.input_name = state.input
    made.output_name = state.output or ""
    made.data_type = config_type(state.dtype)
    drop = batched and state.batch_axis == 0
    made.dims.extend(state.shape[1:] if drop else state.shape)


# -- statistics ---------------------------------------------------------------------------


def model_statistics(models: Iterable[ServedModel]) -> pb.ModelStatisticsResponse:
    """Return the answer to ModelStatistics.

    A row counts as an inference when it was committed; a repeated answer counts as a
    success but not as an inference. Time to gather and to scatter rows is part of
    ``compute_infer``: it is not measured apart, so the other two stay at 0 ns.
    """
    response = pb.ModelStatisticsResponse()
    for model in models:
        entry = response.model_stats.add(name=model.name, version=model.version)
        _count(entry, model.statistics)
    return response


def _count(entry: pb.ModelStatistics, counts: ModelStatistics) -> None:
    queue_ns = round(counts.queue_s.total * 1e9)
    compute_ns = round(1e9 * sum(size * pair[1] for size, pair in counts.batch_seconds.items()))
    entry.last_inference = round(counts.last_step_at * 1000)
    entry.inference_count = counts.applied
    entry.execution_count = counts.batches
    inference = entry.inference_stats
    inference.success.count = counts.applied + counts.replayed
    inference.success.ns = queue_ns + compute_ns
    inference.fail.count = sum(counts.failed.values())
    inference.fail.ns = round(counts.failed_s * 1e9)
    inference.queue.count = counts.queue_s.count
    inference.queue.ns = queue_ns
    for part in (inference.compute_input, inference.compute_infer, inference.compute_output):
        part.count = counts.applied
    inference.compute_infer.ns = compute_ns
    for size, (calls, seconds) in sorted(counts.batch_seconds.items()):
        batch = entry.batch_stats.add(batch_size=size)
        for part in (batch.compute_input, batch.compute_infer, batch.compute_output):
            part.count = int(calls)
        batch.compute_infer.ns = round(seconds * 1e9)
