# ruff: noqa: C901, PLR0912 - written as other people write handlers
"""A function handler that does what the body says: fails, hangs, dies, streams, keeps odd state."""

import collections
import os
import signal
import time

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException

COUNTS = {}
KEPT = {}


def handle(data, context):
    if data is None:
        return None
    bodies = [bytes(row.get("data") or row.get("body") or b"") for row in data]
    for idx, body in enumerate(bodies):
        word, _, rest = body.decode().partition(" ")
        seq = context.get_sequence_id(idx)
        if seq is not None:
            COUNTS.setdefault(seq, []).append(word)
        if word == "raise":
            raise ValueError("no")
        if word == "predict":
            raise PredictionException("teapot", 418)
        if word == "memory":
            raise MemoryError
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "exit":
            os._exit(int(rest))
        if word == "sleep":
            time.sleep(float(rest))
        if word == "odd":
            KEPT[seq] = collections.Counter(a=len(COUNTS[seq]))
        if word == "parts":
            send_intermediate_predict_response(
                [f"part of {b.decode()}" for b in bodies], context.request_ids, "Part", 200, context
            )
    if bodies[0] == b"nolist":
        return "text"
    if bodies[0] == b"short":
        return []
    if bodies[0] == b"object":
        return [object() for _ in data]
    for idx, body in enumerate(bodies):
        if body == b"meta":
            context.set_response_status(201, "Made", idx)
            context.set_response_content_type(idx, "text/x")
            context.set_response_header(idx, "x-rows", str(len(data)))
    return [
        {
            "count": len(COUNTS.get(context.get_sequence_id(idx), [])),
            "pid": os.getpid(),
            "rows": len(data),
            "kept": context.get_sequence_id(idx) in KEPT,
            "request": context.get_request_id(idx),
            "custom": os.environ.get("TS_REQUEST_SEQUENCE_ID"),
        }
        for idx in range(len(data))
    ]
