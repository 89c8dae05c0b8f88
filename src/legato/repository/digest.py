"""The identity of a model by its content, so that state is never read by another model (D8)."""

from __future__ import annotations

import hashlib
import mmap
from typing import TYPE_CHECKING, Any

import orjson
from google.protobuf.message import DecodeError

from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from legato.repository.config import ModelConfig

DIGEST_CHARACTERS = 16
_GRAPH_OPTIONS = (
    "low_latency_transformation", "use_const_initializer", "shape", "batch_size", "layout",
)  # fmt: skip
"""Options of the OpenVINO runtime that change what is computed; the others only how."""
_TORCH_OPTIONS = ("submodule", "arguments")
"""The same of the PyTorch runtime."""
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


def content_digest(config: ModelConfig) -> str:
    """Return 16 hex characters that change when what the model computes changes.

    Covers the model file, weights kept beside it, and the config's ``files``; for a
    Python model its source file, class and options; for an OpenVINO or PyTorch model the
    options that change what it computes. Names and places of files do not
    count, so a model that moved keeps its sequences. A model of one file has the
    beginning of that file's SHA-256. Files are streamed, not held in memory.

    Raises:
        ConfigError: A file cannot be read.
    """
    parts: list[bytes] = []
    try:
        for path in content_files(config):
            with path.open("rb") as stream:
                parts.append(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(error.filename)) from None
    except DecodeError:
        raise ConfigError("is no ONNX model", file=str(config.file)) from None
    if config.runtime == "python":
        parts += [orjson.dumps(config.options, option=_OPTIONS, default=str), _class_name(config)]
    elif config.entry is not None and config.runtime == "torch":
        parts.append(_class_name(config))
    telling = {"openvino": _GRAPH_OPTIONS, "torch": _TORCH_OPTIONS}.get(config.runtime, ())
    graph = {key: config.options[key] for key in telling if config.options.get(key)}
    if graph:
        parts.append(orjson.dumps(graph, option=_OPTIONS, default=str))
    whole = parts[0] if len(parts) == 1 else hashlib.sha256(b"".join(parts)).digest()
    return whole.hex()[:DIGEST_CHARACTERS]


def content_files(config: ModelConfig) -> Iterator[Path]:
    """List the files that make up a model, in a fixed order."""
    if config.entry is not None:
        yield config.folder / config.entry.rpartition(":")[0]
    if config.file is not None:
        yield config.file
        if config.file.suffix == ".onnx":
            yield from _external_data(config.file)
        weights = config.file.with_suffix(".bin")
        if config.file.suffix == ".xml" and weights.is_file():
            yield weights
    yield from (config.folder / path for path in config.files)


def _class_name(config: ModelConfig) -> bytes:
    return (config.entry or "").rpartition(":")[2].encode()


def _external_data(path: Path) -> list[Path]:
    """Find the files that hold tensors of an ONNX model outside the model file.

    The graph is parsed only if the file can name such a file at all: each one is
    given under the key ``location``.
    """
    if path.stat().st_size == 0:
        return []
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"location") < 0:
            return []
    import onnx  # slow to import, and needed for few models

    graph = onnx.load(str(path), load_external_data=False).graph
    names = {
        entry.value
        for tensor in _tensors(graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path.parent / name for name in sorted(names)]


def _tensors(graph: Any) -> Iterable[Any]:
    """Walk all tensors of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _tensors(inner)
