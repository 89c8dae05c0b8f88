"""What an OpenVINO model takes and gives, in the words that discovery uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from legato.core.errors import ConfigError
from legato.runtimes.discovery.graph import Graph
from legato.runtimes.discovery.pairing import GraphTensor
from legato.runtimes.openvino.reading import port_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from legato.runtimes.discovery.pairing import Dim
    from legato.runtimes.openvino.options import Options
    from legato.runtimes.openvino.variables import Variable

_DTYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "boolean": "bool",
}


@dataclass(frozen=True, slots=True)
class Opened:
    """A model whose variables are inputs and outputs, and the names of all of them.

    Attributes:
        model: The exposed model.
        inputs: Names by position: the model's own, then variables, then starts.
        outputs: Names by position: the model's own, then next values of variables.
        graph: The same as discovery reads it.
        variables: What was exposed.
        starts: Names of the inputs that tell which rows begin.
        hints: Input name to the axis that its layout, or its only open dimension, names.
    """

    model: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    graph: Graph
    variables: tuple[Variable, ...]
    starts: Mapping[str, str]
    hints: Mapping[str, int]


def following(variable: str) -> str:
    """Name the output that gives a variable's next value."""
    return f"{variable}:next"


def begins(variable: str) -> str:
    """Name the input that tells which rows begin."""
    return f"{variable}:start"


def public_names(ports: Sequence[Any], renamed: Mapping[str, str]) -> list[str]:
    """Name inputs or outputs as clients do."""
    return [renamed.get(name, name) for name in port_names(ports)]


def read_graph(
    model: Any,
    variables: tuple[Variable, ...],
    starts: tuple[str, ...],
    options: Options,
    file: str,
) -> Opened:
    """Describe an exposed model.

    Raises:
        ConfigError: An input has no rank, or a dtype that no client can send.
    """
    own_inputs = len(model.inputs) - len(variables) - len(starts)
    own_outputs = len(model.outputs) - len(variables)
    inputs = public_names(model.inputs[:own_inputs], options.renamed_inputs)
    outputs = public_names(model.outputs[:own_outputs], options.renamed_outputs)
    clash = {v.name for v in variables}.intersection(inputs)
    states = [f"{v.name}:variable" if v.name in clash else v.name for v in variables]
    inputs += [*states, *map(begins, starts)]
    outputs += [following(variable.name) for variable in variables]
    served, dropped = [], []
    for name, port in zip(outputs, model.outputs, strict=True):
        if port.get_partial_shape().rank.is_static and _dtype(port) in _DTYPES:
            served.append(_tensor(name, port))
        else:
            dropped.append(f"{name} ({_dtype(port)})")
    taken = [_checked(n, port, file) for n, port in zip(inputs, model.inputs, strict=True)]
    return Opened(
        model,
        tuple(inputs),
        tuple(outputs),
        Graph(tuple(taken), tuple(served), (), tuple(dropped)),
        variables,
        {begins(name): name for name in starts},
        _hints(model, taken),
    )


def _hints(model: Any, tensors: Sequence[GraphTensor]) -> dict[str, int]:
    from legato.runtimes.openvino.reading import batch_of_layout

    hints = {}
    for tensor, port in zip(tensors, model.inputs, strict=True):
        named = batch_of_layout(port)
        open_axes = [at for at, dim in enumerate(tensor.dims) if dim is None]
        if named is not None:
            hints[tensor.name] = named
        elif open_axes:
            hints[tensor.name] = open_axes[0]
    return hints


def _dtype(port: Any) -> str:
    name: str = port.get_element_type().get_type_name()
    return name


def _checked(name: str, port: Any, file: str) -> GraphTensor:
    if _dtype(port) not in _DTYPES:
        raise ConfigError(
            f"input '{name}' is of type {_dtype(port)}, which cannot be served",
            file=file,
            fix="convert the model with inputs of a numpy dtype",
        )
    if port.get_partial_shape().rank.is_dynamic:
        raise ConfigError(
            f"input '{name}' may have any number of dimensions",
            file=file,
            key="options.shape",
            fix="say its shape there, -1 for any size",
        )
    return _tensor(name, port)


def _tensor(name: str, port: Any) -> GraphTensor:
    dims: tuple[Dim, ...] = tuple(
        None if dim.is_dynamic else dim.get_length() for dim in port.get_partial_shape()
    )
    return GraphTensor(name, _DTYPES[_dtype(port)], dims)
