"""Requests as bytes put together from prepared pieces, and what answers say.

A request is joined from parts that were serialised once: Protobuf allows fields in
any order. So a step costs the generator a ``join``, whatever the size of its tensors.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from legato.bench.load import Data, Load, LoadError
from legato.protocols.kserve.gen import kserve_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICE: Final = "/inference.GRPCInferenceService/"
INFER: Final = SERVICE + "ModelInfer"
STREAM_INFER: Final = SERVICE + "ModelStreamInfer"

VARIANTS: Final = 32
"""Different contents of the tensors; steps take one after the other."""

DTYPES: Final = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_ID: Final = b"\x1a"  # ModelInferRequest.id
_LARGEST_TENSOR: Final = 256 * 1024 * 1024


class Tensor(NamedTuple):
    """An input or output, as the server's metadata tells it; a size of -1 is open."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Template:
    """The prepared pieces of one load's requests.

    Args:
        load: The load.
        inputs: What the model takes.

    Raises:
        LoadError: A shape is open, or a data type cannot be made.
    """

    def __init__(self, load: Load, inputs: Sequence[Tensor]) -> None:
        sent = [_closed(load, tensor) for tensor in inputs if tensor.name not in load.left_out]
        request = pb.ModelInferRequest(model_name=load.model, model_version=load.version)
        for name, datatype, shape in sent:
            request.inputs.add(name=name, datatype=datatype, shape=shape)
        self.head = request.SerializeToString()
        self.amounts = _amounts(load)
        self._raw = [_contents(load, sent, variant) for variant in range(VARIANTS)]
        self._flags = [
            _flags(start=start, end=end)
            for start, end in itertools.product((False, True), repeat=2)
        ]
        self._text_ids = load.text_ids
        self._numbered = load.numbered

    def sequence(self, correlation_id: int) -> bytes:
        """Return what all requests of a sequence begin with."""
        request = pb.ModelInferRequest()
        parameter = request.parameters["sequence_id"]
        if self._text_ids:
            parameter.string_param = f"sequence-{correlation_id}"
        else:
            parameter.int64_param = correlation_id
        return self.head + request.SerializeToString()

    def step(self, begin: bytes, name: bytes, number: int, variant: int, *, end: bool) -> bytes:
        """Return a request: step ``number`` of the sequence that begins with ``begin``.

        ``name`` is the request's id, shorter than 128 bytes.
        """
        flags = self._flags[2 * (number == 1) + end]
        if self._numbered:
            numbered = pb.ModelInferRequest()
            numbered.parameters["sequence_step"].int64_param = number
            flags += numbered.SerializeToString()
        return b"".join((begin, _ID, bytes((len(name),)), name, flags, self._raw[variant]))


def _flags(*, start: bool, end: bool) -> bytes:
    request = pb.ModelInferRequest()
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    return request.SerializeToString()


def _closed(load: Load, tensor: Tensor) -> Tensor:
    """Settle a tensor's shape: as asked for, else the model's with one row."""
    name, datatype, shape = tensor
    asked = load.shapes.get(name)
    if asked is None:
        asked = (1, *shape[1:]) if shape and shape[0] == -1 else shape
        if -1 in asked:
            raise LoadError(
                f"input '{name}' of model '{load.model}' has the shape {list(shape)}: say which "
                f"size is meant, as in --shape {name}:{_example(asked)}"
            )
    if datatype not in DTYPES and datatype not in ("BF16", "BYTES"):
        raise LoadError(f"input '{name}' has the data type {datatype}, which is not known here")
    if np.prod(asked, dtype=float) * 8 > _LARGEST_TENSOR:
        raise LoadError(f"input '{name}' of shape {list(asked)} is too large to be sent")
    return Tensor(name, datatype, asked)


def _example(shape: tuple[int, ...]) -> str:
    return ",".join("16" if size == -1 else str(size) for size in shape)


def _amounts(load: Load) -> list[int]:
    """Return the whole number that each variant adds where answers are sums."""
    if load.data is Data.ZERO:
        return [0] * VARIANTS
    if load.data is Data.RAMP:
        return list(range(1, VARIANTS + 1))
    return [int(number) for number in np.random.default_rng(7).integers(0, 100, VARIANTS)]


def _contents(load: Load, tensors: Sequence[Tensor], variant: int) -> bytes:
    generator = np.random.default_rng(variant)
    request = pb.ModelInferRequest()
    for tensor in tensors:
        request.raw_input_contents.append(_raw(load, tensor, variant, generator))
    return request.SerializeToString()


def _raw(load: Load, tensor: Tensor, variant: int, generator: np.random.Generator) -> bytes:
    name, datatype, shape = tensor
    size = int(np.prod(shape))
    if datatype == "BYTES":
        return (b"\4\0\0\0%04d" % variant) * size
    values: Any
    if name in load.values:
        values = np.full(size, load.values[name])
    elif load.check is load.check.SUM:
        values = np.full(size, _amounts(load)[variant])
    elif load.data is Data.ZERO:
        values = np.zeros(size)
    elif load.data is Data.RAMP:
        values = (np.arange(size) + variant) % 100
    elif datatype.startswith(("FP", "BF")):
        values = generator.uniform(-1, 1, size)
    else:
        values = generator.integers(0, 2 if datatype == "BOOL" else 10, size)
    return encode(values, datatype)


def encode(values: Any, datatype: str) -> bytes:
    """Return numbers as a tensor of this data type has them on the wire."""
    array = np.asarray(values)
    if datatype == "BF16":  # the upper half of a float32
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype(DTYPES[datatype]).tobytes()


class Answer(NamedTuple):
    """What an answer says; ``error`` is "" for a good one.

    ``request`` is the id of the request, ``raw`` the model's first output.
    """

    request: str
    error: str
    raw: bytes


def read_streamed(data: bytes) -> Answer:
    """Read a ModelStreamInferResponse."""
    message = pb.ModelStreamInferResponse.FromString(data)
    response = message.infer_response
    raws = response.raw_output_contents
    return Answer(response.id, message.error_message, raws[0] if raws else b"")


def read_unary(data: bytes) -> Answer:
    """Read a ModelInferResponse."""
    response = pb.ModelInferResponse.FromString(data)
    raws = response.raw_output_contents
    return Answer(response.id, "", raws[0] if raws else b"")
