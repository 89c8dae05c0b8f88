"""Requests, responses and their senders, as models use them."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from legato.core.errors import ModelSaysError
from legato.runtimes.triton_python import lookups, others
from legato.runtimes.triton_python.errors import TritonError, TritonModelException
from legato.runtimes.triton_python.exchange import to_part
from legato.runtimes.triton_python.requests import (
    InferenceRequest,
    InferenceResponse,
    InferenceResponseSender,
    Line,
)
from legato.runtimes.triton_python.tensors import Tensor
from legato.runtimes.worker.messages import from_error

FINAL = 1


def tensor(name: str = "X") -> Tensor:
    return Tensor(name, np.zeros(1, np.float32))


def line(taken: list | None = None) -> Line:
    return Line(None if taken is None else taken.append, lambda: False)


def test_request_tells_what_it_was_made_with() -> None:
    """Everything that Triton's API names."""
    request = InferenceRequest(
        "r", "s", [tensor()], ["Y"], "m", 2, 3, 40, parameters={"beam": 4}, priority=5
    )

    assert (request.request_id(), request.correlation_id(), request.flags()) == ("r", "s", 3)
    assert (request.model_name(), request.model_version()) == ("m", 2)
    assert (request.timeout(), request.priority()) == (40, 5)
    assert json.loads(request.parameters()) == {"beam": 4}
    assert request.requested_output_names() == ["Y"]
    assert lookups.get_input_tensor_by_name(request, "X") is request.inputs()[0]
    assert lookups.get_input_tensor_by_name(request, "Z") is None
    assert not request.is_cancelled()


def test_response_is_outputs_or_an_error() -> None:
    """A text stands for an internal error."""
    good = InferenceResponse([tensor("Y")], parameters={"a": 1})
    bad = InferenceResponse(error="no")

    assert not good.has_error()
    assert lookups.get_output_tensor_by_name(good, "Y") is good.output_tensors()[0]
    assert json.loads(good.parameters()) == {"a": 1}
    assert bad.has_error()
    assert (bad.error().message(), bad.error().code()) == ("no", TritonError.INTERNAL)


def test_outputs_must_be_tensors() -> None:
    """An array alone has no name."""
    with pytest.raises(TritonModelException, match="ndarray"):
        InferenceResponse([np.zeros(1)])


def test_error_has_one_of_tritons_codes() -> None:
    """Another number is refused where it is written."""
    assert TritonError("x", TritonError.CANCELLED).code() == 7
    with pytest.raises(TritonModelException, match="99"):
        TritonError("x", 99)


def test_responses_before_the_last_are_forwarded_at_once() -> None:
    """The last one is kept: it is the answer."""
    taken: list[InferenceResponse] = []
    one = line(taken)
    sender = InferenceResponseSender(one)
    first, last = InferenceResponse([tensor()]), InferenceResponse([tensor()])

    sender.send(first)
    sender.send(last, flags=FINAL)

    assert taken == [first]
    assert (one.last, one.final, one.kept) == (last, True, [])


def test_responses_are_kept_where_nobody_takes_parts() -> None:
    """The final flag may come alone."""
    one = line()
    sender = InferenceResponseSender(one)
    first = InferenceResponse([tensor()])

    sender.send(first)
    sender.send(flags=FINAL)

    assert (one.kept, one.last, one.final) == ([first], None, True)


@pytest.mark.parametrize(
    ("response", "flags", "text"),
    [
        (None, 0, "must be provided when the response flags is set to zero"),
        (InferenceResponse([]), 7, "Unsupported flag"),
        ("text", 0, "must be an InferenceResponse"),
    ],
)
def test_sender_refuses_what_says_nothing(response, flags: int, text: str) -> None:
    """In Triton's words."""
    with pytest.raises(TritonModelException, match=text):
        InferenceResponseSender(line()).send(response, flags=flags)


def test_nothing_follows_the_last_response() -> None:
    """Not even a second last one."""
    sender = InferenceResponseSender(line())
    sender.send(flags=FINAL)

    with pytest.raises(TritonModelException, match="has been closed"):
        sender.send(InferenceResponse([tensor()]))


def test_release_flags_say_whether_it_is_run_again() -> None:
    """Other numbers are refused."""
    request = InferenceRequest(line=line())
    assert not request.rescheduled

    request.set_release_flags(2)

    assert request.rescheduled
    with pytest.raises(TritonModelException, match="Invalid request release flags"):
        request.set_release_flags(0)


def test_other_models_are_asked_in_a_call_only(monkeypatch) -> None:
    """While a model is loaded, nobody is there to be asked; and a model must be named."""
    monkeypatch.setattr(others, "_ask", None)
    request = InferenceRequest(model_name="other", inputs=[])

    with pytest.raises(TritonModelException, match="during a call"):
        request.exec()
    with pytest.raises(TritonModelException, match="during a call"):
        asyncio.run(request.async_exec())
    with pytest.raises(TritonModelException, match="needs its model_name"):
        InferenceRequest(inputs=[]).exec()
    with pytest.raises(TritonModelException, match="response sender"):
        request.get_response_sender()


def test_answers_of_other_models_are_responses(monkeypatch) -> None:
    """Parts first, then the last one; an error is a response too."""
    part = to_part(InferenceResponse([Tensor("Y", np.int32([1]))]))
    last = [[["Y", "int32", [1]]], [np.int32([2]).tobytes()]]
    wishes: list = []

    def told(wish, inputs):
        wishes.append((wish, inputs))
        failed = from_error(ModelSaysError("no", "not_found")) if len(wishes) > 1 else None
        return {"parts": [part], "answer": None if failed else last, "error": failed}

    monkeypatch.setattr(others, "_ask", told)
    request = InferenceRequest("r", 0, [tensor()], ["Y"], "m", 2, parameters={"a": 1})

    answers = list(request.exec(decoupled=True))
    failed = list(request.exec(decoupled=True))

    assert [each.output_tensors()[0].as_numpy().tolist() for each in answers] == [[1], [2]]
    assert (failed[1].error().message(), failed[1].error().code()) == ("no", TritonError.NOT_FOUND)
    wish, inputs = wishes[0]
    assert (wish["model"], wish["version"], wish["outputs"]) == ("m", "2", ["Y"])
    assert (wish["request_id"], wish["parameters"]) == ("r", {"a": 1})
    assert list(inputs) == ["X"]
