"""Two machines with two sensors each; their sequences take turns."""

import sys
from contextlib import ExitStack

import legato

MACHINES = {
    "lathe": [(0.2, 1.0), (0.1, 1.1), (0.3, 0.9), (0.2, 1.0), (9.0, 1.0)],
    "press": [(5.0, 0.0), (5.2, 0.1), (4.9, 0.0), (5.1, 0.1), (5.0, 0.0)],
}

with (
    legato.Client(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000") as client,
    ExitStack() as stack,
):
    sequences = {
        name: stack.enter_context(client.sequence("surprise", id=name)) for name in MACHINES
    }
    for step in range(5):
        for name, rows in MACHINES.items():
            first, second = sequences[name].step(rows[step])[0]
            print(f"{name}, step {step + 1}: {first:.2f} {second:.2f}")
