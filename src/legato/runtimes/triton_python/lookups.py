"""Small functions of ``triton_python_backend_utils`` that find something by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from legato.runtimes.triton_python.requests import InferenceRequest, InferenceResponse
    from legato.runtimes.triton_python.tensors import Tensor

_model_dir = ""


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """Find an input of a request; ``None`` where it has none of this name."""
    return _named(inference_request.inputs(), name)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """Find an output of a response; ``None`` where it has none of this name."""
    return _named(inference_response.output_tensors(), name)


def _named(tensors: list[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)


def get_input_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Find an input in a model's configuration."""
    return _entry(model_config, "input", name)


def get_output_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Find an output in a model's configuration."""
    return _entry(model_config, "output", name)


def _entry(model_config: dict[str, Any], what: str, name: str) -> dict[str, Any] | None:
    return next((entry for entry in model_config.get(what, ()) if entry["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: dict[str, Any]) -> bool:
    """Tell whether a model answers requests with any number of responses."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def get_model_dir() -> str:
    """Return the folder of the model's version, where ``model.py`` lies."""
    return _model_dir


def set_model_dir(folder: str) -> None:
    """Note the folder that :func:`get_model_dir` gives."""
    global _model_dir  # noqa: PLW0603 - a worker runs one model
    _model_dir = folder
