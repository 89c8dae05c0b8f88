"""OpenVINO models: IR, ONNX and whatever else OpenVINO reads, with their state taken out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from legato.repository.config import ModelConfig
    from legato.runtimes.openvino.runtime import OpenvinoRuntime

__all__ = ["load"]


def load(config: ModelConfig) -> OpenvinoRuntime:
    """Load a model with OpenVINO, its variables made explicit state and its rows batched.

    Raises:
        ConfigError: OpenVINO is not installed, the file cannot be read, an option is
            wrong, or the config contradicts the model.
    """
    # TBB binds its helper library to the C library's own free(), past Envoy's allocator, in
    # which we are served: memory of one is then freed by the other, and the process aborts.
    os.putenv("TBB_ENABLE_SANITIZERS", "1")  # the name TBB gives to "bind as usual"
    try:
        import openvino  # noqa: F401 - an extra: most installations do without
    except ImportError as error:
        raise ConfigError(
            f"this model needs OpenVINO, which cannot be imported here ({error})",
            file=str(config.file or config.folder),
            key="runtime",
            fix="pip install 'legato[openvino]'",
        ) from error
    from legato.runtimes.openvino.loading import Loader

    return Loader(config).load()
