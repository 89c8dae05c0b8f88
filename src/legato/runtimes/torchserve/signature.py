"""What every TorchServe model takes and gives: bytes in, bytes out, and what its handler keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from legato.core.types import Signature, StateSpec, TensorSpec
from legato.runtimes.torchserve.exchange import DATA, META, RESPONSE

if TYPE_CHECKING:
    from legato.repository.config import ModelConfig

STATE: Final = "handler"
"""Name of the state: the entries that a handler keeps under a sequence's id, encoded."""


def signature_of(config: ModelConfig) -> Signature:
    """Make the signature of an archive; models with sequence batching have state."""
    states: tuple[StateSpec, ...] = ()
    if config.options["keys"].get("sequenceBatching") is True:
        states = (StateSpec(STATE, STATE, STATE, "uint8", (1, -1), ragged=True),)
    return Signature(
        inputs=(TensorSpec(DATA, "object", (1,)),),
        outputs=(TensorSpec(RESPONSE, "object", (1,)), TensorSpec(META, "object", (1,))),
        states=states,
        batching=True,
        why="TorchServe handlers take batches",
        platform="torchserve",
    )
