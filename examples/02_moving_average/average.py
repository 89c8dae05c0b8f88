"""An exponential moving average, written for one row at a time."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from legato.model import ClientError, Input, Output, Result, Row, RowModel, State


class MovingAverage(RowModel):
    """Smooths a series of measurements; ``alpha`` comes from model.yaml."""

    inputs = (Input("value", "float32", (1, 3)),)
    outputs = (Output("average", "float32", (1, 3)),)
    states = (State("average", "float32", (1, 3)),)

    def load(self, options: Mapping[str, Any]) -> None:
        """Read the weight of a new value."""
        self.alpha = np.float32(options["alpha"])

    def step_row(self, row: Row) -> Result:
        """Move the average towards the new value; the first value is the average."""
        value, average = row.inputs["value"], row.state["average"]
        if not np.isfinite(value).all():
            raise ClientError("a measurement must be a number")  # fails this row only
        average = value if row.info.step == 1 else average + self.alpha * (value - average)
        return Result({"average": average}, {"average": average})
