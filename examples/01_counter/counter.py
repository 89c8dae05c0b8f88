"""The smallest stateful model: how many steps, and their sum."""

from legato.model import Batch, Input, Model, Output, Result, State


class Counter(Model):
    """Counts the steps of each sequence and adds up what it is sent."""

    inputs = (Input("x", "float32", (1, 1)),)
    outputs = (Output("count", "int64", (1, 1)), Output("sum", "float32", (1, 1)))
    states = (State("count", "int64", (1, 1)), State("sum", "float32", (1, 1)))

    def step(self, batch: Batch) -> Result:
        """Advance every row; one row a sequence, whoever else is in the batch."""
        state = {
            "count": batch.state["count"] + 1,
            "sum": batch.state["sum"] + batch.inputs["x"],
        }
        return Result(outputs=state, state=state)
