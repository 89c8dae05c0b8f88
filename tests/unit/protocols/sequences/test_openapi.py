"""The OpenAPI page says what the routes do."""

from __future__ import annotations

import json
import re

import pytest
from starlette.routing import Match

from legato.protocols.sequences import rest
from legato.protocols.sequences.openapi import document
from legato.protocols.sequences.operations import OPERATIONS

ONE = "/models/m/sequences/i:1"


def entries():
    """Every documented call: method, path, entry."""
    for path, methods in document()["paths"].items():
        for method, entry in methods.items():
            yield method.upper(), path, entry


class FakeApi:
    """An API of which only the names are asked."""

    def __getattr__(self, name):
        return name


def test_the_page_and_the_routes_are_the_same() -> None:
    """Every route is documented, and everything documented is a route."""
    routed = {
        (method, route.path)
        for route in rest.routes(FakeApi())
        for method in route.methods - {"HEAD"}
        if "{rest:path}" not in route.path and route.path != rest.OPENAPI
    }

    assert routed == {(method, path) for method, path, _entry in entries()}
    assert len(routed) == sum(len(operation.routes) for operation in OPERATIONS)


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, _ in entries()])
def test_a_documented_call_reaches_its_own_route(method, path) -> None:
    """No route stands in the way of another."""
    target = re.sub(r"{\w+}", "x", path)
    scope = {"type": "http", "method": method, "path": target}

    matching = [r for r in rest.routes(FakeApi()) if r.matches(scope)[0] is Match.FULL]

    assert matching[0].path == path


def test_every_reference_resolves_and_every_id_is_one() -> None:
    """A generator of clients gets through."""
    text = json.dumps(document())
    schemas = document()["components"]["schemas"]

    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= set(schemas)
    ids = [entry["operationId"] for _m, _p, entry in entries()]
    assert len(set(ids)) == len(ids)
    for _method, path, entry in entries():
        named = [p["name"] for p in entry["parameters"] if p["in"] == "path"]
        assert sorted(named) == sorted(re.findall(r"{(\w+)}", path))


def check(value, schema: dict) -> None:
    """Hold a value against a schema; as much of JSON Schema as the page uses."""
    if "$ref" in schema:
        schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        fitting = (s for s in schema["anyOf"] if (s.get("type") == "null") == (value is None))
        check(value, next(fitting))
        return
    kind = schema.get("type")
    kinds = {
        "object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
        "number": (int, float), "null": type(None),
    }  # fmt: skip
    assert isinstance(value, kinds[kind]), (value, schema)
    if kind == "object":
        assert set(schema.get("required", ())) <= set(value) <= set(schema["properties"])
        for name, entry in value.items():
            check(entry, schema["properties"][name])
    if kind == "array":
        for entry in value:
            check(entry, schema["items"])


async def test_real_answers_are_as_documented(front) -> None:
    """Of every call, good and bad."""
    await front.begin(1, 5)
    file = (await front.get(ONE + "/export")).content
    calls = [
        ("GET", "/sequences", {}),
        ("GET", "/models/m/sequences", {}),
        ("POST", ONE + "/snapshots", {"json": {"name": "a"}}),
        ("POST", ONE + "/fork", {"json": {"target": "2"}}),
        ("POST", "/models/m/sequences", {"content": file, "params": {"id": "3"}}),
        ("POST", ONE + "/rollback", {"json": {"snapshot": "a"}}),
        ("POST", ONE + "/record", {}),
        ("GET", ONE, {}),
        ("GET", ONE + "/state", {}),
        ("GET", ONE + "/snapshots", {}),
        ("GET", "/models/m/snapshots", {}),
        ("DELETE", ONE + "/snapshots/a", {}),
        ("DELETE", ONE, {}),
        ("GET", ONE, {}),
        ("DELETE", ONE, {}),
        ("GET", ONE + "/export", {}),
    ]
    seen = set()
    for method, path, options in calls:
        answer = await front.web.request(method, "http://legato/legato/v1" + path, **options)
        documented = next(
            entry
            for m, p, entry in entries()
            if m == method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", p), "/legato/v1" + path)
        )
        content = documented["responses"][str(answer.status_code)]["content"]
        check(answer.json(), content["application/json"]["schema"])
        seen.add(documented["operationId"].rstrip("2"))

    assert seen == {operation.name for operation in OPERATIONS}


async def test_the_page_is_served(front) -> None:
    """Where tools look for it."""
    answer = await front.web.get("http://legato" + rest.OPENAPI)

    assert answer.json() == json.loads(json.dumps(document()))
