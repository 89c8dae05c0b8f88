"""Model repositories of Triton Inference Server: folders with a ``config.pbtxt``."""

from __future__ import annotations

from legato.repository.triton.options import Options
from legato.repository.triton.repository import TritonRepository

__all__ = ["Options", "TritonRepository"]
