"""The OpenAPI document of the REST side, made of the table of operations."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

import legato
from legato.protocols.sequences.errors import CASES, HTTP_STATUSES
from legato.protocols.sequences.messages import Problem
from legato.protocols.sequences.operations import OPERATIONS, Operation

if TYPE_CHECKING:
    from pydantic import BaseModel

_REFS = "#/components/schemas/{model}"


@functools.cache
def document() -> dict[str, Any]:
    """Return the whole document; the same object every time."""
    answers: list[type[BaseModel]] = [operation.answered for operation in OPERATIONS]
    answers.append(Problem)
    _, schemas = models_json_schema(
        [(model, "serialization") for model in answers], ref_template=_REFS
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        for at, (method, path) in enumerate(operation.routes):
            entry = _entry(operation, method, path, at)
            paths.setdefault(path, {})[method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Legato: sequences",
            "version": legato.__version__,
            "description": "What can be done to sequences without a step. The same calls are "
            "offered over gRPC as legato.v1.Sequences.",
        },
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _entry(operation: Operation, method: str, path: str, at: int) -> dict[str, Any]:
    fields = operation.asked.model_json_schema(ref_template=_REFS)
    properties: dict[str, Any] = fields["properties"]
    required = set(fields.get("required", ()))
    in_path = re.findall(r"{(\w+)}", path)
    in_body = (
        [] if method != "POST" or operation.file_in else [n for n in properties if n not in in_path]
    )
    parameters = [
        {
            "name": name,
            "in": "path" if name in in_path else "query",
            "required": name in in_path or name in required,
            "schema": schema,
        }
        for name, schema in properties.items()
        if name not in in_body and name != "file"
    ]
    entry: dict[str, Any] = {
        "operationId": operation.name + (f"{at + 1}" if at else ""),
        "summary": operation.summary,
        "parameters": parameters,
        "responses": _responses(operation),
    }
    if operation.file_in:
        entry["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    elif in_body:
        entry["requestBody"] = {
            "required": bool(required & set(in_body)),
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {name: properties[name] for name in in_body},
                        "required": sorted(required & set(in_body)),
                        "additionalProperties": False,
                    }
                }
            },
        }
    return entry


def _responses(operation: Operation) -> dict[str, Any]:
    name = operation.answered.__name__
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": _REFS.format(model=name)}}}
    if operation.file_out:
        content = {"application/octet-stream": {}}
    made: dict[str, Any] = {
        "201" if operation.created else "200": {
            "description": (operation.answered.__doc__ or "").strip(),
            "content": content,
        }
    }
    for status in HTTP_STATUSES:
        codes = [code for code, case in CASES.items() if case.http_status == status]
        made[str(status)] = {
            "description": ", ".join(codes) or "too_large",
            "content": {"application/json": {"schema": {"$ref": _REFS.format(model="Problem")}}},
        }
    return made
