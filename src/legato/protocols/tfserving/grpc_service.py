"""The gRPC services ``PredictionService`` and ``ModelService`` of TensorFlow Serving."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import any_pb2, descriptor_pb2, wrappers_pb2
from google.protobuf.message import DecodeError, Message

from legato.protocols.rpc.service import Method, RpcError, Service, Status, unary
from legato.protocols.tfserving import describe
from legato.protocols.tfserving.errors import BAD_SIGNATURE, NO_SPEC, RefusalError
from legato.protocols.tfserving.gen import tfserving_pb2 as pb
from legato.protocols.tfserving.predict import (
    METADATA,
    STATUS,
    Door,
    PredictCall,
    version_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.protocols.rpc.service import Call
    from legato.protocols.tfserving.ports import CatalogPort, CountsPort, EnginePort

PREDICTION: Final = "tensorflow.serving.PredictionService"
MODEL: Final = "tensorflow.serving.ModelService"
_OTHERS: Final = ("Classify", "Regress", "MultiInference")


def services(
    engine: EnginePort, catalog: CatalogPort, counts: CountsPort | None = None
) -> tuple[Service, ...]:
    """Return the services, ready to be registered.

    Args:
        engine: Where steps go.
        catalog: What is served.
        counts: Counts requests, if anybody wants to know.
    """
    door = Door(engine, catalog, counts)
    asking = _Queries(door)
    prediction = {
        "Predict": Method(partial(PredictCall, door), False, False),
        "GetModelMetadata": _query(pb.GetModelMetadataRequest, asking.metadata),
        **{name: _refusal(name) for name in _OTHERS},
    }
    model = {
        "GetModelStatus": _query(pb.GetModelStatusRequest, asking.status),
        "HandleReloadConfigRequest": _accepting(pb.ReloadConfigResponse()),
    }
    return (
        Service(PREDICTION, prediction, _described(PREDICTION, ["Predict", "GetModelMetadata"])),
        Service(MODEL, model, _described(MODEL, ["GetModelStatus"])),
    )


class _Queries:
    """The methods that only ask."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._catalog = door.catalog

    def metadata(self, request: pb.GetModelMetadataRequest) -> pb.GetModelMetadataResponse:
        if not request.HasField("model_spec"):
            raise NO_SPEC.refusal()
        if list(request.metadata_field) != [describe.SIGNATURE]:
            raise BAD_SIGNATURE.refusal()
        spec = request.model_spec
        version = version_of(spec)
        with self._door.counting(METADATA, spec.name, version):
            return describe.metadata(describe.find(self._catalog, spec.name, version))

    def status(self, request: pb.GetModelStatusRequest) -> pb.GetModelStatusResponse:
        if not request.HasField("model_spec"):
            raise NO_SPEC.refusal()
        spec = request.model_spec
        version = version_of(spec)
        with self._door.counting(STATUS, spec.name, version):
            return describe.status(self._catalog, spec.name, version)


def _query(kind: type[Message], fn: Callable[[Any], Message]) -> Method:
    def answer(call: Call, data: bytes) -> None:
        try:
            request = kind.FromString(data)
        except DecodeError as error:
            text = f"the message is not a {kind.DESCRIPTOR.name}: {error}"
            raise RpcError(Status.INTERNAL, text) from None
        try:
            found = fn(request)
        except RefusalError as refusal:
            call.finish(refusal.words.status, refusal.message)
        else:
            call.send(found.SerializeToString())
            call.finish()

    return unary(answer)


def _accepting(message: Message) -> Method:
    """Make a method that takes anything and changes nothing."""
    reply = message.SerializeToString()

    def answer(call: Call, _data: bytes) -> None:
        call.send(reply)
        call.finish()

    return unary(answer)


def _refusal(name: str) -> Method:
    def answer(_call: Call, _data: bytes) -> None:
        raise RpcError(Status.UNIMPLEMENTED, f"{name} is not offered: use Predict")

    return unary(answer)


def _described(service: str, methods: list[str]) -> tuple[bytes, ...]:
    """Describe a service and its messages, for reflection."""
    messages = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(messages)
    package, _, short = service.rpartition(".")
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}/{short}.proto",
        package=messages.package,  # reflection shows all of it under the service's own
        dependency=[messages.name],
        syntax="proto3",
    )
    described = file.service.add(name=short)
    for name in methods:
        described.method.add(
            name=name,
            input_type=f".{messages.package}.{name}Request",
            output_type=f".{messages.package}.{name}Response",
        )
    parts = [any_pb2.DESCRIPTOR.serialized_pb, wrappers_pb2.DESCRIPTOR.serialized_pb]
    return (*parts, messages.SerializeToString(), file.SerializeToString())
