"""Which runtime serves which config: one line each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from legato.core.errors import ConfigError
from legato.runtimes.adapted import adapted

if TYPE_CHECKING:
    from legato.core.types import Signature
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import Runtime

_RUNTIMES = {
    "onnx": "legato.runtimes.onnx",
    "openvino": "legato.runtimes.openvino",
    "python": "legato.runtimes.python",
    "torch": "legato.runtimes.torch",
    "torchserve": "legato.runtimes.torchserve",
    "triton_python": "legato.runtimes.triton_python",
}


def build(config: ModelConfig) -> Runtime:
    """Load a model with the runtime that its config names.

    Raises:
        ConfigError: The runtime is not installed, or the model cannot be loaded.
    """
    module = _RUNTIMES.get(config.runtime)
    if module is None:
        raise ConfigError(
            f"runtime '{config.runtime}' is not part of this installation",
            file=str(config.folder),
            key="runtime",
            fix="use one of " + ", ".join(sorted(_RUNTIMES)),
        )
    runtime: Runtime = import_module(module).load(config)
    return adapted(config, runtime)


def signature_of(config: ModelConfig) -> Signature:
    """Say what a model takes and gives without loading it, where its kind decides that.

    Raises:
        ConfigError: It must be loaded to know.
    """
    if config.runtime != "torchserve":
        raise ConfigError("needs an instance", file=str(config.folder), key="instances")
    from legato.runtimes.torchserve.signature import signature_of as of_archive

    return of_archive(config)
