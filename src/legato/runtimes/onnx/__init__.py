"""ONNX models on ONNX Runtime."""

from legato.runtimes.discovery.findings import Findings
from legato.runtimes.onnx.loading import load
from legato.runtimes.onnx.runtime import OnnxRuntime

__all__ = ["Findings", "OnnxRuntime", "load"]
