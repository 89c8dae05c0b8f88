"""Libraries that only some handlers need, and modules of TorchServe that are not here."""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

GUIDE: Final = "docs/torchserve-handlers.md"
_INSTEAD: Final = {
    "ts.service": "context.metrics takes what is measured, ts.utils.util has PredictionException",
    "ts.model_service": "derive from ts.torch_handler.base_handler.BaseHandler",
    "ts.torch_handler.vllm_handler": "large language models are served by vLLM's own server",
    "ts.torch_handler.trt_llm_handler": "large language models are served by Triton",
    "ts.torch_handler.dali_handler": "decode images in the handler, with torchvision",
    "ts.torch_handler.dali_image_classifier": "decode images in the handler, with torchvision",
    "ts.handler_utils.preprocess": "decode images in the handler, with torchvision",
    "ts.torch_handler.distributed": "a worker is one process: models are not split over several",
    "ts.handler_utils.distributed": "a worker is one process: models are not split over several",
}


def need(library: str, who: str) -> Any:
    """Import a library that Legato does not bring along.

    Args:
        library: Module to import.
        who: What needs it.

    Raises:
        ModuleNotFoundError: It is not installed; the message says what to do.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        package = library.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"{who} needs {package}, which is not installed: pip install {package} beside Legato, "
            "or pack it as a requirement of the archive (--requirements-file) and set "
            "install_py_dep_per_model=true",
            name=package,
        ) from None


class Refusals(MetaPathFinder):
    """Says of modules of the package ``ts`` that they are not here, and what to do instead.

    It is asked last, so only for what nobody else has.
    """

    def __repr__(self) -> str:
        return "<Refusals of ts.*>"

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Refuse a module of TorchServe; others are none of its business.

        Raises:
            ModuleNotFoundError: It is one.
        """
        del path, target
        if not fullname.startswith("ts."):
            return None
        text = f"{fullname} is not part of Legato ({GUIDE} says what is)"
        for name, instead in _INSTEAD.items():
            if fullname == name or fullname.startswith(f"{name}."):
                text = f"{fullname} is not part of Legato: {instead} ({GUIDE})"
        raise ModuleNotFoundError(text, name=fullname)


def refuse_the_rest() -> None:
    """Let imports of what is missing fail with words of our own."""
    if not any(isinstance(finder, Refusals) for finder in sys.meta_path):
        sys.meta_path.append(Refusals())
