"""``pb_utils.Tensor`` and what turns Triton's names of types into numpy's and back."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from legato.runtimes.triton_python.errors import TritonModelException

if TYPE_CHECKING:
    from legato.core.types import Array, OutputHeader

_NAMES: Final = {
    "BOOL": (1, np.bool_), "UINT8": (2, np.uint8), "UINT16": (3, np.uint16),
    "UINT32": (4, np.uint32), "UINT64": (5, np.uint64), "INT8": (6, np.int8),
    "INT16": (7, np.int16), "INT32": (8, np.int32), "INT64": (9, np.int64),
    "FP16": (10, np.float16), "FP32": (11, np.float32), "FP64": (12, np.float64),
    "STRING": (13, np.object_),
}  # fmt: skip

TRITON_TO_NUMPY_TYPE: Final = dict(_NAMES.values())
"""Number of a type in Triton's backend API to numpy's type."""
TRITON_STRING_TO_NUMPY: Final = {f"TYPE_{name}": kind for name, (_, kind) in _NAMES.items()}
"""Name of a type in a model's configuration to numpy's type."""
_NUMBER_OF: Final[dict[Any, int]] = {np.dtype(kind): number for number, kind in _NAMES.values()}
_LENGTH: Final = struct.Struct("<I")


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """Return numpy's type for a name as it stands in ``config.pbtxt``: ``TYPE_FP32``."""
    return TRITON_STRING_TO_NUMPY.get(triton_type_string)


def triton_to_numpy_type(data_type: int) -> Any:
    """Return numpy's type for the number of a type."""
    return TRITON_TO_NUMPY_TYPE.get(data_type)


def numpy_to_triton_type(data_type: Any) -> int:
    """Return the number of a numpy type.

    Raises:
        TritonModelException: It has none.
    """
    kind = np.dtype(data_type).newbyteorder("=")
    number = _NUMBER_OF.get(np.dtype(object) if kind.kind in "SU" else kind)
    if number is None:
        raise TritonModelException(f"Tensors of the numpy type {kind} are not supported")
    return number


def serialize_byte_tensor(input_tensor: Array) -> Array | None:
    """Put strings into one piece: each after its length in four bytes; ``None`` for none."""
    if input_tensor.size == 0:
        return None
    parts = []
    for value in input_tensor.ravel().tolist():
        raw = value if isinstance(value, bytes) else str(value).encode("utf-8")
        parts += [_LENGTH.pack(len(raw)), raw]
    return np.asarray(b"".join(parts), dtype=np.object_)


def deserialize_bytes_tensor(encoded_tensor: Any) -> Array:
    """Take apart what :func:`serialize_byte_tensor` made."""
    raw = encoded_tensor.item() if isinstance(encoded_tensor, np.ndarray) else encoded_tensor
    raw = bytes(raw)
    values, at = [], 0
    while at < len(raw):
        (size,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        values.append(raw[at : at + size])
        at += size
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def from_bytes(raw: bytes, header: OutputHeader) -> Array:
    """Read an output as a reply has it; the array may be written to."""
    if header.dtype == "object":
        return deserialize_bytes_tensor(raw).reshape(header.shape)
    return np.frombuffer(bytearray(raw), header.dtype).reshape(header.shape)


class Tensor:
    """A named array.

    Args:
        name: Its name.
        array: Numpy array; strings as ``bytes`` or ``str`` in an array of objects.

    Raises:
        TritonModelException: The array is none, or of a type that Triton does not have.
    """

    def __init__(self, name: str, array: Array) -> None:
        if not isinstance(array, np.ndarray):
            raise TritonModelException(
                f"Tensor '{name}' needs a numpy array, not a {type(array).__name__}"
            )
        self._number = numpy_to_triton_type(array.dtype)
        self._name = name
        text = array.dtype.kind in "SU"
        self._array: Any = array.astype(np.object_) if text else array

    def __repr__(self) -> str:
        return f"<Tensor {self._name} {self._array.dtype} {list(self._array.shape)}>"

    def name(self) -> str:
        """Return its name."""
        return self._name

    def as_numpy(self) -> Array:
        """Return the array; it may be written to."""
        array: Array = self._array
        return array

    def shape(self) -> list[int]:
        """Return its shape, the batch included."""
        return list(self._array.shape)

    def triton_dtype(self) -> int:
        """Return the number of its type."""
        return self._number

    def is_cpu(self) -> bool:
        """Tell whether it lies in the memory of the CPU: always."""
        return True

    def to_dlpack(self) -> Any:
        """Return a DLPack capsule of it.

        Raises:
            TritonModelException: Strings have none.
        """
        if self._array.dtype.hasobject:
            raise TritonModelException("DLPack does not have tensors of strings.")
        # What others get may be written to, so what numpy gives must be.
        array = self._array if self._array.flags.writeable else self._array.copy()
        return array.__dlpack__()

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Tensor:
        """Make one of a DLPack capsule, or of anything that gives one.

        Raises:
            TritonModelException: It does not lie in the memory of the CPU.
        """
        source = tensor if hasattr(tensor, "__dlpack__") else _Capsule(tensor)
        device = source.__dlpack_device__()
        if device[0] != _CPU:
            source = source.cpu() if hasattr(source, "cpu") else None
        if source is None:
            raise TritonModelException(f"Tensor '{name}' must lie in the memory of the CPU")
        return Tensor(name, np.from_dlpack(source))


_CPU: Final = 1


class _Capsule:
    """A bare DLPack capsule as numpy takes it."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_options: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CPU, 0)
