"""The bare runtime: what ONNX Runtime does in a loop with nothing around it.

The best case: a batch that is ready, one thread, no gathering of rows, no clients.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import onnxruntime

if TYPE_CHECKING:
    from pathlib import Path

    from models import Model


class BareLoop:
    """One model at one batch size."""

    def __init__(self, model: Model, file: Path, rows: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        self._feed = dict(model.rows(rows))
        self._rows = rows
        self._session.run(None, self._feed)

    def microseconds(self, seconds: float) -> float:
        """Run for a while; return CPU microseconds a row."""
        run, feed = self._session.run, self._feed
        calls = 0
        until = time.perf_counter() + seconds
        began = time.thread_time()
        while time.perf_counter() < until:
            run(None, feed)
            calls += 1
        return (time.thread_time() - began) / (calls * self._rows) * 1e6
