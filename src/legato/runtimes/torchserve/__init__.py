"""TorchServe archives: handlers run unmodified, in a worker process, with state that survives."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from legato.repository.config import ModelConfig
    from legato.runtimes.torchserve.runtime import TorchServeRuntime


def load(config: ModelConfig) -> TorchServeRuntime:
    """Load an archive's handler, in the worker process that is made for it.

    Raises:
        ConfigError: The handler cannot be found or loaded.
    """
    from legato.runtimes.torchserve.runtime import load as load_here

    return load_here(config)
