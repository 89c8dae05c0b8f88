"""ONNX models on ONNX Runtime."""

from legato.runtimes.onnx.loading import load
from legato.runtimes.onnx.runtime import Findings, OnnxRuntime

__all__ = ["Findings", "OnnxRuntime", "load"]
