"""What a model asks of other models of the server (Triton: business logic scripting)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from legato.core.errors import ModelSaysError
from legato.core.parts import from_part
from legato.core.types import OutputHeader
from legato.runtimes.triton_python.errors import CATEGORIES, TritonError, TritonModelException
from legato.runtimes.triton_python.requests import InferenceRequest, InferenceResponse
from legato.runtimes.triton_python.tensors import Tensor, from_bytes
from legato.runtimes.worker.messages import to_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ask: Callable[..., dict[str, Any]] | None = None


def connect(asks: Callable[..., dict[str, Any]]) -> None:
    """Note what takes a wish and inputs, and waits for what is told."""
    global _ask  # noqa: PLW0603 - a worker runs one model
    _ask = asks


def ask(request: InferenceRequest) -> list[InferenceResponse]:
    """Ask what a request says; the answers in their order, at least one.

    Raises:
        TritonModelException: No model is named, or no call is under way.
    """
    if not request.model_name():
        raise TritonModelException("a request to another model needs its model_name")
    if _ask is None:
        raise TritonModelException("other models can be asked during a call of 'execute' only")
    version = request.model_version()
    wish = {
        "model": request.model_name(),
        "version": str(version) if version > 0 else "",
        "outputs": request.requested_output_names(),
        "request_id": request.request_id(),
        "parameters": request.own_parameters,
        "priority": request.priority(),
    }
    try:
        told = _ask(wish, {tensor.name(): tensor.as_numpy() for tensor in request.inputs()})
    except RuntimeError as error:
        raise TritonModelException(str(error)) from error
    answers = [
        _error(part) if isinstance(part, ModelSaysError) else _response(part.headers, part.data)
        for body, meta in told["parts"]
        for part in from_part(bytes(body), meta)
    ]
    if told["error"] is not None:
        return [*answers, _error(to_error(told["error"]))]
    headers, data = told["answer"]
    if headers or not answers:
        answers.append(_response(headers, data))
    return answers


def _response(headers: Sequence[Any], data: Sequence[bytes]) -> InferenceResponse:
    tensors = []
    for (name, dtype, shape), raw in zip(headers, data, strict=True):
        tensors.append(Tensor(name, from_bytes(raw, OutputHeader(name, dtype, tuple(shape)))))
    return InferenceResponse(tensors)


def _error(error: Exception) -> InferenceResponse:
    category = error.category if isinstance(error, ModelSaysError) else "internal"
    return InferenceResponse(error=TritonError(str(error), CATEGORIES.index(category)))
