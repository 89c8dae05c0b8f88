"""The oracle of the fault tests: a model whose state is a hash chain.

``state' = hash(state + input)`` and the output is the new state, so that a step lost,
repeated or taken out of order shows in the very next reply, on the client, without a look
inside. Copied into a model's folder; :func:`advance` is the clean replay.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from legato.model import Batch, Input, Model, Output, Result, State

STATE_BYTES = 16
INPUT_BYTES = 8


def advance(state: bytes, data: bytes) -> bytes:
    """Return the state after one step."""
    return blake2b(state + data, digest_size=STATE_BYTES).digest()


def input_of(sequence: int | str, step: int) -> bytes:
    """Return what a test sends with a step: other bytes for each sequence and step."""
    return blake2b(f"{sequence}/{step}".encode(), digest_size=INPUT_BYTES).digest()


def replay(sequence: int | str, steps: int) -> bytes:
    """Return the state after so many steps of a sequence, worked out here and now."""
    state = bytes(STATE_BYTES)
    for step in range(1, steps + 1):
        state = advance(state, input_of(sequence, step))
    return state


class Chain(Model):
    """Advances the chain of each row."""

    inputs = (Input("data", "uint8", (1, INPUT_BYTES)),)
    outputs = (Output("chain", "uint8", (1, STATE_BYTES)),)
    states = (State("chain", "uint8", (1, STATE_BYTES)),)

    def step(self, batch: Batch) -> Result:
        """Hash state and input of each row."""
        rows = zip(batch.state["chain"], batch.inputs["data"], strict=True)
        chain = b"".join(advance(state.tobytes(), data.tobytes()) for state, data in rows)
        made = np.frombuffer(chain, np.uint8).reshape(-1, STATE_BYTES)
        return Result({"chain": made}, {"chain": made})
