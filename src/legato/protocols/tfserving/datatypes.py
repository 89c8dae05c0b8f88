"""Element types: numbers of the protocol, numpy's names, OpenVINO Model Server's words.

A tensor lies either in ``tensor_content`` (row-major, little-endian) or in the
repeated field of its type; HALF and BFLOAT16 have their bit patterns in ``half_val``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from legato.protocols.tfserving.gen import tfserving_pb2 as pb


class ElementType(NamedTuple):
    """One element type.

    Attributes:
        number: Value of ``DataType``.
        numpy: Numpy's name; ``object`` for strings.
        word: What error texts call it.
        field: Repeated field of a TensorProto that may hold it.
    """

    number: int
    numpy: str
    word: str
    field: str


_ALL: Final = (
    ElementType(pb.DT_FLOAT, "float32", "FP32", "float_val"),
    ElementType(pb.DT_DOUBLE, "float64", "FP64", "double_val"),
    ElementType(pb.DT_HALF, "float16", "FP16", "half_val"),
    ElementType(pb.DT_BFLOAT16, "bfloat16", "BF16", "half_val"),
    ElementType(pb.DT_INT64, "int64", "I64", "int64_val"),
    ElementType(pb.DT_INT32, "int32", "I32", "int_val"),
    ElementType(pb.DT_INT16, "int16", "I16", "int_val"),
    ElementType(pb.DT_INT8, "int8", "I8", "int_val"),
    ElementType(pb.DT_UINT64, "uint64", "U64", "uint64_val"),
    ElementType(pb.DT_UINT32, "uint32", "U32", "uint32_val"),
    ElementType(pb.DT_UINT16, "uint16", "U16", "int_val"),
    ElementType(pb.DT_UINT8, "uint8", "U8", "int_val"),
    ElementType(pb.DT_BOOL, "bool", "BOOL", "bool_val"),
    ElementType(pb.DT_STRING, "object", "STRING", "string_val"),
)
BY_NUMBER: Final = {kind.number: kind for kind in _ALL}
BY_NUMPY: Final = {kind.numpy: kind for kind in _ALL}


def word_of_number(number: int) -> str:
    """Return what error texts call a ``DataType``."""
    kind = BY_NUMBER.get(number)
    if kind is not None:
        return kind.word
    known = pb.DataType.DESCRIPTOR.values_by_number.get(number)
    return known.name if known is not None else "UNDEFINED"


def word_of_numpy(name: str) -> str:
    """Return what error texts call a numpy dtype."""
    kind = BY_NUMPY.get(name)
    return kind.word if kind is not None else name


def number_of_numpy(name: str) -> int:
    """Return the ``DataType`` of a numpy dtype name; 0 where there is none."""
    kind = BY_NUMPY.get(name)
    return kind.number if kind is not None else 0
