"""A PredictRequest becomes steps: the special tensors first, then the data, name by name.

The engine checks inputs too. They are checked here because users match on the order
and the texts of OpenVINO Model Server, and because it looks at them before it looks for
the sequence.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from legato.core.errors import ClientError
from legato.core.types import InputKind, UpdateRule
from legato.protocols.tfserving import controls, tensors
from legato.protocols.tfserving.datatypes import word_of_number, word_of_numpy
from legato.protocols.tfserving.errors import (
    BATCH,
    INPUT_COUNT,
    INPUT_MISSING,
    PRECISION,
    RANK,
    SHAPE,
    shape_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.core.types import Array, Signature, Step, TensorSpec
    from legato.protocols.tfserving.gen import tfserving_pb2 as pb


class Wanted(NamedTuple):
    """One input that clients send."""

    spec: TensorSpec
    dtype: np.dtype[Any]
    word: str
    required: bool


class Expected(NamedTuple):
    """What a request to a model carries.

    Attributes:
        inputs: In the order of their names.
        required: How many cannot be left out.
        many_rows: A request may carry several rows: the model carries nothing from
            step to step, and all its inputs have a batch axis.
    """

    inputs: tuple[Wanted, ...]
    required: int
    many_rows: bool


class _Identity:
    """A signature as a key: equal only to itself (signatures may hold arrays)."""

    __slots__ = ("signature",)

    def __init__(self, signature: Signature) -> None:
        self.signature = signature

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.signature is self.signature

    def __hash__(self) -> int:
        return id(self.signature)


def expected(signature: Signature) -> Expected:
    """Return what requests to a model carry."""
    return _expected(_Identity(signature))


@lru_cache(maxsize=256)
def _expected(key: _Identity) -> Expected:
    signature = key.signature
    once = {state.input for state in signature.states if state.rule is UpdateRule.WRITE_ONCE}
    wanted = [
        Wanted(
            spec,
            np.dtype(spec.dtype),
            word_of_numpy(spec.dtype),
            not (spec.optional or spec.default is not None or spec.name in once),
        )
        for spec in sorted(signature.inputs, key=lambda spec: spec.name)
        if spec.kind is not InputKind.CONTROL
    ]
    rows = not signature.states and all(w.spec.batch_axis is not None for w in wanted)
    return Expected(tuple(wanted), sum(w.required for w in wanted), rows)


# -- gRPC -------------------------------------------------------------------------------------


def fill(request: pb.PredictRequest, step: Step, signature: Signature) -> int:
    """Fill ``step`` from a request; return the number of rows that it carries.

    Raises:
        RefusalError: A special tensor or an input is wrong.
    """
    given = request.inputs
    if signature.states:
        controls.read(step, given)
    want = expected(signature)
    special = sum(name in given for name in controls.SPECIAL) if signature.states else 0
    check_count(want, len(given), special)
    inputs: dict[str, Array] = {}
    rows = 0
    for wanted in want.inputs:
        name = wanted.spec.name
        if name not in given:
            if wanted.required:
                raise INPUT_MISSING.refusal(f"Required input: {name}")
            continue
        tensor = given[name]
        shape = tuple([dim.size for dim in tensor.tensor_shape.dim])
        if any(dim < 0 for dim in shape):
            raise SHAPE.refusal(
                "Negative or zero dimension size is not acceptable: "
                f"{shape_text(shape)}; input name: {name}"
            )
        word = word_of_number(tensor.dtype)
        if word != wanted.word:
            raise PRECISION.refusal(f"Expected: {wanted.word}; Actual: {word}; input name: {name}")
        rows = check_shape(wanted.spec, shape, rows=rows, many=want.many_rows)
        inputs[name] = tensors.read(tensor, wanted.dtype, shape, name)
    step.inputs = inputs
    return rows or 1


# -- checks that gRPC and REST share -----------------------------------------------------------


def check_count(want: Expected, given: int, special: int) -> None:
    """Check the number of inputs; unknown names show as missing ones later.

    Raises:
        RefusalError: There are too many or too few.
    """
    if not want.required <= given - special <= len(want.inputs):
        raise INPUT_COUNT.refusal(f"Expected: {want.required + special}; Actual: {given}")


def check_shape(spec: TensorSpec, got: tuple[int, ...], *, rows: int, many: bool) -> int:
    """Check the shape of an input; return its number of rows.

    Args:
        spec: What the model takes.
        got: Shape that came.
        rows: Rows of the inputs before it; 0 = it is the first one.
        many: More than one row may come.

    Raises:
        RefusalError: The shape does not fit.
    """
    want, axis = spec.shape, spec.batch_axis
    name = f"input name: {spec.name}"
    if len(got) != len(want):
        raise RANK.refusal(f"Expected: {shape_text(want)}; Actual: {shape_text(got)}; {name}")
    found = rows
    if axis is not None and want:
        found = got[axis]
        allowed = rows or (found if many and found > 0 else 1)
        if found != allowed:
            raise BATCH.refusal(f"Expected: {allowed}; Actual: {found}; {name}")
    for at, (dim, size) in enumerate(zip(want, got, strict=True)):
        if at != axis and dim not in (-1, size):
            raise SHAPE.refusal(f"Expected: {shape_text(want)}; Actual: {shape_text(got)}; {name}")
    return found


def split_rows(
    inputs: Mapping[str, Array], signature: Signature, rows: int
) -> list[dict[str, Array]]:
    """Cut a request of several rows into one for each."""
    axes = {spec.name: spec.batch_axis or 0 for spec in signature.inputs}
    return [
        {name: np.take(value, [row], axes[name]) for name, value in inputs.items()}
        for row in range(rows)
    ]


def apply_step_header(text: str | None, step: Step) -> None:
    """Read the header ``legato-step``: the number of this step, the first one is 1.

    Raises:
        ClientError: It is no step number.
    """
    if text is None:
        return
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ClientError(f"the header legato-step must be a step number, got '{text[:40]}'")
    step.number = int(text)
