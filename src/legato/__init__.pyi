from legato.client import (
    AsyncClient,
    AsyncSequence,
    Client,
    InvalidInputError,
    ModelFailedError,
    ModelInfo,
    Outputs,
    Sequence,
    SequenceError,
    SequenceGoneError,
    StateLostError,
    StepConflictError,
    TensorInfo,
    UnavailableError,
    UnknownModelError,
)

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

__version__: str
