"""OpenAPI documents: what ``OPTIONS`` and ``/api-description`` give."""

from __future__ import annotations

from typing import Any, Final

import legato

_VERSION: Final = "3.0.1"
_INFERENCE: Final = (
    ("/ping", "get", "Health of the server."),
    ("/predictions/{model_name}", "post", "Predict with the default version."),
    ("/predictions/{model_name}/{model_version}", "post", "Predict with a version."),
    ("/explanations/{model_name}", "post", "Explain with the default version."),
    ("/api-description", "get", "This document."),
)
_MANAGEMENT: Final = (
    ("/models", "get", "List models."),
    ("/models", "post", "Register a model."),
    ("/models/{model_name}", "get", "Describe the default version."),
    ("/models/{model_name}", "put", "Scale the workers of the default version."),
    ("/models/{model_name}", "delete", "Unregister the default version."),
    ("/models/{model_name}/{model_version}", "get", "Describe a version."),
    ("/models/{model_name}/{model_version}", "put", "Scale the workers of a version."),
    ("/models/{model_name}/{model_version}", "delete", "Unregister a version."),
    ("/models/{model_name}/{model_version}/set-default", "put", "Make a version the default."),
    ("/token", "get", "Renew a key."),
)


def inference() -> dict[str, Any]:
    """Describe the inference API."""
    return _document("Inference APIs", _INFERENCE)


def management() -> dict[str, Any]:
    """Describe the management API."""
    return _document("Management APIs", _MANAGEMENT)


def model(name: str, version: str) -> dict[str, Any]:
    """Describe how to predict with one model."""
    paths = (
        (f"/predictions/{name}", "post", f"Predict with {name}."),
        (f"/predictions/{name}/{version}", "post", f"Predict with version {version} of {name}."),
    )
    return _document(f"RESTful API for: {name}", paths)


def _document(title: str, listed: tuple[tuple[str, str, str], ...]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for path, method, text in listed:
        names = [word[1:-1] for word in path.split("/") if word.startswith("{")]
        paths.setdefault(path, {})[method] = {
            "description": text,
            "operationId": f"{method}{path.replace('/', '_').replace('{', '').replace('}', '')}",
            "parameters": [
                {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
                for name in names
            ],
            "responses": {"200": {"description": "OK"}},
        }
    return {
        "openapi": _VERSION,
        "info": {"title": title, "version": legato.__version__},
        "paths": paths,
    }
