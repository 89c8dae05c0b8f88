"""Write your own model: the public names for ``runtime: python`` models.

See ``examples/01_counter`` for the smallest one.
"""

from legato.runtimes.python.api import (
    Batch,
    ClientError,
    EndReason,
    Input,
    Model,
    ModelError,
    Output,
    Result,
    Row,
    RowInfo,
    RowModel,
    State,
)

__all__ = [
    "Batch",
    "ClientError",
    "EndReason",
    "Input",
    "Model",
    "ModelError",
    "Output",
    "Result",
    "Row",
    "RowInfo",
    "RowModel",
    "State",
]
