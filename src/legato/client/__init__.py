"""The client: numbers its steps, tries again, and resumes after a restart of the server."""

from legato.client.asynchronous import AsyncClient, AsyncSequence
from legato.client.errors import (
    InvalidInputError,
    ModelFailedError,
    SequenceError,
    SequenceGoneError,
    StateLostError,
    StepConflictError,
    UnavailableError,
    UnknownModelError,
)
from legato.client.synchronous import Client, Sequence
from legato.client.tensors import ModelInfo, Outputs, TensorInfo

__all__ = [
    "AsyncClient",
    "AsyncSequence",
    "Client",
    "InvalidInputError",
    "ModelFailedError",
    "ModelInfo",
    "Outputs",
    "Sequence",
    "SequenceError",
    "SequenceGoneError",
    "StateLostError",
    "StepConflictError",
    "TensorInfo",
    "UnavailableError",
    "UnknownModelError",
]
