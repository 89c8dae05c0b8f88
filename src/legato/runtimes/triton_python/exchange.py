"""Responses of Triton's Python models as parts of answers (:mod:`legato.core.parts`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.errors import ModelSaysError
from legato.core.parts import CATEGORY, ERROR, PARTS, Outputs
from legato.core.reply import encode_reply
from legato.core.types import OutputHeader
from legato.runtimes.triton_python.errors import CATEGORIES
from legato.runtimes.triton_python.tensors import serialize_byte_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from legato.core.types import Array
    from legato.runtimes.triton_python.requests import InferenceResponse


def outputs_of(response: InferenceResponse, wanted: Sequence[str] = ()) -> Outputs:
    """Encode the outputs of a response; only those that are wanted, where some are."""
    headers, data = [], []
    for tensor in response.output_tensors():
        if wanted and tensor.name() not in wanted:
            continue
        array = tensor.as_numpy()
        kind = "object" if array.dtype.hasobject else array.dtype.name
        headers.append(OutputHeader(tensor.name(), kind, tuple(array.shape)))
        data.append(bytes_of(array))
    return Outputs(tuple(headers), tuple(data))


def bytes_of(array: Array) -> bytes:
    """Encode an array row-major and little-endian; strings after their length."""
    if array.dtype.hasobject:
        packed = serialize_byte_tensor(array)
        return b"" if packed is None else bytes(packed.item())
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def error_of(response: InferenceResponse) -> ModelSaysError | None:
    """Return the error of a response, if it is one."""
    error = response.error()
    if error is None:
        return None
    return ModelSaysError(error.message(), CATEGORIES[error.code()])


def to_part(
    response: InferenceResponse, wanted: Sequence[str] = ()
) -> tuple[bytes, dict[str, Any]]:
    """Encode a response that is not the last one."""
    error = error_of(response)
    if error is not None:
        return b"", {ERROR: error.message, CATEGORY: error.category}
    return encode_reply(*outputs_of(response, wanted)), {}


def to_parts(
    responses: Sequence[InferenceResponse], wanted: Sequence[str] = ()
) -> tuple[bytes, dict[str, Any]]:
    """Encode any number of responses that leave together."""
    return b"", {PARTS: [to_part(response, wanted) for response in responses]}


def stack(
    responses: Sequence[InferenceResponse | None], declared: Mapping[str, str]
) -> dict[str, Array] | None:
    """Lay the outputs of rows side by side; ``None`` where rows differ in what they have.

    Args:
        responses: One a row.
        declared: The dtype of each output of the model.
    """
    rows = []
    for response in responses:
        if response is None:
            return None
        row = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        if len(row) != len(declared):
            return None
        rows.append(row)
    stacked = {}
    for name, dtype in declared.items():
        column = [row.get(name) for row in rows]
        pieces = [piece for piece in column if piece is not None and piece.dtype == dtype]
        shapes = {piece.shape for piece in pieces}
        if len(pieces) < len(rows) or len(shapes) > 1 or next(iter(shapes), ())[:1] != (1,):
            return None
        stacked[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return stacked
