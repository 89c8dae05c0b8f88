"""The two special tensors: ``sequence_id`` and ``sequence_control_input``.

The ``dtype`` that a client writes beside a typed value is not looked at: OpenVINO Model
Server never did, and real clients get it wrong. Values in ``tensor_content`` and in the
signed fields are read too; its own client library sends those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from legato.protocols.tfserving.errors import (
    BAD_CONTROL,
    CONTROL_TYPE,
    ID_MISSING,
    ID_TYPE,
    NO_SHAPE,
    RANK,
    SHAPE,
)
from legato.protocols.tfserving.gen import tfserving_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.core.types import Step
    from legato.protocols.tfserving.errors import Words

ID: Final = "sequence_id"
CONTROL: Final = "sequence_control_input"
SPECIAL: Final = frozenset((ID, CONTROL))
NONE, START, END = 0, 1, 2
_ID_LIMIT = 2**64
_CONTROL_LIMIT = 2**32
_WIDTHS = {pb.DT_UINT64: 8, pb.DT_INT64: 8, pb.DT_UINT32: 4, pb.DT_INT32: 4}
_SIGNED = (pb.DT_INT64, pb.DT_INT32)


class _Kind(NamedTuple):
    """How one of the two is written."""

    name: str
    field: str
    limit: int
    wrong: Words


_ID = _Kind(ID, "uint64_val", _ID_LIMIT, ID_TYPE)
_CONTROL = _Kind(CONTROL, "uint32_val", _CONTROL_LIMIT, CONTROL_TYPE)


def apply(step: Step, correlation_id: int, control: int) -> None:
    """Do to ``step`` what the values of the two tensors ask for; 0 = not given.

    Raises:
        RefusalError: The control has no meaning, or the id is missing where it is needed.
    """
    if control not in (NONE, START, END):
        raise BAD_CONTROL.refusal()
    if control != START and not correlation_id:
        raise ID_MISSING.refusal()
    step.correlation_id = correlation_id or None
    step.start = control == START
    step.end = control == END


def read(step: Step, inputs: Mapping[str, pb.TensorProto]) -> None:
    """Read the two tensors of a request, where they are there.

    Raises:
        RefusalError: One of them is wrong; the id is looked at first, its shape before its value.
    """
    correlation_id = _value(inputs[ID], _ID) if ID in inputs else 0
    control = _value(inputs[CONTROL], _CONTROL) if CONTROL in inputs else NONE
    apply(step, correlation_id, control)


def _value(tensor: pb.TensorProto, kind: _Kind) -> int:
    dims = tensor.tensor_shape.dim
    if len(dims) == 0:
        raise NO_SHAPE.refusal()
    if len(dims) > 1:
        raise RANK.refusal(required(kind.name))
    if dims[0].size != 1:
        raise SHAPE.refusal(required(kind.name))
    value = _number(tensor, kind.field)
    if value is None or not 0 <= value < kind.limit:
        raise kind.wrong.refusal()
    return value


def _number(tensor: pb.TensorProto, field: str) -> int | None:
    """Return the one value of a tensor, ``None`` if it cannot be told."""
    for name in (field, "int64_val", "int_val"):
        values = getattr(tensor, name)
        if values:
            return int(values[0]) if len(values) == 1 else None
    content = tensor.tensor_content
    if content and len(content) == _WIDTHS.get(tensor.dtype):
        return int.from_bytes(content, "little", signed=tensor.dtype in _SIGNED)
    return None


def required(name: str) -> str:
    """Return the detail of a wrong shape."""
    return f"Required shape for {name} is: (1)"
