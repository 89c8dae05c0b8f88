"""A reply becomes the bytes of a ModelInferResponse.

The response is put together from pieces of protobuf wire format: what repeats from
row to row (model, version, output headers) is serialised once, and the id, the step
number and the data are put behind it. Protobuf allows fields in any order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from legato.protocols.kserve.datatypes import wire_name
from legato.protocols.kserve.errors import STATUS
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.special import ID

if TYPE_CHECKING:
    from legato.core.types import CorrelationId, OutputHeader, Reply
    from legato.protocols.kserve.errors import Failure

_ID = b"\x1a"  # ModelInferResponse.id
_PARAMETER = b"\x22"  # ModelInferResponse.parameters, one entry
_RAW = b"\x32"  # ModelInferResponse.raw_output_contents, one output
_INFER_RESPONSE = b"\x12"  # ModelStreamInferResponse.infer_response

_join = b"".join


@lru_cache(maxsize=8192)
def varint(number: int) -> bytes:
    """Return a non-negative number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _entry(key: str, value: pb.InferParameter) -> bytes:
    body = pb.ParameterEntry(key=key, value=value).SerializeToString()
    return _PARAMETER + varint(len(body)) + body


@lru_cache(maxsize=8192)
def _step_entry(step: int, durability: str) -> bytes:
    """Return the parameters that every reply of a sequence carries."""
    number = _entry("sequence_step", pb.InferParameter(int64_param=step))
    return number + _entry("sequence_durability", pb.InferParameter(string_param=durability))


_FINAL = _entry("triton_final_response", pb.InferParameter(bool_param=True))
_NOT_FINAL = _entry("triton_final_response", pb.InferParameter(bool_param=False))
_REPLAYED = _entry("sequence_replayed", pb.InferParameter(bool_param=True))


class ReplyWriter:
    """Writes the replies of one model, for streams or for unary calls.

    Attributes:
        model: Model name, as the client wrote it.
        streamed: Wrap each reply in a ModelStreamInferResponse.
    """

    __slots__ = ("_ending", "_head", "_headers", "_tells_id", "_version", "model", "streamed")

    def __init__(self, model: str, *, streamed: bool, final: bool = True) -> None:
        self.model = model
        self.streamed = streamed
        self._ending = (_FINAL if final else _NOT_FINAL) if streamed else b""
        self._headers: tuple[OutputHeader, ...] | None = None
        self._tells_id = False
        self._version = ""
        self._head = b""

    def write(self, reply: Reply, request_id: str) -> bytes:
        """Return the message for a reply."""
        if reply.headers is not self._headers or reply.version != self._version:
            self._head = _head(self.model, reply.version, reply.headers) + self._ending
            self._headers = reply.headers
            self._tells_id = bool(reply.headers) and reply.headers[-1].name == ID
            self._version = reply.version
        parts = [self._head]
        if request_id:
            name = request_id.encode()
            parts += (_ID, varint(len(name)), name)
        step = reply.step
        if step:
            parts.append(_step_entry(step, reply.durability))
            if step == 1 or reply.replayed:
                parts.append(_rare_entries(reply))
            if self._tells_id:
                parts.append(_id_entry(reply.correlation_id))
        for data in reply.data:
            parts += (_RAW, varint(len(data)), data)
        if not self.streamed:
            return _join(parts)
        body = _join(parts)
        return _join((_INFER_RESPONSE, varint(len(body)), body))


@lru_cache(maxsize=4096)
def _id_entry(name: CorrelationId) -> bytes:
    """Return the parameter that tells the id, for those who let the server choose it."""
    if isinstance(name, str):
        return _entry(ID, pb.InferParameter(string_param=name))
    if name < 2**63:
        return _entry(ID, pb.InferParameter(int64_param=name))
    return _entry(ID, pb.InferParameter(uint64_param=name))


def _rare_entries(reply: Reply) -> bytes:
    entries = _REPLAYED if reply.replayed else b""
    if reply.step == 1 and reply.incarnation:
        name = pb.InferParameter(string_param=reply.incarnation.hex())
        entries += _entry("sequence_incarnation", name)
    return entries


@lru_cache(maxsize=1024)
def _head(model: str, version: str, headers: tuple[OutputHeader, ...]) -> bytes:
    response = pb.ModelInferResponse(model_name=model, model_version=version)
    for header in headers:
        response.outputs.add(name=header.name, datatype=wire_name(header.dtype), shape=header.shape)
    return response.SerializeToString()


def stream_error(failure: Failure, model: str, request_id: str, *, final: bool = True) -> bytes:
    """Return the message that tells a stream of a failed request.

    The stream goes on, so the gRPC status travels as a parameter.
    """
    message = pb.ModelStreamInferResponse(error_message=failure.message or failure.status.name)
    response = message.infer_response
    response.model_name = model
    response.id = request_id
    response.parameters["triton_final_response"].bool_param = final
    for key, value in ((STATUS, failure.status.name), *failure.trailers()):
        response.parameters[key].string_param = value
    return message.SerializeToString()
