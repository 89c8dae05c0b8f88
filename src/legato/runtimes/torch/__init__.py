"""PyTorch models: TorchScript, exported programs and modules of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from legato.repository.config import ModelConfig
    from legato.runtimes.torch.runtime import TorchRuntime

__all__ = ["load"]


def load(config: ModelConfig) -> TorchRuntime:
    """Load a model with PyTorch, what it remembers made explicit state and its rows batched.

    Raises:
        ConfigError: PyTorch is not installed, the file cannot be read, an option is wrong,
            or the config contradicts the model.
    """
    try:
        import torch  # noqa: F401 - an extra: most installations do without
    except ImportError as error:
        raise ConfigError(
            f"this model needs PyTorch, which cannot be imported here ({error})",
            file=str(config.file or config.folder),
            key="runtime",
            fix="pip install 'legato[torch]'",
        ) from error
    from legato.runtimes.torch.loading import Loader

    return Loader(config).load()
