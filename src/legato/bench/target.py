"""Asks a server what a model takes, and what it has counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc

from legato.bench.load import Check, Data, Load, LoadError
from legato.bench.slot import SUMS
from legato.bench.wire import SERVICE, Tensor
from legato.bench.worker import OPTIONS
from legato.protocols.kserve.gen import kserve_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

_TIMEOUT_S: Final = 10.0


class Counts(NamedTuple):
    """What the server has counted for a model: steps, model calls, seconds of waiting."""

    steps: int
    calls: int
    waits: int
    wait_s: float

    def since(self, before: Counts) -> Counts:
        """Return the difference."""
        return Counts(
            self.steps - before.steps,
            self.calls - before.calls,
            self.waits - before.waits,
            self.wait_s - before.wait_s,
        )


class Target:
    """One model of one server, over one connection.

    Raises:
        LoadError: The server cannot be reached, or does not know the model.
    """

    def __init__(
        self, address: str, model: str, version: str = "", *, secure: bool = False
    ) -> None:
        self.model = model
        self.version = version
        self._address = address
        if secure:
            roots = grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(address, roots, options=OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, options=OPTIONS)
        metadata = self._ask(
            "ModelMetadata",
            pb.ModelMetadataRequest(name=model, version=version),
            pb.ModelMetadataResponse,
        )
        self.inputs = _tensors(metadata.inputs)
        self.outputs = _tensors(metadata.outputs)
        self.platform: str = metadata.platform

    def __repr__(self) -> str:
        return f"<Target {self.model} at {self._address}>"

    def counts(self) -> Counts | None:
        """Return the server's counts, ``None`` where it keeps none."""
        request = pb.ModelStatisticsRequest(name=self.model, version=self.version)
        try:
            reply = self._ask("ModelStatistics", request, pb.ModelStatisticsResponse)
        except LoadError:
            return None
        if not reply.model_stats:
            return None
        queue = [stats.inference_stats.queue for stats in reply.model_stats]
        return Counts(
            sum(stats.inference_count for stats in reply.model_stats),
            sum(stats.execution_count for stats in reply.model_stats),
            sum(wait.count for wait in queue),
            sum(wait.ns for wait in queue) / 1e9,
        )

    def check(self, wanted: Check, data: Data) -> Check:
        """Settle what answers are held against.

        Raises:
            LoadError: Sums were asked for where there are none.
        """
        summable = len(self.outputs) > 0 and self.outputs[0].datatype in SUMS
        if wanted is Check.AUTO:
            named = "accumulat" in self.model.lower()
            summing = named and summable and len(self.inputs) == 1 and data is not Data.ZERO
            return Check.SUM if summing else Check.NONE
        if wanted is Check.SUM and data is Data.ZERO:
            raise LoadError("sums of zeros show nothing: --check sum needs --data random or ramp")
        if wanted is Check.SUM and not summable:
            raise LoadError(f"model '{self.model}' has no output that could be a sum")
        return wanted

    def output(self) -> tuple[str, int]:
        """Return data type and number of elements (one row) of the first output."""
        if not self.outputs:
            return "", 0
        _, datatype, shape = self.outputs[0]
        count = 1
        for size in shape:
            count *= max(size, 1)
        return datatype, count

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _ask(self, rpc: str, request: Any, reply: Any) -> Any:
        method = self._channel.unary_unary(
            SERVICE + rpc,
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            return method(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise LoadError(_why(error, self._address, self.model)) from None


def _why(error: grpc.RpcError, address: str, model: str) -> str:
    code, details = error.code(), error.details()
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return f"no server answers at {address}: {details}"
    return f"{address}, model '{model}': {details} ({code.name})"


def _tensors(found: Iterable[Any]) -> tuple[Tensor, ...]:
    return tuple(Tensor(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in found)


def settle(load: Load, target: Target) -> None:
    """Refuse what would only fail in the workers.

    Raises:
        LoadError: The load names tensors that the model does not have, or makes no sense.
    """
    names = [tensor.name for tensor in target.inputs]
    for name in (*load.shapes, *load.values, *load.left_out):
        if name not in names:
            raise LoadError(
                f"model '{load.model}' has no input '{name}'; it takes {', '.join(names)}"
            )
    if load.ids < load.sequences:
        raise LoadError(
            f"{load.sequences} sequences in flight need as many ids, the range has {load.ids}"
        )
    if load.processes > load.sequences:
        raise LoadError(f"{load.processes} processes for {load.sequences} sequences are too many")
