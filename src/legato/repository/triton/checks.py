"""What Triton refuses in a config, in its words where they are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from legato.core.errors import ConfigError
from legato.repository.triton.gen import model_config_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

START: Final = pb.ModelSequenceBatching.Control.CONTROL_SEQUENCE_START
READY: Final = pb.ModelSequenceBatching.Control.CONTROL_SEQUENCE_READY
END: Final = pb.ModelSequenceBatching.Control.CONTROL_SEQUENCE_END
CORRID: Final = pb.ModelSequenceBatching.Control.CONTROL_SEQUENCE_CORRID
BOOLEANS: Final = ("int32_false_true", "fp32_false_true", "bool_false_true")
_ID_TYPES = (pb.TYPE_UINT64, pb.TYPE_INT64, pb.TYPE_UINT32, pb.TYPE_INT32, pb.TYPE_STRING)


def check_config(config: pb.ModelConfig) -> None:
    """Refuse a config that contradicts itself.

    Raises:
        ConfigError: It does; the message names the model.
    """
    name = config.name
    if config.max_batch_size < 0:
        raise _wrong(
            f"'max_batch_size' must be non-negative value in model configuration for {name}"
        )
    for what, tensors in (("input", config.input), ("output", config.output)):
        _check_tensors(name, what, tensors)
    _check_supported(config)
    if config.HasField("sequence_batching"):
        _check_sequences(config)
    if config.HasField("dynamic_batching"):
        dynamic = config.dynamic_batching
        _check_preferred(
            name, "dynamic batching", dynamic.preferred_batch_size, config.max_batch_size
        )
        _check_priorities(name, dynamic)


def _wrong(problem: str, fix: str = "") -> ConfigError:
    return ConfigError(problem, fix=fix)


def _check_tensors(
    model: str, what: str, tensors: Iterable[pb.ModelInput] | Iterable[pb.ModelOutput]
) -> None:
    seen: set[str] = set()
    for tensor in tensors:
        if not tensor.name:
            raise _wrong(f"model {what} must specify 'name' for {model}")
        if tensor.name in seen:
            raise _wrong(f"model {what} '{tensor.name}' is listed twice for {model}")
        seen.add(tensor.name)
        if tensor.data_type == pb.TYPE_INVALID:
            raise _wrong(f"model {what} '{tensor.name}' must specify 'data_type' for {model}")
        if not tensor.dims:
            raise _wrong(f"model {what} '{tensor.name}' must specify 'dims' for {model}")
        _check_dims(model, f"{what} '{tensor.name}'", tensor.dims)
        if tensor.HasField("reshape"):
            _check_reshape(model, f"{what} '{tensor.name}'", tensor.dims, tensor.reshape.shape)
        if tensor.is_shape_tensor:
            raise _wrong(f"model {what} '{tensor.name}' is a shape tensor, which only TensorRT has")


def _check_dims(model: str, what: str, dims: Sequence[int]) -> None:
    if any(dim < 1 and dim != -1 for dim in dims):
        raise _wrong(
            f"model {what} dimension must be integer >= 1, or -1 to indicate a variable-size "
            f"dimension for {model}"
        )


def _check_reshape(model: str, what: str, dims: Sequence[int], shape: Sequence[int]) -> None:
    sizes = []
    for each in (dims, shape):
        fixed = 1
        for dim in each:
            fixed *= dim if dim != -1 else 1
        sizes.append((fixed, list(each).count(-1)))
    if sizes[0] != sizes[1]:
        raise _wrong(
            f"model {what} has different size for dims and reshape for {model}: "
            f"{list(dims)} and {list(shape)}"
        )


def _check_supported(config: pb.ModelConfig) -> None:
    """Refuse what would change answers and is not done here."""
    if config.batch_input or config.batch_output:
        raise _wrong(f"'batch_input' and 'batch_output' are not offered here, for {config.name}")
    if config.model_operations.op_library_filename:
        raise _wrong(
            f"'model_operations' of {config.name} names libraries to load, which are not loaded "
            "here",
            "export the model without custom operations",
        )
    if config.model_repository_agents.agents:
        raise _wrong(f"repository agents are not offered here, for {config.name}")
    if any(group.count < 0 for group in config.instance_group):
        raise _wrong(f"instance group of {config.name} has a negative 'count'")


# -- sequence batching ---------------------------------------------------------------------------


def _check_sequences(config: pb.ModelConfig) -> None:
    model, batching = config.name, config.sequence_batching
    if config.response_cache.enable:
        raise _wrong(
            f"Response caching for {model} cannot be used with sequence batching: answers depend "
            "on what came before"
        )
    _check_controls(model, batching.control_input)
    oldest = batching.oldest
    _check_preferred(model, "sequence batching", oldest.preferred_batch_size, config.max_batch_size)
    if oldest.max_candidate_sequences < 0:
        raise _wrong(
            f"sequence batching 'max_candidate_sequences' must not be negative for {model}"
        )
    if not 0.0 <= batching.direct.minimum_slot_utilization <= 1.0:
        raise _wrong(
            f"sequence batching minimum slot utilization must be in range [0.0, 1.0] for {model}"
        )
    for state in batching.state:
        _check_state(model, state)


def _check_preferred(model: str, what: str, sizes: Iterable[int], largest: int) -> None:
    for size in sizes:
        if size <= 0:
            raise _wrong(f"{what} preferred batch size must be positive for {model}")
        if size > largest:
            raise _wrong(f"{what} preferred batch size must be <= max batch size for {model}")


def _check_controls(
    model: str, inputs: Iterable[pb.ModelSequenceBatching.ControlInput]
) -> None:  # fmt: skip
    tensors: set[str] = set()
    kinds: set[int] = set()
    for tensor in inputs:
        if not tensor.name:
            raise _wrong(f"sequence batching control tensor must have a name for {model}")
        if not tensor.control:
            raise _wrong(
                f"sequence batching control tensor '{tensor.name}' tells nothing, for {model}",
                "give it a 'control' with its kind",
            )
        if tensor.name in tensors or len(tensor.control) > 1:
            raise _wrong(
                f"sequence batching control tensor '{tensor.name}' is specified for multiple "
                f"control kinds for {model}"
            )
        tensors.add(tensor.name)
        control = tensor.control[0]
        kind = pb.ModelSequenceBatching.Control.Kind.Name(control.kind)
        if control.kind in kinds:
            raise _wrong(f"sequence batching specifies multiple {kind} tensors for {model}")
        kinds.add(control.kind)
        _check_values(model, kind, control)


def _check_values(model: str, kind: str, control: pb.ModelSequenceBatching.Control) -> None:
    names = ", ".join(f"'{name}'" for name in BOOLEANS)
    given = [name for name in BOOLEANS if len(getattr(control, name))]
    if control.kind == CORRID:
        if given:
            raise _wrong(f"sequence batching must not specify {names} for {kind} for {model}")
        if control.data_type not in _ID_TYPES:
            raise _wrong(
                f"unexpected data type for control {kind} for {model}",
                "give 'data_type': TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 or TYPE_STRING",
            )
        return
    if not given:
        raise _wrong(f"sequence batching must specify one of {names} for {kind} for {model}")
    if len(given) > 1:
        raise _wrong(f"sequence batching specifies more than one of {names} for {kind} for {model}")
    if len(getattr(control, given[0])) != 2:
        raise _wrong(
            f"sequence batching control '{given[0]}' must have exactly 2 entries for {kind} "
            f"for {model}"
        )


def _check_state(model: str, state: pb.ModelSequenceBatching.State) -> None:
    what = f"state '{state.input_name}'"
    if not state.input_name or not state.output_name:
        raise _wrong(f"a state must specify 'input_name' and 'output_name' for {model}")
    if state.data_type == pb.TYPE_INVALID:
        raise _wrong(f"{what} must specify 'data_type' for {model}")
    _check_dims(model, what, state.dims)
    if len(state.initial_state) > 1:
        raise _wrong(f"initial_state field for {what} must contain exactly one or zero element")
    for initial in state.initial_state:
        if not initial.name:
            raise _wrong(f"initial state of {what} must have a 'name' for {model}")
        if initial.data_type != state.data_type:
            raise _wrong(f"initial state of {what} has another data type than the state")
        if any(dim < 1 for dim in initial.dims):
            raise _wrong(f"initial state of {what} must have dims >= 1, none of them -1")
        if len(initial.dims) != len(state.dims) or any(
            want not in (-1, got) for want, got in zip(state.dims, initial.dims, strict=True)
        ):
            raise _wrong(
                f"initial state of {what} has dims {list(initial.dims)}, the state "
                f"{list(state.dims)}"
            )
        if initial.WhichOneof("state_data") is None:
            raise _wrong(f"initial state of {what} must have 'zero_data' or 'data_file'")


def _check_priorities(model: str, batching: pb.ModelDynamicBatching) -> None:
    levels = batching.priority_levels
    if levels and not 1 <= batching.default_priority_level <= levels:
        raise _wrong(
            f"default priority level must be in range [1, {levels}] for {model}",
            "set 'default_priority_level'",
        )
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            raise _wrong(f"priority queue policy must have levels in [1, {levels}] for {model}")
