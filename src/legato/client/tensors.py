"""Arrays of a user become tensors of a model, and back.

What a user hands in is made to fit where nothing is lost by it: a batch axis is put in
front, floats are rounded to the model's precision, integers become floats. Whatever
else does not fit is refused with the name of the tensor, what it should be and what it is.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from legato.client.errors import InvalidInputError, SequenceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]

BYTES = "BYTES"
_NUMPY_NAMES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    BYTES: "O",
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model.

    Attributes:
        name: Tensor name.
        datatype: KServe name of its type, for example ``FP32``.
        shape: Shape of a request; -1 = any size.
        optional: A step may leave it out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.datatype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a server tells of a model.

    Attributes:
        name: Model name.
        versions: Versions served.
        inputs: What a step takes.
        outputs: What a step gives.
        batched: The first axis of every tensor is the batch; a step has size 1 there.
        receipts: Answers that the server keeps of a sequence; ``None`` = not told.
    """

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batched: bool = False
    receipts: int | None = None


class Payload(NamedTuple):
    """The tensors of one step: (name, datatype, shape) of each, and its bytes."""

    headers: tuple[tuple[str, str, tuple[int, ...]], ...]
    raws: tuple[bytes, ...]


class Outputs(Mapping[str, "Array"]):
    """What a step gave: arrays by name, in the model's own shapes.

    Attributes:
        step: Number of the step.
        replayed: The step had been applied before, and this is its stored answer.
        version: Version of the model that ran.
        durability: What the step survives: ``process`` (a crash of the server) or ``disk``
            (of the machine, too); ``none`` = kept in memory only, "" = not told.
    """

    __slots__ = ("_arrays", "durability", "replayed", "step", "version")

    def __init__(
        self,
        arrays: Mapping[str, Array],
        step: int,
        *,
        replayed: bool = False,
        version: str = "",
        durability: str = "",
    ) -> None:
        self._arrays = arrays
        self.step = step
        self.replayed = replayed
        self.version = version
        self.durability = durability

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}{list(array.shape)}" for name, array in self._arrays.items())
        return f"<Outputs step={self.step} {inner}{' replayed' * self.replayed}>"


# -- types --------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """Return the numpy dtype of a KServe data type.

    Raises:
        InvalidInputError: There is none.
    """
    try:
        if datatype == "BF16":
            importlib.import_module("ml_dtypes")  # teaches numpy the name
            return np.dtype("bfloat16")
        return np.dtype(_NUMPY_NAMES[datatype])
    except ImportError:
        raise InvalidInputError("BF16 tensors need the package 'ml_dtypes'") from None
    except KeyError:
        raise InvalidInputError(f"data type '{datatype}' is not known here") from None


def _cast(value: Any, tensor: TensorInfo) -> Array:
    """Return ``value`` in the tensor's dtype, if nothing but precision is lost by it."""
    wanted = numpy_dtype(tensor.datatype)
    if wanted.hasobject:
        return np.asarray(value, object)
    try:
        given = np.asarray(value)
    except ValueError as error:
        raise _bad(tensor, f"it is no array: {error}") from None
    if given.dtype == wanted:
        return given
    fits = np.can_cast(given.dtype, wanted, "same_kind") or (
        wanted.kind in "iu" and given.dtype.kind in "iu"
    )
    if not fits:
        raise _bad(tensor, f"got {given.dtype}")
    if wanted.kind in "iu" and given.dtype.kind in "iu" and given.size:
        limits = np.iinfo(wanted)
        low, high = int(given.min()), int(given.max())
        if low < limits.min or high > limits.max:
            raise _bad(tensor, f"got values from {low} to {high}")
    return given.astype(wanted)


def _bad(tensor: TensorInfo, problem: str) -> InvalidInputError:
    return InvalidInputError(
        f"input '{tensor}' does not fit: {problem}",
        code="INVALID_ARGUMENT",
        reason="invalid_input",
    )


# -- shapes -------------------------------------------------------------------------------


