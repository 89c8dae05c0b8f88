"""Envelopes: what a handler gets of JSON, and what JSON comes of its answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from legato.runtimes.torchserve.context import Context
from legato.runtimes.torchserve.envelopes import NAMES


class Wrapped:
    """An envelope around a function; keeps what it was given."""

    def __init__(self, name: str, function: Any, *headers: dict[str, str]) -> None:
        manifest = {"model": {"modelName": "m", "modelVersion": "2"}}
        self.context = Context("m", "/", manifest, 4, None, "0.12.0")
        shown = headers or ({}, {}, {})
        ids = [f"r{at}" for at in range(len(shown))]
        self.context.begin(ids, shown, [None] * len(shown))
        self.given: list[Any] = []

        def handle(data, context):
            self.given = data
            return function(data)

        self._envelope = NAMES[name](handle)

    def __call__(self, *rows: Any) -> Any:
        return self._envelope.handle([{"body": row} for row in rows], self.context)


def doubled(data):
    return [value * 2 for value in data]


def test_body_gives_the_bodies() -> None:
    """Answers are left as they are."""
    wrapped = Wrapped("body", doubled)

    assert wrapped(b"a", 2) == [b"aa", 4]
    assert wrapped.given == [b"a", 2]


def test_json_puts_the_instances_of_all_rows_into_one_batch() -> None:
    """And gives each row its own predictions, as text."""
    wrapped = Wrapped("json", doubled)

    answers = wrapped({"instances": [1, 2]}, b'{"instances": [3]}', {"instances": []})

    assert wrapped.given == [1, 2, 3]
    assert answers == ['{"predictions": [2, 4]}', '{"predictions": [6]}', '{"predictions": []}']


def test_json_decodes_base64() -> None:
    """As an instance, and as a column of one."""
    wrapped = Wrapped("json", lambda data: [1] * len(data))

    wrapped({"instances": [{"b64": "YQ=="}, {"n": 1, "x": {"b64": "Yg=="}}]})

    assert wrapped.given == [b"a", {"n": 1, "x": b"b"}]


def test_kserve_tells_predictions_from_explanations() -> None:
    """By the header of each row; several rows share one call."""
    wrapped = Wrapped("kserve", doubled, {"explain": "False"}, {"explain": "True"})

    answers = wrapped({"instances": [1, 2]}, bytearray(b'{"instances": [3]}'))

    assert answers == [{"predictions": [2, 4]}, {"explanations": [6]}]


def test_kserve_leaves_one_rows_answers_to_the_handler() -> None:
    """It may give another number of them than it got."""
    assert Wrapped("kserve", lambda _data: ["one"])({"instances": [1, 2]}) == [
        {"predictions": ["one"]}
    ]


def test_too_few_answers_to_several_rows_are_an_error() -> None:
    """Nobody can tell whose they are; the rows are then run one by one."""
    with pytest.raises(ValueError, match="1 answers to 2 inputs"):
        Wrapped("kserve", lambda _data: [1])({"instances": [1]}, {"instances": [2]})


def test_kservev2_gives_inputs_in_their_shapes() -> None:
    """One output for each, flat, with its type."""
    wrapped = Wrapped("kservev2", lambda data: [[sum(map(sum, data[0]["data"]))], [0.5]])
    inputs = [
        {"name": "a", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]},
        {"name": "b", "shape": [1], "datatype": "BYTES", "data": ["text"]},
    ]

    (answer,) = wrapped(json.dumps({"id": "mine", "inputs": inputs}).encode())

    assert [one["data"] for one in wrapped.given] == [[[1, 2], [3, 4]], "text"]
    assert answer == {
        "id": "mine",
        "model_name": "m",
        "model_version": "2",
        "outputs": [
            {"name": "a", "datatype": "INT64", "data": [10], "shape": [1]},
            {"name": "b", "datatype": "FP64", "data": [0.5], "shape": [1]},
        ],
    }


def test_kservev2_answers_each_row() -> None:
    """Under the request's id where the client gave none; texts are BYTES."""
    wrapped = Wrapped("kservev2", lambda data: [[one["name"]] for one in data])
    rows = [
        {"inputs": [{"name": name, "shape": [1], "datatype": "FP32", "data": [1.0]}]}
        for name in "ab"
    ]

    first, second = wrapped(*rows)

    assert (first["id"], second["id"]) == ("r0", "r1")
    assert second["outputs"] == [{"name": "b", "datatype": "BYTES", "data": ["b"], "shape": [1]}]


@pytest.mark.parametrize("name", ["kserve", "kservev2", "json"])
def test_a_body_that_is_no_object_is_an_error(name: str) -> None:
    """It says what it must be."""
    with pytest.raises(TypeError, match="JSON object"):
        Wrapped(name, doubled)([1, 2])
