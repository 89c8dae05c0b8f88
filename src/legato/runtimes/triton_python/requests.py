"""``InferenceRequest``, ``InferenceResponse`` and what a model sends responses with."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any, Final

from legato.runtimes.triton_python.errors import TritonError, TritonModelException
from legato.runtimes.triton_python.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START: Final = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END: Final = 2
TRITONSERVER_REQUEST_RELEASE_ALL: Final = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE: Final = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL: Final = 1


class PreferredMemory:
    """Where a model wants its answers of other models; kept so that it can be made."""

    def __init__(self, *_where: Any) -> None:
        return


class InferenceResponse:
    """One response to a request.

    Args:
        output_tensors: Its outputs.
        error: Why there are none; a text stands for an internal error.
        parameters: Kept with it; clients do not get them.

    Raises:
        TritonModelException: An output is no ``Tensor``.
    """

    def __init__(
        self,
        output_tensors: Sequence[Tensor] | None = None,
        error: TritonError | str | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        tensors = list(output_tensors or ())
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                raise TritonModelException(
                    f"an output must be a Tensor, not a {type(tensor).__name__}"
                )
        self._tensors = tensors
        self._error = TritonError(error) if isinstance(error, str) else error
        self._parameters = dict(parameters or {})

    def __repr__(self) -> str:
        return f"<InferenceResponse {self._error or self._tensors}>"

    def output_tensors(self) -> list[Tensor]:
        """Return its outputs."""
        return self._tensors

    def has_error(self) -> bool:
        """Tell whether it is an error."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """Return the error, if it is one."""
        return self._error

    def parameters(self) -> str:
        """Return its parameters in JSON."""
        return json.dumps(self._parameters)


class Line:
    """What becomes of one request: its responses, until the last one.

    Args:
        forward: Takes responses that are not the last; ``None`` = they are kept.
        cancelled: Tells whether the client has given the request up.

    Attributes:
        kept: Responses that were not forwarded.
        last: The response that came with the final flag, if one did.
        final: No further responses come.
    """

    def __init__(
        self,
        forward: Callable[[InferenceResponse], None] | None,
        cancelled: Callable[[], bool],
    ) -> None:
        self._forward = forward
        self._settled = threading.Condition()
        self._settle: Callable[[], None] | None = None
        self.cancelled = cancelled
        self.kept: list[InferenceResponse] = []
        self.last: InferenceResponse | None = None
        self.final = False
        self.used = False

    def send(self, response: InferenceResponse | None, *, final: bool) -> None:
        """Take a response; from any thread.

        Raises:
            TritonModelException: The last one was sent already.
        """
        with self._settled:
            if self.final:
                raise TritonModelException(
                    "Unable to send response. Response sender has been closed."
                )
            self.used = True
            if final:
                self.last, self.final = response, True
                self._settled.notify_all()
            elif response is not None and self._forward is not None:
                self._forward(response)
            elif response is not None:
                self.kept.append(response)
            settle = self._settle if final else None
        if settle is not None:
            settle()

    def close(self) -> None:
        """Take no further responses."""
        with self._settled:
            self.final = True
            self._settled.notify_all()

    def wait(self) -> None:
        """Wait for the last response."""
        with self._settled:
            self._settled.wait_for(lambda: self.final)

    def when_final(self, settle: Callable[[], None]) -> bool:
        """Call this when the last response comes; false = it is there already."""
        with self._settled:
            if not self.final:
                self._settle = settle
            return not self.final


class InferenceResponseSender:
    """Sends responses to one request; from any thread, also after ``execute`` has returned."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Send a response, or only say that there will be no more.

        Raises:
            TritonModelException: Nothing is said at all, or nothing more may be.
        """
        if response is not None and not isinstance(response, InferenceResponse):
            raise TritonModelException("a response must be an InferenceResponse")
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException(
                "Unable to send response. Unsupported flag provided: use "
                "TRITONSERVER_RESPONSE_COMPLETE_FINAL or 0."
            )
        if response is None and not flags:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        self._line.send(response, final=bool(flags))

    def is_cancelled(self) -> bool:
        """Tell whether the client has given the request up."""
        return self._line.cancelled()


class InferenceRequest:
    """One request, as a model sees it.

    Models may make one themselves, to ask other models.
    """

    def __init__(  # noqa: PLR0917 - as Triton has them
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: Any = None,
        parameters: dict[str, Any] | None = None,
        *,
        priority: int = 0,
        line: Line | None = None,
    ) -> None:
        del preferred_memory
        self._request_id = request_id
        self._correlation_id = correlation_id
        self._inputs = list(inputs)
        self._outputs = list(requested_output_names)
        self._model_name = model_name
        self._model_version = int(model_version)
        self._flags = flags
        self._timeout = timeout
        self._trace = trace
        self._parameters = dict(parameters or {})
        self._priority = priority
        self._line = line
        self._release = TRITONSERVER_REQUEST_RELEASE_ALL

    def __repr__(self) -> str:
        return f"<InferenceRequest {self._request_id!r} sequence={self._correlation_id!r}>"

    def inputs(self) -> list[Tensor]:
        """Return the inputs, those that the server makes included."""
        return self._inputs

    def request_id(self) -> str:
        """Return the client's name for the request."""
        return self._request_id

    def correlation_id(self) -> int | str:
        """Return the id of its sequence; 0 for none."""
        return self._correlation_id

    def flags(self) -> int:
        """Return the sum of the flags START (1) and END (2)."""
        return self._flags

    def set_flags(self, flags: int) -> None:
        """Set the flags of a request to another model."""
        self._flags = flags

    def timeout(self) -> int:
        """Return how many microseconds the request may wait; 0 = no limit."""
        return self._timeout

    def priority(self) -> int:
        """Return its priority: 0 = default, 1 = highest."""
        return self._priority

    def parameters(self) -> str:
        """Return the client's own parameters in JSON."""
        return json.dumps(self._parameters)

    def requested_output_names(self) -> list[str]:
        """Return the outputs that the client wants."""
        return self._outputs

    def model_name(self) -> str:
        """Return the model's name."""
        return self._model_name

    def model_version(self) -> int:
        """Return the model's version."""
        return self._model_version

    def trace(self) -> Any:
        """Return ``None``: requests are not traced."""
        return self._trace

    def is_cancelled(self) -> bool:
        """Tell whether the client has given the request up."""
        return self._line is not None and self._line.cancelled()

    def get_response_sender(self) -> InferenceResponseSender:
        """Return what responses are sent with.

        Raises:
            TritonModelException: The model made the request itself.
        """
        if self._line is None:
            raise TritonModelException("a request that a model made has no response sender")
        return InferenceResponseSender(self._line)

    def set_release_flags(self, flags: int) -> None:
        """Say what becomes of the request: it is over, or it is run again.

        Raises:
            TritonModelException: There is no such flag.
        """
        if flags not in (TRITONSERVER_REQUEST_RELEASE_ALL, TRITONSERVER_REQUEST_RELEASE_RESCHEDULE):
            raise TritonModelException(
                "Invalid request release flags: use TRITONSERVER_REQUEST_RELEASE_ALL or "
                "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE"
            )
        self._release = flags

    @property
    def own_parameters(self) -> dict[str, Any]:
        """The parameters, as they were given."""
        return self._parameters

    @property
    def rescheduled(self) -> bool:
        """The model wants it to be run again."""
        return self._release == TRITONSERVER_REQUEST_RELEASE_RESCHEDULE

    def exec(
        self, decoupled: bool = False, *_rest: Any, **_options: Any
    ) -> InferenceResponse | Iterator[InferenceResponse]:
        """Ask another model of the server, and wait for its answer.

        Args:
            decoupled: It may answer any number of times: return an iterator.

        Raises:
            TritonModelException: No model is named, or no call is under way.
        """
        from legato.runtimes.triton_python.others import ask

        answers = ask(self)
        return iter(answers) if decoupled else answers[-1]

    async def async_exec(
        self, decoupled: bool = False, *_rest: Any, **_options: Any
    ) -> InferenceResponse | Iterator[InferenceResponse]:
        """Ask another model, and let other coroutines go on meanwhile; see :meth:`exec`."""
        return await asyncio.to_thread(self.exec, decoupled)
