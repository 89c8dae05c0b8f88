"""REST bodies become steps, replies become REST bodies."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.core.errors import ClientError, InputError
from legato.core.types import KSERVE, OutputHeader, Reply, Signature, Step, TensorSpec
from legato.protocols.kserve.delivery import KserveStep, OutputWish, PlacedHeader
from legato.protocols.kserve.memory import Place, Regions
from legato.protocols.kserve.rest_codec import Wish, fill_from_json, fill_from_raw, write_reply
from legato.protocols.rpc.service import RpcError, Status

NESTED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["inputs", "outputs", "name", "datatype", "shape", "data", "parameters", "id"]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=20,
)


def fill(body: dict, tail: bytes = b"") -> tuple[Step, Wish]:
    step = Step("m", None, {}, KSERVE)
    text = json.dumps(body).encode()
    return step, fill_from_json(step, text + tail, len(text) if tail else None)


def tensor(data, datatype="FP32", shape=(1, 2), **more) -> dict:
    return {"name": "X", "datatype": datatype, "shape": list(shape), "data": data, **more}


@pytest.mark.parametrize("data", [[1, 2], [[1, 2]], [[1], [2.0]]])
def test_data_may_be_flat_or_nested(data) -> None:
    """The shape decides, not the nesting."""
    step, _ = fill({"id": "r", "inputs": [tensor(data)]})

    assert step.request_id == "r"
    assert step.inputs["X"].dtype == np.float32
    assert step.inputs["X"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("BOOL", [True, False], [True, False]),
        ("INT8", [-128, 127], [-128, 127]),
        ("UINT64", [0, 2**64 - 1], [0, 2**64 - 1]),
        ("INT64", [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        ("FP16", [1, 0.5], [1, 0.5]),
        ("FP64", [1e300, -0.1], [1e300, -0.1]),
        ("BYTES", ["a", "é"], [b"a", "é".encode()]),
    ],
)
def test_each_data_type_is_read_from_json(datatype, data, expected) -> None:
    """The extremes of a type survive."""
    step, _ = fill({"inputs": [tensor(data, datatype)]})

    assert step.inputs["X"].tolist() == [expected]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT8", [1, 128]),
        ("UINT8", [-1, 0]),
        ("INT32", [1.5, 2]),
        ("INT32", [True, False]),
        ("BOOL", [1, 0]),
        ("FP32", ["1", "2"]),
        ("FP32", [None, 1]),
        ("FP32", [[1], [2, 3]]),
        ("FP32", [{}, 1]),
        ("BYTES", [1, "a"]),
        ("FP32", [1]),
        ("FP32", [1, 2, 3]),
        ("FP32", []),
        ("FP32", None),
    ],
)
def test_values_that_do_not_fit_are_refused(datatype, data) -> None:
    """Nothing is cut, rounded or guessed."""
    with pytest.raises(InputError):
        fill({"inputs": [tensor(data, datatype)]})


def test_binary_tensors_follow_in_order() -> None:
    """Raw bytes behind the JSON belong to the inputs with a size, one after the other."""
    first, second = np.float32([[1, 2]]), np.int16([[3, 4]])
    body = {
        "inputs": [
            {"name": "A", "datatype": "FP32", "shape": [1, 2],
             "parameters": {"binary_data_size": 8}},
            {**tensor([5, 6]), "name": "J"},
            {"name": "B", "datatype": "INT16", "shape": [1, 2],
             "parameters": {"binary_data_size": 4}},
        ]
    }  # fmt: skip

    step, _ = fill(body, first.tobytes() + second.tobytes())

    assert step.inputs["A"].tolist() == first.tolist()
    assert step.inputs["B"].tolist() == second.tolist()
    assert step.inputs["J"].tolist() == [[5, 6]]


@pytest.mark.parametrize("tail", [b"1234", b"123456789"])
def test_binary_tail_must_fit(tail) -> None:
    """Too few bytes and bytes left over are errors."""
    head = {"name": "A", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}

    with pytest.raises(ClientError):
        fill({"inputs": [head]}, tail)


def test_sequence_parameters_and_outputs_are_read() -> None:
    """The same parameters as over gRPC; outputs may ask for binary one by one."""
    step, wish = fill(
        {
            "parameters": {
                "sequence_id": 2**64 - 1,
                "sequence_start": True,
                "sequence_step": 1,
                "binary_data_output": True,
                "mine": "x",
            },
            "outputs": [{"name": "A"}, {"name": "B", "parameters": {"binary_data": False}}],
        }
    )

    assert (step.correlation_id, step.start, step.number) == (2**64 - 1, True, 1)
    assert step.parameters == {"mine": "x"}
    assert step.outputs == ("A", "B")
    assert (wish.is_binary("A"), wish.is_binary("B")) == (True, False)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 5000])
def test_what_is_no_json_is_refused_as_triton_does(text) -> None:
    """JSON that does not parse is INTERNAL (500)."""
    with pytest.raises(RpcError) as caught:
        fill_from_json(Step("m", None, {}, KSERVE), text, None)

    assert caught.value.status is Status.INTERNAL
    assert "failed to parse the request JSON buffer" in caught.value.message


@given(body=NESTED)
def test_any_json_gives_a_step_or_a_clean_error(body) -> None:
    """Valid JSON of any form never crashes the converter."""
    text = json.dumps(body, allow_nan=False, default=str) if _finite(body) else "{}"

    try:
        fill_from_json(Step("m", None, {}, KSERVE), text.encode(), None)
        problem = ""
    except (ClientError, RpcError) as error:
        problem = error.message

    assert problem or isinstance(body, dict) or text == "{}"


def _finite(value) -> bool:
    if isinstance(value, float):
        return bool(np.isfinite(value))
    if isinstance(value, list):
        return all(map(_finite, value))
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return True


def test_reply_in_json() -> None:
    """Id, version, step number and flat data."""
    headers = (OutputHeader("Y", "float32", (1, 2)), OutputHeader("S", "object", (1,)))
    reply = Reply(headers, (np.float32([1, 0.5]).tobytes(), b"\2\0\0\0a\xff"), 7, 3, "1")
    step = Step("m", 7, {}, KSERVE, request_id="r")

    body, json_bytes = write_reply(reply, step, Wish(binary=False, named={}))

    assert json_bytes is None
    assert json.loads(body) == {
        "id": "r",
        "model_name": "m",
        "model_version": "1",
        "parameters": {"sequence_step": 3, "sequence_durability": "none"},
        "outputs": [
            {"name": "Y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 0.5]},
            {"name": "S", "datatype": "BYTES", "shape": [1], "data": ["a\\xff"]},
        ],
    }


def test_reply_in_binary() -> None:
    """Raw bytes follow the JSON, which tells their sizes."""
    headers = (OutputHeader("A", "float32", (1,)), OutputHeader("B", "int64", (1,)))
    reply = Reply(headers, (b"aaaa", b"bbbbbbbb"), 7, 0, "1")

    body, json_bytes = write_reply(reply, Step("m", 7, {}, KSERVE), Wish(True, {"A": False}))

    head = json.loads(body[:json_bytes])
    assert body[json_bytes:] == b"bbbbbbbb"
    assert "parameters" not in head
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 8}


@pytest.mark.parametrize(
    ("dtype", "shape", "body", "expected"),
    [
        ("float32", (1, 2), bytes(8), (1, 2)),
        ("float32", (1, -1), bytes(12), (1, 3)),
        ("object", (1, 1), b"text", (1, 1)),
    ],
)
def test_raw_body_is_the_one_input(dtype, shape, body, expected) -> None:
    """The shape follows from the model and the size."""
    step = Step("m", None, {}, KSERVE)

    fill_from_raw(step, body, Signature((TensorSpec("X", dtype, shape),), ()))

    assert step.inputs["X"].shape == expected


@pytest.mark.parametrize(("shape", "body"), [((1, 2), bytes(7)), ((-1, -1), bytes(4))])
def test_raw_body_that_fits_no_shape_is_refused(shape, body) -> None:
    """Nothing is guessed."""
    with pytest.raises(ClientError):
        fill_from_raw(
            Step("m", None, {}, KSERVE), body, Signature((TensorSpec("X", "float32", shape),), ())
        )


def test_an_output_in_shared_memory_is_named_without_parameters() -> None:
    """The C++ client looks for a binary size in the parameters of an output that has any."""
    header = PlacedHeader("OUTPUT", "float32", (1, 1))
    reply = Reply((header,), (b"",), 7, 1, "1")

    body, json_bytes = write_reply(reply, Step("m", 7, {}, KSERVE), Wish(True, {}))

    assert json_bytes is None
    assert json.loads(body)["outputs"] == [{"name": "OUTPUT", "datatype": "FP32", "shape": [1, 1]}]


# -- shared memory ------------------------------------------------------------------------


@pytest.fixture
def regions(tmp_path) -> Regions:
    """A region ``r`` of two floats, 10 and 11."""
    (tmp_path / "mine").write_bytes(np.float32([10, 11]).tobytes())
    made = Regions(str(tmp_path))
    made.register("r", "/mine", 0, 8)
    return made


def placed(**more: object) -> dict[str, Any]:
    parameters = {"shared_memory_region": "r", "shared_memory_byte_size": 4, **more}
    return {"name": "INPUT", "datatype": "FP32", "shape": [1, 1], "parameters": parameters}


def filled_with(head: dict[str, Any], regions: Regions | None) -> tuple[KserveStep, Wish]:
    step = KserveStep("accumulator", None, {}, KSERVE)
    return step, fill_from_json(step, json.dumps(head).encode(), None, regions)


def test_placed_tensors_are_read_and_wanted(regions) -> None:
    """Inputs are copied out, outputs are noted; raw bytes belong to the others."""
    output = {"name": "OUTPUT", "parameters": placed()["parameters"]}
    other = {"name": "SCORES", "parameters": {"classification": 2}}

    step, wish = filled_with(
        {"inputs": [placed(shared_memory_offset=4)], "outputs": [output, other]}, regions
    )

    assert step.inputs["INPUT"].tolist() == [[11]]
    assert step.outputs == ("OUTPUT", "SCORES")
    assert step.wishes == {"OUTPUT": OutputWish(Place("r", 0, 4)), "SCORES": OutputWish(None, 2)}
    assert not wish.is_binary("OUTPUT")


@pytest.mark.parametrize("more", [{"data": [1]}, {"binary_data_size": 4}])
def test_placed_inputs_have_no_other_data(regions, more) -> None:
    """It would not be known which of them counts."""
    entry = placed()
    (entry if "data" in more else entry["parameters"]).update(more)

    with pytest.raises(InputError, match="when using shared memory for input tensor 'INPUT'"):
        filled_with({"inputs": [entry]}, regions)


def test_shared_memory_needs_permission() -> None:
    """The text says which option gives it."""
    with pytest.raises(RpcError, match="--allow-client-shm=true"):
        filled_with({"inputs": [placed()]}, None)
