"""Opening ONNX files: sessions, and the tensors that a file declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from legato.core.errors import ConfigError
from legato.runtimes.discovery.graph import Graph
from legato.runtimes.discovery.pairing import GraphTensor

if TYPE_CHECKING:
    from pathlib import Path

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}
_FATAL_ONLY = 4


def open_session(model: Path | bytes, *, threads: int, file: str) -> Any:
    """Open a session on the CPU.

    Threads do not spin while they wait: a server has other work for the core. Only
    fatal conditions are logged, as every other one is an exception here.

    Args:
        model: A file, or the bytes of a model.
        threads: Threads inside a call; 0 leaves it to ONNX Runtime.
        file: For the message.

    Raises:
        ConfigError: ONNX Runtime cannot read the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(
            f"ONNX Runtime {ort.__version__} cannot load it: {first_line(error)}",
            file=file,
            fix="check that the file is a complete .onnx or .ort model that this version reads",
        ) from error


def first_line(error: BaseException) -> str:
    """Return the telling part of an ONNX Runtime message: one line, no source paths."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    text = text.removeprefix("[ONNXRuntimeError] : ")
    code, _, rest = text.partition(" : ")
    if code.isdigit():
        text = rest.partition(" : ")[2] or rest
    if "Status Message: " in text:
        head, _, message = text.partition("Status Message: ")
        node = head.partition("Name:'")[2].partition("'")[0]
        words = [word for word in message.split() if not word.startswith("/onnxruntime")]
        message = " ".join(words).rpartition(" was false. ")[2]  # drops the C++ condition
        text = f"node '{node}': {message}" if node else message
    return text if len(text) <= 300 else text[:297] + "..."


def read_graph(session: Any, file: str) -> Graph:
    """Read the inputs and outputs of a session.

    Raises:
        ConfigError: An input is of a type that no client could send.
    """
    inputs = []
    for node in session.get_inputs():
        if node.type not in _DTYPES:
            raise ConfigError(
                f"input '{node.name}' is a {node.type}, which cannot be served",
                file=file,
                fix="export the model with inputs of a numpy dtype",
            )
        inputs.append(_tensor(node))
    outputs = [_tensor(node) for node in session.get_outputs() if node.type in _DTYPES]
    dropped = [f"{n.name} ({n.type})" for n in session.get_outputs() if n.type not in _DTYPES]
    optional = [
        _tensor(node) for node in session.get_overridable_initializers() if node.type in _DTYPES
    ]
    return Graph(tuple(inputs), tuple(outputs), tuple(optional), tuple(dropped))


def _tensor(node: Any) -> GraphTensor:
    dims = tuple(
        dim if isinstance(dim, str) or (isinstance(dim, int) and dim >= 0) else None
        for dim in node.shape
    )
    return GraphTensor(node.name, _DTYPES[node.type], dims)
