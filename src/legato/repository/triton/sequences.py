"""``sequence_batching`` and ``dynamic_batching`` as parts of a :class:`ModelConfig`.

Rows of one model call need no fixed places here, so no slots are kept: a sequence never
waits for one, a hole is never filled with a null row, and READY is always true. What stays
of the two strategies is what a client or a model can see: how long a batch waits, how many
sequences there may be, and in which order answers leave.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from legato.repository.triton.checks import BOOLEANS, CORRID, END, READY, START
from legato.repository.triton.folders import inside
from legato.repository.triton.gen import model_config_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

IDLE_US: Final = 1_000_000
MOST_STEPS: Final = 1024
"""Unanswered steps of one sequence; Triton knows no limit, and its load generator sends many."""
_KINDS = {START: "start", READY: "ready", END: "end", CORRID: "correlation_id"}
_DTYPES = {
    "int32_false_true": "int32", "fp32_false_true": "float32", "bool_false_true": "bool",
}  # fmt: skip
_NAMES = {
    "BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64", "BF16": "bfloat16",
    "STRING": "object",
}  # fmt: skip
_BOUND = 2**31 - 1


def dtype_name(data_type: int) -> str:
    """Return the numpy name of a data type."""
    name = pb.DataType.Name(data_type).removeprefix("TYPE_")
    return _NAMES.get(name, name.lower())


def controls(config: pb.ModelConfig) -> dict[str, dict[str, Any]]:
    """Return the control inputs, by name, as entries of ``inputs``."""
    made: dict[str, dict[str, Any]] = {}
    for tensor in config.sequence_batching.control_input:
        control = tensor.control[0]
        entry: dict[str, Any] = {"control": _KINDS[control.kind]}
        if control.kind == CORRID:
            entry["dtype"] = dtype_name(control.data_type)
        else:
            (field,) = [name for name in BOOLEANS if len(getattr(control, name))]
            entry["dtype"] = _DTYPES[field]
            entry["control_values"] = list(getattr(control, field))
        entry["shape"] = [1, 1] if config.max_batch_size else [1]
        if config.max_batch_size:
            entry["batch_axis"] = 0
        made[tensor.name] = entry
    return made


def states(config: pb.ModelConfig, model: Path) -> list[dict[str, Any]]:
    """Return the implicit states as entries of ``states``, in an order of their own.

    What is stored of a sequence has the order of the states, so it must not change with
    that of the config.
    """
    made = []
    for state in sorted(config.sequence_batching.state, key=lambda each: each.input_name):
        batch = [1] if config.max_batch_size else []
        entry: dict[str, Any] = {
            "input": state.input_name,
            "output": state.output_name,
            "dtype": dtype_name(state.data_type),
            "shape": [*batch, *state.dims],
            # Where nothing is given, a size that varies begins as 1, as in Triton.
            "first_shape": [*batch, *(max(dim, 1) for dim in state.dims)],
        }
        if batch:
            entry["batch_axis"] = 0
        for initial in state.initial_state:
            entry["first_shape"] = [*batch, *initial.dims]
            if initial.WhichOneof("state_data") == "data_file":
                folder = model / "initial_state"
                entry["initial"] = str(inside(folder, initial.data_file, "data_file"))
        made.append(entry)
    return made


def sequence_rules(config: pb.ModelConfig, instances: int) -> dict[str, Any]:
    """Return what ``sequence_batching`` asks of the engine."""
    batching = config.sequence_batching
    rules: dict[str, Any] = {
        "sequenced": True,
        "wait_for": "live",
        "sequences": {
            "max_queued_steps": MOST_STEPS,
            "idle_timeout_s": (batching.max_sequence_idle_microseconds or IDLE_US) / 1e6,
            "iterative": batching.iterative_sequence,
        },
    }
    largest = max(1, config.max_batch_size)
    if batching.WhichOneof("strategy_choice") == "oldest":
        oldest = batching.oldest
        rules["max_queue_delay_ms"] = oldest.max_queue_delay_microseconds / 1e3
        rules["preferred_batch_sizes"] = list(oldest.preferred_batch_size)
        rules["preserve_order"] = oldest.preserve_ordering
        live = oldest.max_candidate_sequences * max(1, instances)
        rules["sequences"]["max_live"] = min(live, _BOUND)
    elif batching.direct.minimum_slot_utilization and batching.direct.max_queue_delay_microseconds:
        # Only together do they make a round wait.
        least = max(1, math.ceil(batching.direct.minimum_slot_utilization * largest))
        rules["max_queue_delay_ms"] = batching.direct.max_queue_delay_microseconds / 1e3
        rules["preferred_batch_sizes"] = list(range(least, largest + 1))
    return rules


def dynamic_rules(config: pb.ModelConfig) -> dict[str, Any]:
    """Return what ``dynamic_batching`` asks of the engine."""
    batching = config.dynamic_batching
    rules: dict[str, Any] = {
        "max_queue_delay_ms": batching.max_queue_delay_microseconds / 1e3,
        "preferred_batch_sizes": list(batching.preferred_batch_size),
        "preserve_order": batching.preserve_ordering,
    }
    policies = {level: _policy(each) for level, each in batching.priority_queue_policy.items()}
    default = _policy(batching.default_queue_policy)
    if batching.priority_levels or default or policies:
        rules["queue"] = {
            "levels": min(batching.priority_levels, _BOUND),
            "default_level": min(batching.default_priority_level, _BOUND),
            "default": default,
            "by_level": policies,
        }
    return rules


def _policy(policy: pb.ModelQueuePolicy) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if policy.default_timeout_microseconds:
        made["timeout_s"] = policy.default_timeout_microseconds / 1e6
    if policy.timeout_action == pb.ModelQueuePolicy.DELAY:
        made["on_timeout"] = "delay"
    if policy.allow_timeout_override:
        made["client_may_say"] = True
    if policy.max_queue_size:
        made["max_size"] = policy.max_queue_size
    return made
