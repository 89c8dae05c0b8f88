"""Triton's Python models: ``model.py`` runs unmodified, in a worker process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from legato.repository.config import ModelConfig
    from legato.runtimes.triton_python.runtime import TritonPythonRuntime


def load(config: ModelConfig) -> TritonPythonRuntime:
    """Load a ``model.py``, in the worker process that is made for it.

    Raises:
        ConfigError: It cannot be found or loaded.
    """
    from legato.runtimes.triton_python.runtime import load as load_here

    return load_here(config)