def _shaped(array: Array, tensor: TensorInfo, *, batched: bool) -> Array:
    """Return ``array`` with a batch axis in front if it lacks one, and the right sizes."""
    wanted = tensor.shape
    if array.ndim == 0 and all(size in (-1, 1) for size in wanted):
        array = array.reshape((1,) * len(wanted))
    elif array.ndim == len(wanted) - 1 and wanted[0] in (-1, 1):
        array = array[np.newaxis]
    fits = array.ndim == len(wanted) and all(
        size in (-1, got) for size, got in zip(wanted, array.shape, strict=True)
    )
    if not fits:
        raise _bad(tensor, f"got shape {list(array.shape)}")
    if batched and array.shape[0] != 1:
        raise _bad(
            tensor, f"got shape {list(array.shape)}, and a step of a sequence is one row: size 1"
        )
    return array


def _raw(array: Array, tensor: TensorInfo) -> bytes:
    if not array.dtype.hasobject:
        return array.tobytes()
    parts = []
    for value in array.ravel():
        data = value.encode() if isinstance(value, str) else value
        if not isinstance(data, bytes):
            raise _bad(tensor, f"elements are str or bytes, got {type(data).__name__}")
        parts.append(struct.pack("<I", len(data)) + data)
    return b"".join(parts)


def decode(raw: bytes, datatype: str, shape: Iterable[int]) -> Array:
    """Return the array that the bytes of an output hold; its memory is its own.

    Raises:
        SequenceError: The bytes do not fit the shape.
    """
    dtype = numpy_dtype(datatype)
    dims = tuple(shape)
    try:
        if dtype.hasobject:
            array = np.empty(dims, object)
            array.ravel()[:] = _strings(raw)
            return array
        return np.frombuffer(raw, dtype).reshape(dims).copy()
    except (ValueError, struct.error) as error:
        raise SequenceError(f"an output does not fit its shape {list(dims)}: {error}") from None


def _strings(raw: bytes) -> list[bytes]:
    values, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        values.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return values


# -- a whole step -------------------------------------------------------------------------


class Packer:
    """Makes the payloads of one sequence.

    Args:
        model: What the model takes.
        constants: Inputs that go with every step.
        outputs: Outputs asked for; empty = all.

    Raises:
        InvalidInputError: A constant does not fit, or an output is not there.
    """

    def __init__(
        self, model: ModelInfo, constants: Mapping[str, npt.ArrayLike], outputs: Sequence[str] = ()
    ) -> None:
        self._model = model
        self._tensors = {tensor.name: tensor for tensor in model.inputs}
        self._constants = {name: self._one(name, value) for name, value in constants.items()}
        known = {tensor.name for tensor in model.outputs}
        for name in outputs:
            if name not in known:
                raise InvalidInputError(
                    f"model '{model.name}' has no output '{name}', but {_names(known)}"
                )
        self._bare_out = len(outputs or known) == 1

    def pack(self, value: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> tuple[Payload, bool]:
        """Return the tensors of a step, and whether its output is to come bare.

        Raises:
            InvalidInputError: They do not fit the model.
        """
        bare = not isinstance(value, Mapping)
        given = value if isinstance(value, Mapping) else {self._only(): value}
        arrays = {name: self._one(name, entry) for name, entry in given.items()}
        arrays = {**self._constants, **arrays}
        missing = [t.name for t in self._model.inputs if not t.optional and t.name not in arrays]
        if missing:
            raise InvalidInputError(
                f"model '{self._model.name}' needs {_names(missing)} with every step",
                code="INVALID_ARGUMENT",
                reason="invalid_input",
            )
        headers = tuple(
            (name, self._tensors[name].datatype, array.shape) for name, array in arrays.items()
        )
        raws = tuple(_raw(array, self._tensors[name]) for name, array in arrays.items())
        return Payload(headers, raws), bare and self._bare_out

    def _one(self, name: str, value: Any) -> Array:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise InvalidInputError(
                f"model '{self._model.name}' has no input '{name}', but {_names(self._tensors)}",
                code="INVALID_ARGUMENT",
                reason="invalid_input",
            )
        return _shaped(_cast(value, tensor), tensor, batched=self._model.batched)

    def _only(self) -> str:
        """Return the name of the one input that a bare array can be meant for."""
        free = [t for t in self._model.inputs if t.name not in self._constants]
        needed = [t for t in free if not t.optional] or free
        if len(needed) != 1:
            raise InvalidInputError(
                f"model '{self._model.name}' takes {_names(t.name for t in free)}: hand them in "
                "by name, as a mapping",
                code="INVALID_ARGUMENT",
                reason="invalid_input",
            )
        return needed[0].name


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
