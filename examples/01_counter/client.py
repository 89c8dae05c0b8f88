"""Two sequences through plain HTTP; nothing but the standard library."""

import json
import sys
from urllib.request import urlopen

URL = f"http://{sys.argv[1] if len(sys.argv) > 1 else '127.0.0.1:8000'}/v2/models/counter/infer"


def step(sequence: str, x: float, **more: object) -> None:
    """Send one step and print the answer."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [x]}
    body = {"inputs": [tensor], "parameters": {"sequence_id": sequence, **more}}
    with urlopen(URL, json.dumps(body).encode()) as reply:
        outputs = {tensor["name"]: tensor["data"][0] for tensor in json.load(reply)["outputs"]}
    print(f"{sequence:5}  count {outputs['count']}  sum {outputs['sum']:g}")


step("ann", 1, sequence_start=True)
step("ann", 2)
step("bob", 10, sequence_start=True)  # another sequence, another state
step("ann", 3, sequence_step=3)
step("ann", 3, sequence_step=3)  # sent twice: applied once, answered twice
step("bob", 20, sequence_end=True)
step("ann", 4, sequence_end=True)
