"""The gRPC service ``org.pytorch.serve.grpc.inference.InferenceAPIsService``.

A stream of requests is answered in order of completion, in order within a sequence. When the
client has said everything, the answers that are due still come, then OK. What cannot be served
is a message with ``status``; the stream stays open.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from legato.core.errors import ClientError
from legato.protocols.rpc.service import Method, RpcError, Service, Status, unary
from legato.protocols.torchserve.errors import Failure, bad_request, failure, pretty
from legato.protocols.torchserve.gen import inference_pb2 as pb
from legato.protocols.torchserve.jobs import STEP_HEADER, TRUE, Job, Request, step_number
from legato.runtimes.torchserve.exchange import Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.protocols.rpc.service import Call
    from legato.protocols.torchserve.jobs import Door
    from legato.runtimes.torchserve.exchange import Answer

NAME: Final = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
STREAM_HIGH: Final = 1024  # unanswered requests of a stream at which it is not read
_INFO_URL: Final = "type.googleapis.com/google.rpc.ErrorInfo"


def service(door: Door, authorise: Callable[[Call], None], limit: int) -> Service:
    """Return the service.

    Args:
        door: Where requests go.
        authorise: Raises RpcError for a call without the inference key.
        limit: Largest message.
    """

    def ping(call: Call, _data: bytes) -> None:
        authorise(call)
        word = "Healthy" if door.registry.healthy() else "Unhealthy"
        text = pretty({"status": word}).decode()
        call.send(pb.TorchServeHealthResponse(health=text).SerializeToString())
        call.finish()

    def method(kind: Any, *, client: bool, server: bool) -> Method:
        def factory(call: Call) -> Any:
            authorise(call)
            return kind(door, call)

        return Method(factory, client, server, limit)

    return Service(
        NAME,
        {
            "Ping": unary(ping),
            "Predictions": method(partial(_Single, streams=False), client=False, server=False),
            "StreamPredictions": method(partial(_Single, streams=True), client=False, server=True),
            "StreamPredictions2": method(_Stream, client=True, server=True),
        },
    )


def _read(door: Door, data: bytes) -> Request:
    """Take a message apart.

    Raises:
        Failure: It names no model.
        RpcError: It is no message of this kind.
    """
    try:
        message = pb.PredictionsRequest.FromString(data)
    except DecodeError as error:
        text = f"the message is not a PredictionsRequest: {error}"
        raise RpcError(Status.INTERNAL, text) from None
    if not message.model_name:
        raise bad_request("Parameter model_name is required.")
    flags = dict.fromkeys((door.start_key, door.end_key), False)
    number = 0
    parts: list[Part] = []
    for name, value in message.input.items():
        if name in flags:
            flags[name] = value.strip().lower() == b"true"
        elif name == STEP_HEADER:
            number = _number(value)
        else:
            parts.append(Part(name, value))
    request = Request(message.model_name, message.model_version, parts, {}, message.sequence_id)
    request.number = number
    request.start, request.end = flags[door.start_key], flags[door.end_key]
    request.headers.update({key: TRUE for key, told in flags.items() if told})
    return request


def _number(value: bytes) -> int:
    try:
        return step_number({STEP_HEADER: value.decode("latin-1")})
    except ClientError as error:
        raise failure(error, "") from None


def _response(job: Job, answer: Answer) -> bytes:
    message = pb.PredictionResponse(prediction=answer.body)
    if job.sequence_id:
        message.sequence_id = job.sequence_id
    return message.SerializeToString()


# -- one request --------------------------------------------------------------------------


class _Single:
    """Predictions, and StreamPredictions with any number of answers."""

    __slots__ = ("_call", "_door", "_job", "_streams")

    def __init__(self, door: Door, call: Call, *, streams: bool) -> None:
        self._door = door
        self._call = call
        self._streams = streams
        self._job: Job | None = None

    def message(self, data: bytes) -> None:
        """Take the request."""
        call = self._call
        try:
            request = _read(self._door, data)
            request.number = step_number(call.metadata) or request.number
        except Failure as error:
            raise error.rpc_error() from None
        except ClientError as error:
            raise failure(error, "").rpc_error() from None
        request.deadline = call.deadline
        self._job = Job(self._door, request, self._done, self._partial if self._streams else None)
        self._job.begin()

    def half_close(self) -> None:
        """The answer comes when it comes."""

    def cancel(self) -> None:
        """Drop the step if it has not begun."""
        if self._job is not None:
            self._job.cancel()

    def _partial(self, answer: Answer) -> None:
        if self._job is not None:
            self._call.send(_response(self._job, answer))

    def _done(self, job: Job, outcome: Answer | Failure) -> None:
        call = self._call
        if isinstance(outcome, Failure):
            error = outcome.rpc_error()
            call.finish(error.status, error.message, error.trailers)
            return
        call.send(_response(job, outcome))
        call.finish(trailers=((STEP_HEADER, str(job.number)),) if job.number else ())


# -- many requests ------------------------------------------------------------------------


class _Stream:
    """StreamPredictions2."""

    __slots__ = ("_call", "_door", "_half_closed", "_jobs", "_paused")

    def __init__(self, door: Door, call: Call) -> None:
        self._door = door
        self._call = call
        self._jobs: dict[Job, None] = {}
        self._half_closed = self._paused = False

    def message(self, data: bytes) -> None:
        """Take one request; each stands alone."""
        door = self._door
        try:
            request = _read(door, data)
            self._check_id(request)
        except Failure as error:
            self._send_error(error, "")
            return
        request.deadline = self._call.deadline
        jobs = self._jobs
        job = Job(door, request, self._done)
        job.stream_to(partial(self._send, job))
        jobs[job] = None
        job.begin()
        if len(jobs) >= STREAM_HIGH and not self._paused:
            self._paused = True
            self._call.pause()

    def _check_id(self, request: Request) -> None:
        """An id must be given, or a sequence be begun that gets one.

        Raises:
            Failure: Neither; or there is no such model.
        """
        if request.sequence_id:
            return
        one = self._door.registry.find(request.model, request.version)
        if one.handle is not None and one.handle.stateful and not request.start:
            raise bad_request("Parameter sequenceId is required.")

    def half_close(self) -> None:
        """Finish once everything is answered; the sequences live on."""
        self._half_closed = True
        if not self._jobs:
            self._call.finish()

    def cancel(self) -> None:
        """Drop the steps that have not begun, the last one first; the sequences live on."""
        jobs = list(self._jobs)
        self._jobs.clear()
        for job in reversed(jobs):
            job.cancel()

    def _send(self, job: Job, answer: Answer) -> None:
        self._call.send(_response(job, answer))

    def _send_error(self, error: Failure, sequence_id: str) -> None:
        message = pb.PredictionResponse()
        if sequence_id:
            message.sequence_id = sequence_id
        message.status.code = error.rpc
        message.status.message = error.message
        info = pb.ErrorInfo(reason=error.java, metadata=dict(error.headers))
        message.status.details.add(type_url=_INFO_URL, value=info.SerializeToString())
        self._call.send(message.SerializeToString())

    def _done(self, job: Job, outcome: Answer | Failure) -> None:
        self._jobs.pop(job, None)
        if isinstance(outcome, Failure):
            self._send_error(outcome, job.sequence_id)
        else:
            self._send(job, outcome)
        if self._paused and len(self._jobs) <= STREAM_HIGH // 2:
            self._paused = False
            self._call.resume()
        if self._half_closed and not self._jobs:
            self._call.finish()
