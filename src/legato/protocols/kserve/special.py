"""OpenVINO Model Server's special tensors, as inputs of a KServe request.

Its clients name a sequence by the tensors ``sequence_id`` and ``sequence_control_input``
(1 = start, 2 = end). It never took them over this protocol; here they mean what they
mean over its own, and so such a step follows the rules of that protocol.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from legato.core.errors import ClientError, ServerError
from legato.core.types import TFSERVING, OutputHeader, Reply
from legato.protocols.kserve.delivery import KserveStep, finish_with

if TYPE_CHECKING:
    from legato.core.types import Step
    from legato.protocols.kserve.ports import EnginePort

ID: Final = "sequence_id"
CONTROL: Final = "sequence_control_input"
_START, _END = 1, 2


def adopt(step: KserveStep, engine: EnginePort) -> None:
    """Take the special tensors out of a step's inputs, where they are no inputs of its model.

    Raises:
        ClientError: One of them has no meaning.
    """
    inputs = step.inputs
    if ID not in inputs and CONTROL not in inputs:
        return
    try:
        signature = engine.model(step.model, step.version).signature
    except ServerError:
        return  # the engine tells it better
    own = {spec.name for spec in signature.inputs}
    if not signature.states or ID in own or CONTROL in own:
        return
    correlation_id, control = _value(step, ID, 2**64), _value(step, CONTROL, 2**32)
    if control not in (0, _START, _END):
        raise ClientError("Unexpected value of sequence control input")
    step.inputs = {name: inputs[name] for name in inputs if name not in (ID, CONTROL)}
    step.outputs = tuple(name for name in step.outputs if name != ID)
    step.correlation_id = correlation_id or step.correlation_id
    step.start = step.start or control == _START
    step.end = step.end or control == _END
    step.dialect = TFSERVING
    finish_with(step, told)


def _value(step: Step, name: str, limit: int) -> int:
    array = step.inputs.get(name)
    if array is None:
        return 0
    if array.size != 1:
        raise ClientError(f"Invalid input shape - Required shape for {name} is: (1)")
    value = int(array.reshape(-1)[0]) if array.dtype.kind in "iu" else -1
    if not 0 <= value < limit:
        raise ClientError(f"input '{name}' must be one whole number of 0 or more")
    return value


def told(reply: Reply) -> Reply:
    """Return the reply with the sequence's id as one more output."""
    if not isinstance(reply.correlation_id, int):
        return reply
    name = reply.correlation_id.to_bytes(8, "little")
    return Reply(
        _with_id(reply.headers), (*reply.data, name), reply.correlation_id, reply.step,
        reply.version, reply.replayed, reply.durability, reply.incarnation,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _with_id(headers: tuple[OutputHeader, ...]) -> tuple[OutputHeader, ...]:
    return (*headers, OutputHeader(ID, "uint64", (1,)))
