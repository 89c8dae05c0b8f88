"""Triton's ModelConfig as ours: one config a version.

What a field of Triton's means here is said where it is read; what Triton fills in by itself
is filled in first, so that clients who ask for the config see it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from legato.core.errors import ConfigError
from legato.observe.log import get_logger
from legato.repository.config import ModelConfig
from legato.repository.triton.checks import check_config
from legato.repository.triton.folders import (
    BACKENDS,
    CONFIG,
    TRITON_CLASS,
    backend_of,
    inside,
    model_file,
    python_class,
)
from legato.repository.triton.gen import model_config_pb2 as pb
from legato.repository.triton.pbtxt import as_dict
from legato.repository.triton.sequences import (
    IDLE_US,
    controls,
    dtype_name,
    dynamic_rules,
    sequence_rules,
    states,
)

log = get_logger()

OURS = "legato."
"""Prefix of parameters that set keys of ``model.yaml``: ``legato.sequences.max_backlog``."""

_ENVIRONMENT = "EXECUTION_ENV_PATH"
_THREADS = "intra_op_thread_count"
_NOT_OURS = ("name", "version", "runtime", "file", "entry", "folder", "origin", "inputs",
             "outputs", "states")  # fmt: skip


def complete(config: pb.ModelConfig, model: Path, version: Path, *, auto: bool) -> str:
    """Fill in what Triton fills in, and check the whole; return the backend.

    Args:
        config: Changed in place.
        model: Folder of the model, which gives its name.
        version: Folder of one version, whose files may tell the backend.
        auto: Inputs and outputs may be left out.

    Raises:
        ConfigError: Something is wrong, or missing.
    """
    if config.name and config.name != model.name:
        raise ConfigError(
            f"unexpected directory name '{model.name}' for model '{config.name}', directory name "
            "must equal model name",
            key="name",
        )
    config.name = model.name
    backend = backend_of(config, version)
    config.backend = backend
    config.platform = config.platform or BACKENDS[backend][0]
    check_config(config)
    if not auto and not (config.input and config.output):
        raise ConfigError(
            f"must specify 'input' and 'output' for {config.name}",
            fix="write them into the config, or let the server complete it",
        )
    file = model_file(config, version, backend)
    in_own_folder = file.parent != version
    config.default_model_filename = file.parent.name if in_own_folder else file.name
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    _complete_instances(config)
    batching = config.sequence_batching if config.HasField("sequence_batching") else None
    if batching is not None:
        batching.max_sequence_idle_microseconds = batching.max_sequence_idle_microseconds or IDLE_US
        if batching.WhichOneof("strategy_choice") is None:
            batching.direct.SetInParent()
        if batching.HasField("oldest") and not batching.oldest.preferred_batch_size:
            batching.oldest.preferred_batch_size.append(max(1, config.max_batch_size))
    return backend


def _complete_instances(config: pb.ModelConfig) -> None:
    if not config.instance_group:
        config.instance_group.add()
    for number, group in enumerate(config.instance_group):
        group.name = group.name or f"{config.name}_{number}"
        group.count = group.count or 1
        if group.kind == pb.ModelInstanceGroup.KIND_AUTO:
            group.kind = pb.ModelInstanceGroup.KIND_GPU if group.gpus else _CPU


_CPU = pb.ModelInstanceGroup.KIND_CPU


def to_model_config(
    config: pb.ModelConfig, backend: str, model: Path, version: Path
) -> ModelConfig:
    """Return our config of one version of a completed config of Triton's.

    Raises:
        ConfigError: It cannot be served so; the message names the file.
    """
    file = model_file(config, version, backend)
    values: dict[str, Any] = {
        "name": config.name,
        "version": version.name,
        "runtime": BACKENDS[backend][1],
        "file": file,
        "folder": version,
        "instances": sum(group.count for group in config.instance_group if not group.passive) or 1,
        "origin": as_dict(config),
        **_batching(config),
        **_scheduling(config),
        **_tensors(config, model),
        **_warmup(config, model),
    }
    if backend == "python":
        _python(values, config, file, model)
    elif backend == "pytorch":
        values["options"] = _device(config)
    _tell_device(config, backend)
    text = config.parameters[_THREADS].string_value if _THREADS in config.parameters else ""
    if text.isdigit():
        values["threads"] = int(text)
    _overlay(values, config)
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(first["msg"], file=str(model / CONFIG), key=where) from None


def _batching(config: pb.ModelConfig) -> dict[str, Any]:
    """How many rows share a call.

    Without ``max_batch_size`` the dims are whole shapes: rows may still share a call where
    the file has an open axis on which every dim is 1, which the gate then proves.
    """
    if config.max_batch_size == 0:
        return {}
    return {
        "max_batch_size": config.max_batch_size,
        "batching": "auto" if config.max_batch_size > 1 else "off",
    }


def _scheduling(config: pb.ModelConfig) -> dict[str, Any]:
    if config.HasField("sequence_batching"):
        groups = [group for group in config.instance_group if not group.passive]
        return sequence_rules(config, sum(group.count for group in groups))
    if config.HasField("dynamic_batching"):
        return dynamic_rules(config)
    return {}


# -- tensors -------------------------------------------------------------------------------------


def _tensors(config: pb.ModelConfig, model: Path) -> dict[str, Any]:
    """Say what clients send and get, what the server makes, and what is carried."""
    made = controls(config)
    carried = states(config, model)
    batch = bool(config.max_batch_size)
    for tensor in config.input:
        made[tensor.name] = {**_tensor(tensor, batch), "from_client": True}
        if tensor.optional:
            made[tensor.name]["optional"] = True
    whole = bool(config.input)
    return {
        "inputs": made,
        "outputs": {tensor.name: _tensor(tensor, batch) for tensor in config.output},
        "states": carried or None,
        # What the config lists is all there is; only in what it leaves out, state is looked for.
        "only_named_inputs": whole,
        "only_named_outputs": bool(config.output),
        "discover": not carried,
    }


def _tensor(tensor: pb.ModelInput | pb.ModelOutput, batch: bool) -> dict[str, Any]:
    front = [1] if batch else []
    made: dict[str, Any] = {
        "dtype": dtype_name(tensor.data_type),
        "shape": [*front, *tensor.dims],
    }
    if tensor.HasField("reshape"):
        made["reshape"] = [*front, *tensor.reshape.shape]
    if batch:
        made["batch_axis"] = 0
    return made


def _python(values: dict[str, Any], config: pb.ModelConfig, file: Path, model: Path) -> None:
    """Whose class it is decides who runs it."""
    name = python_class(file)
    values["files"] = _others(file)
    if name == TRITON_CLASS:
        values["runtime"], values["instance"] = "triton_python", "process"
        values["options"] = {"model_config": values["origin"], "model_repository": str(model)}
        values["worker"] = _environment(config)
        return
    values["entry"] = f"{file.name}:{name}"
    # A Legato class declares its tensors itself.
    values["options"] = _parameters(config)
    values["file"] = None
    for key in ("inputs", "outputs", "states", "only_named_inputs", "only_named_outputs",
                "discover"):  # fmt: skip
        values.pop(key)


def _others(file: Path) -> list[Path]:
    """List what lies beside a Python file: what it imports or reads is part of the model."""
    found = (path for path in sorted(file.parent.rglob("*")) if path.is_file() and path != file)
    return [path.relative_to(file.parent) for path in found if "__pycache__" not in path.parts]


def _environment(config: pb.ModelConfig) -> dict[str, Any]:
    """Return how the worker is started: by the interpreter of a folder, where one is named.

    Raises:
        ConfigError: It is named by an archive.
    """
    if _ENVIRONMENT not in config.parameters:
        return {}
    folder = config.parameters[_ENVIRONMENT].string_value
    python = Path(folder) / "bin" / "python"
    if not python.is_file():
        raise ConfigError(
            f"'{folder}' holds no interpreter",
            key=f"parameters.{_ENVIRONMENT}",
            fix="unpack the environment, and name its folder",
        )
    return {"python": str(python)}


def _parameters(config: pb.ModelConfig) -> dict[str, str]:
    found = config.parameters.items()
    return {key: each.string_value for key, each in found if not key.startswith(OURS)}


def _device(config: pb.ModelConfig) -> dict[str, str]:
    for group in config.instance_group:
        if group.kind == pb.ModelInstanceGroup.KIND_GPU:
            return {"device": f"cuda:{group.gpus[0]}" if group.gpus else "cuda"}
    return {}


def _tell_device(config: pb.ModelConfig, backend: str) -> None:
    if backend not in ("pytorch", "python") and _device(config):
        log.warning(
            "runs_on_cpu", model=config.name, problem=f"{backend} models run on the CPU here"
        )


# -- the rest ------------------------------------------------------------------------------------


def _warmup(config: pb.ModelConfig, model: Path) -> dict[str, Any]:
    return {"warmup": [_warm(each, model, config) for each in config.model_warmup]}


def _warm(warmup: pb.ModelWarmup, model: Path, config: pb.ModelConfig) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    batch = [1] if config.max_batch_size else []
    for name, given in warmup.inputs.items():
        kind = given.WhichOneof("input_data_type")
        if kind is None:
            raise ConfigError(
                f"input '{name}' of warm-up '{warmup.name}' must have zero_data, random_data or "
                "input_data_file",
                key="model_warmup",
            )
        inputs[name] = {
            "dtype": dtype_name(given.data_type),
            "shape": [*batch, *given.dims],
            "random": kind == "random_data",
        }
        if kind == "input_data_file":
            file = inside(model / "warmup", given.input_data_file, "input_data_file")
            inputs[name]["file"] = file
    return {
        "name": warmup.name,
        "rows": max(1, warmup.batch_size),
        "calls": max(1, warmup.count),
        "inputs": inputs,
    }


def _overlay(values: dict[str, Any], config: pb.ModelConfig) -> None:
    """Take our own keys from the parameters.

    Raises:
        ConfigError: One of them is not for a parameter to set.
    """
    for name in sorted(key for key in config.parameters if key.startswith(OURS)):
        path = name.removeprefix(OURS).split(".")
        if path[0] in _NOT_OURS:
            raise ConfigError(
                f"'{path[0]}' is said by Triton's own fields", key=f"parameters.{name}"
            )
        place = values
        for part in path[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError("has no keys below it", key=f"parameters.{name}")
        try:
            place[path[-1]] = yaml.safe_load(config.parameters[name].string_value)
        except yaml.YAMLError:
            raise ConfigError("is no YAML value", key=f"parameters.{name}") from None
