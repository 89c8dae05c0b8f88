"""The Open Inference Protocol beside TorchServe's own, where ``ts_open_inference_protocol`` is on.

The messages are KServe's under another package name. A handler gets the request as the JSON
object that it is in REST, and answers with one; the envelope ``kservev2`` does both.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from google.protobuf.message import DecodeError

from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.rpc.service import Method, RpcError, Service, Status, unary
from legato.protocols.torchserve import errors
from legato.protocols.torchserve.errors import Failure
from legato.protocols.torchserve.jobs import Job, Request
from legato.runtimes.torchserve.exchange import Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.protocols.rpc.service import Call
    from legato.protocols.torchserve.jobs import Door
    from legato.runtimes.torchserve.exchange import Answer

NAME: Final = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
VERSION: Final = "0.12.0"
_EXTENSIONS: Final = ("kserve", "kubeflow")
_BYTES: Final = "BYTES"
_FIELDS: Final = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    _BYTES: "bytes_contents",
}
_RAW: Final = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


def rest(path: str) -> dict[str, Any] | None:
    """Return the answer to a path of the protocol, ``None`` if it has none here."""
    match path.rstrip("/"):
        case "/v2":
            # Clients of TorchServe know the misspelt name.
            return {
                "name": "Torchserve", "version": VERSION, "extension": _EXTENSIONS,
                "extenstion": _EXTENSIONS,
            }  # fmt: skip
        case "/v2/health/live":
            return {"live": True}
        case "/v2/health/ready":
            return {"ready": True}
    return None


def service(door: Door, authorise: Callable[[Call], None], limit: int) -> Service:
    """Return the service.

    Args:
        door: Where requests go.
        authorise: Raises RpcError for a call without the inference key.
        limit: Largest message.
    """

    def method(answer: Callable[[Any], Any], kind: Any) -> Method:
        def handle(call: Call, data: bytes) -> None:
            authorise(call)
            call.send(answer(_parsed(kind, data)).SerializeToString())
            call.finish()

        return unary(handle)

    def infer(call: Call, data: bytes) -> None:
        authorise(call)
        _Infer(door, call, _parsed(pb.ModelInferRequest, data)).begin()

    def about(request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        _find(door, request)
        versions = [one.version for one in door.registry.versions(request.name)]
        return pb.ModelMetadataResponse(name=request.name, versions=versions)

    def ready(request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        handle = _find(door, request).handle
        return pb.ModelReadyResponse(ready=handle is not None and handle.ready)

    def server(_request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="Torchserve", version=VERSION, extensions=_EXTENSIONS)

    methods = {
        "ServerLive": method(lambda _: pb.ServerLiveResponse(live=True), pb.ServerLiveRequest),
        "ServerReady": method(
            lambda _: pb.ServerReadyResponse(ready=door.registry.healthy()), pb.ServerReadyRequest
        ),
        "ServerMetadata": method(server, pb.ServerMetadataRequest),
        "ModelReady": method(ready, pb.ModelReadyRequest),
        "ModelMetadata": method(about, pb.ModelMetadataRequest),
        "ModelInfer": unary(infer),
    }
    bounded = {name: one._replace(max_message_bytes=limit) for name, one in methods.items()}
    return Service(NAME, bounded)


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        text = f"the message is not a {kind.DESCRIPTOR.name}: {error}"
        raise RpcError(Status.INTERNAL, text) from None


def _find(door: Door, request: Any) -> Any:
    try:
        return door.registry.find(request.name, request.version)
    except Failure as error:
        found = error.rpc_error()
        raise RpcError(Status.NOT_FOUND, found.message) from None


class _Infer:
    """One request under way."""

    def __init__(self, door: Door, call: Call, request: pb.ModelInferRequest) -> None:
        self._door = door
        self._call = call
        self._request = request

    def begin(self) -> None:
        """Ask the handler.

        Raises:
            RpcError: The request names no model, or cannot be read.
        """
        asked, call = self._request, self._call
        if not asked.model_name:
            raise errors.bad_request("Parameter model_name is required.").rpc_error()
        body = orjson.dumps(_as_json(asked))
        parts = [Part("body", body, "application/json")]
        request = Request(asked.model_name, asked.model_version, parts, {})
        request.deadline = call.deadline
        Job(self._door, request, self._done).begin()

    def _done(self, _job: Job, outcome: Answer | Failure) -> None:
        call = self._call
        if isinstance(outcome, Failure):
            error = outcome.rpc_error()
            call.finish(error.status, error.message, error.trailers)
            return
        try:
            message = _from_json(orjson.loads(outcome.body), self._request)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            text = f"the handler's answer is none of the Open Inference Protocol: {error!r}"
            call.finish(Status.INTERNAL, text)
            return
        call.send(message.SerializeToString())
        call.finish()


def _as_json(request: pb.ModelInferRequest) -> dict[str, Any]:
    """Write a request as the JSON object that it is in REST; BYTES are base64."""
    raw = iter(request.raw_input_contents)
    inputs = []
    for tensor in request.inputs:
        data = _raw(tensor, next(raw, b"")) if request.raw_input_contents else _listed(tensor)
        shape = list(tensor.shape)
        inputs.append(
            {"name": tensor.name, "shape": shape, "datatype": tensor.datatype, "data": data}
        )
    made = {"model_name": request.model_name, "inputs": inputs}
    if request.id:
        made["id"] = request.id
    if request.model_version:
        made["model_version"] = request.model_version
    return made


def _listed(tensor: pb.ModelInferRequest.InferInputTensor) -> list[Any]:
    field = _FIELDS.get(tensor.datatype)
    if field is None:
        raise _wrong(tensor, "is not known, or goes by raw_input_contents only")
    values = list(getattr(tensor.contents, field))
    return (
        [base64.b64encode(one).decode() for one in values] if field == "bytes_contents" else values
    )


def _raw(tensor: pb.ModelInferRequest.InferInputTensor, data: bytes) -> list[Any]:
    """Read raw contents; of BYTES, each element has its length before it."""
    if tensor.datatype == _BYTES:
        values, at = [], 0
        while at + 4 <= len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            values.append(base64.b64encode(data[at + 4 : end]).decode())
            at = end
        return values
    kind = _RAW.get(tensor.datatype)
    if kind is None or len(data) % np.dtype(kind).itemsize:
        raise _wrong(tensor, "does not fit its raw contents")
    found: list[Any] = np.frombuffer(data, kind).tolist()
    return found


def _wrong(tensor: pb.ModelInferRequest.InferInputTensor, why: str) -> RpcError:
    return errors.bad_request(
        f"The datatype of '{tensor.name}', {tensor.datatype}, {why}."
    ).rpc_error()


def _from_json(answer: Any, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Read a handler's answer.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is no such answer.
    """
    made = pb.ModelInferResponse(
        model_name=answer.get("model_name") or request.model_name,
        model_version=str(answer.get("model_version") or request.model_version),
        id=str(answer.get("id") or request.id),
    )
    for one in answer["outputs"]:
        tensor = made.outputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        values = one["data"]
        if one["datatype"] == _BYTES:
            values = [v.encode() if isinstance(v, str) else bytes(v) for v in values]
        getattr(tensor.contents, _FIELDS[one["datatype"]]).extend(values)
    return made
