"""Request bytes become steps; whatever the bytes are, only clean errors come out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from legato.core.errors import ClientError, InputError
from legato.core.types import KSERVE
from legato.protocols.kserve.delivery import KserveStep, OutputWish
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.memory import Place, Regions
from legato.protocols.kserve.to_core import fill
from legato.protocols.rpc.service import RpcError, Status

WIRE = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16",
    "float32": "FP32", "float64": "FP64",
}  # fmt: skip
ARRAYS = st.sampled_from(sorted(WIRE)).flatmap(
    lambda name: hnp.arrays(
        np.dtype(name).newbyteorder("<"), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)
    )
)
# Hypothesis also tries words that it finds in the code, and some of them mean something.
TAKEN = ("triton_", "sequence_", "priority", "timeout", "headers", "binary_data_output")
PARAMETERS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda key: not key.startswith(TAKEN)),
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=20), st.floats()),
    max_size=4,
)


def filled(message: pb.ModelInferRequest, regions: Regions | None = None) -> KserveStep:
    step = KserveStep("", None, {}, KSERVE)
    fill(step, message.SerializeToString(), regions)
    return step


def problem_of(data: bytes) -> RpcError | ClientError | None:
    try:
        fill(KserveStep("", None, {}, KSERVE), data)
    except (RpcError, ClientError) as error:
        return error
    return None


def set_parameter(message, key, value) -> None:
    field = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    setattr(message.parameters[key], field[type(value)], value)


@given(
    arrays=st.dictionaries(st.text(min_size=1, max_size=5), ARRAYS, max_size=3),
    parameters=PARAMETERS,
    request_id=st.text(max_size=20),
    version=st.text(max_size=3),
    outputs=st.lists(st.text(max_size=5), unique=True, max_size=3),
)
def test_any_request_round_trips(arrays, parameters, request_id, version, outputs) -> None:
    """What a client puts into the message is what the step carries."""
    message = pb.ModelInferRequest(model_name="m", model_version=version, id=request_id)
    for name, array in arrays.items():
        message.inputs.add(name=name, datatype=WIRE[array.dtype.name], shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    for key, value in parameters.items():
        set_parameter(message, key, value)
    for name in outputs:
        message.outputs.add(name=name)

    step = filled(message)

    assert (step.model, step.version, step.request_id) == ("m", version, request_id)
    assert step.outputs == tuple(outputs)
    assert {key: repr(value) for key, value in step.parameters.items()} == {
        key: repr(value) for key, value in parameters.items()
    }
    assert set(step.inputs) == set(arrays)
    for name, array in arrays.items():
        assert step.inputs[name].shape == array.shape
        assert step.inputs[name].dtype == array.dtype
        assert step.inputs[name].tobytes() == array.tobytes()


@given(values=st.lists(st.binary(max_size=12), max_size=5))
def test_strings_round_trip_raw_and_as_contents(values) -> None:
    """BYTES elements come out as bytes objects, however they were sent."""
    raw, typed = pb.ModelInferRequest(), pb.ModelInferRequest()
    raw.inputs.add(name="S", datatype="BYTES", shape=[len(values)])
    raw.raw_input_contents.append(b"".join(len(v).to_bytes(4, "little") + v for v in values))
    typed.inputs.add(name="S", datatype="BYTES", shape=[len(values)])
    typed.inputs[0].contents.bytes_contents.extend(values)

    assert list(filled(raw).inputs["S"]) == values
    assert list(filled(typed).inputs["S"]) == values


@pytest.mark.parametrize(
    ("datatype", "field"),
    [
        ("BOOL", "bool_contents"),
        ("INT8", "int_contents"),
        ("INT16", "int_contents"),
        ("INT32", "int_contents"),
        ("INT64", "int64_contents"),
        ("UINT8", "uint_contents"),
        ("UINT16", "uint_contents"),
        ("UINT32", "uint_contents"),
        ("UINT64", "uint64_contents"),
        ("FP32", "fp32_contents"),
        ("FP64", "fp64_contents"),
    ],
)
def test_typed_contents_give_the_declared_dtype(datatype, field) -> None:
    """Each data type is read from its own list."""
    message = pb.ModelInferRequest()
    message.inputs.add(name="X", datatype=datatype, shape=[1, 2])
    getattr(message.inputs[0].contents, field).extend([1, 0])

    array = filled(message).inputs["X"]

    assert WIRE[array.dtype.name] == datatype
    assert array.tolist() == [[1, 0]]


@given(data=st.binary(max_size=200))
def test_garbage_never_crashes(data) -> None:
    """Random bytes give a step or a clean error."""
    problem = problem_of(data)

    assert problem is None or problem.message


@given(cut=st.integers(0, 200), flip=st.integers(0, 200), value=st.integers(0, 255))
def test_damaged_requests_never_crash(kit_request, cut, flip, value) -> None:
    """A real request, cut short or with one byte changed, gives a step or a clean error."""
    damaged = bytearray(kit_request[: len(kit_request) - cut])
    if damaged:
        damaged[flip % len(damaged)] = value

    problem = problem_of(bytes(damaged))

    assert problem is None or problem.message


@pytest.fixture(scope="module")
def kit_request() -> bytes:
    message = pb.ModelInferRequest(model_name="m", id="r")
    message.parameters["sequence_id"].int64_param = 7
    message.parameters["sequence_start"].bool_param = True
    message.inputs.add(name="S", datatype="BYTES", shape=[2])
    message.inputs.add(name="X", datatype="FP32", shape=[1, 2])
    message.outputs.add(name="Y")
    message.raw_input_contents.extend([b"\1\0\0\0a\2\0\0\0bc", bytes(8)])
    return message.SerializeToString()


def test_sequence_parameters_set_the_step(kit) -> None:
    """Ours and Triton's parameters land in their attributes; times become seconds."""
    message = kit.request(
        7, sequence_start=True, sequence_end=True, sequence_step=4, sequence_restart=True,
        sequence_acknowledged=3, timeout=1500, priority=2, mine=5,
    )  # fmt: skip
    message.parameters["sequence_incarnation"].string_param = "ab01"
    message.parameters["triton_enable_empty_final_response"].bool_param = True

    step = filled(message)

    assert (step.correlation_id, step.start, step.end, step.restart) == (7, True, True, True)
    assert (step.number, step.acknowledged, step.priority) == (4, 3, 2)
    assert step.incarnation == b"\xab\x01"
    assert step.queue_timeout_s == 0.0015
    assert step.parameters == {"mine": 5}


@pytest.mark.parametrize(
    ("given_id", "expected"), [(-1, 2**64 - 1), ("7", "7"), (0, None), ("", None), (5, 5)]
)
def test_correlation_ids_are_uint64_or_text(kit, given_id, expected) -> None:
    """A negative number is its two's complement; 0 and "" are none at all."""
    assert filled(kit.request(given_id)).correlation_id == expected


@pytest.mark.parametrize(
    ("key", "field", "value", "text"),
    [
        (
            "sequence_id",
            "bool_param",
            True,
            "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.",
        ),
        (
            "sequence_start",
            "int64_param",
            1,
            "invalid value type for 'sequence_start' parameter, expected bool_param.",
        ),
        (
            "sequence_step",
            "string_param",
            "1",
            "invalid value type for 'sequence_step' parameter, expected int64_param.",
        ),
        (
            "sequence_step",
            "int64_param",
            -1,
            "invalid value for 'sequence_step' parameter, expected 0 or more, got -1",
        ),
        (
            "sequence_step",
            "uint64_param",
            2**63,
            "invalid value for 'sequence_step' parameter, expected at most 2^63 - 1",
        ),
        (
            "sequence_incarnation",
            "string_param",
            "xyz",
            "invalid value for 'sequence_incarnation' parameter, expected hexadecimal digits",
        ),
    ],
)
def test_wrong_parameters_are_refused_and_the_asker_is_known(kit, key, field, value, text) -> None:
    """The error names the parameter; model and id are set for the answer."""
    message = kit.request(None, request_id="r")
    setattr(message.parameters[key], field, value)
    step = KserveStep("", None, {}, KSERVE)

    with pytest.raises(ClientError) as caught:
        fill(step, message.SerializeToString())

    assert caught.value.message == text
    assert (step.model, step.request_id) == ("accumulator", "r")


def test_reserved_parameters_are_refused(kit) -> None:
    """Nobody invents ``triton_`` parameters."""
    with pytest.raises(ClientError, match="reserved for Triton usage"):
        filled(kit.request(7, triton_other=True))


@pytest.mark.parametrize("size", [0, 3, 5, 8])
def test_wrong_byte_size_is_refused(kit, size) -> None:
    """The text tells the bytes expected and the bytes that came."""
    message = kit.request()
    message.raw_input_contents[0] = bytes(size)

    with pytest.raises(InputError) as caught:
        filled(message)

    assert caught.value.message == (
        "input byte size mismatch for input 'INPUT' for model 'accumulator'. "
        f"Expected 4, got {size}"
    )


@pytest.mark.parametrize("shape", [[-1], [2**40, 2**40], [2**31 - 1] * 5, [1] * 64])
def test_gigantic_shapes_are_refused_without_memory(kit, shape) -> None:
    """No array is made for a shape that the bytes cannot fill."""
    for datatype in ("FP32", "BYTES", "BOOL"):
        message = kit.request()
        message.inputs[0].datatype = datatype
        message.inputs[0].shape[:] = shape

        with pytest.raises(InputError):
            filled(message)


@pytest.mark.parametrize("raw", [b"\5\0\0\0abc", b"\xff\xff\xff\xffabcd", b"\1\0\0\0ab", b"ab"])
def test_cut_strings_are_refused(kit, raw) -> None:
    """A length that points behind the end, or bytes left over, are errors."""
    message = kit.request()
    message.inputs[0].datatype = "BYTES"
    message.raw_input_contents[0] = raw

    with pytest.raises(InputError):
        filled(message)


def test_flags_other_than_0_and_1_are_true(kit) -> None:
    """A BOOL byte of 2 must not reach a model as a broken bool."""
    message = kit.request()
    message.inputs[0].datatype = "BOOL"
    message.raw_input_contents[0] = b"\2"

    assert filled(message).inputs["INPUT"].tobytes() == b"\1"


def test_raw_and_typed_contents_together_are_refused(kit) -> None:
    """The protocol wants one of them."""
    message = kit.request()
    message.inputs[0].contents.fp32_contents.append(1)

    with pytest.raises(InputError, match="use one of them"):
        filled(message)


def test_input_without_data_is_refused(kit) -> None:
    """Neither raw bytes nor contents: the text is Triton's."""
    message = kit.request()
    del message.raw_input_contents[:]

    with pytest.raises(InputError) as caught:
        filled(message)

    assert caught.value.reason == "no_data"


def test_bfloat16_is_numpys_bfloat16(kit) -> None:
    """BF16 comes as the dtype of ml_dtypes, two bytes an element."""
    pytest.importorskip("ml_dtypes")
    message = kit.request()
    message.inputs[0].datatype = "BF16"
    message.raw_input_contents[0] = b"\x80\x3f"

    array = filled(message).inputs["INPUT"]

    assert (array.dtype.name, float(array[0, 0])) == ("bfloat16", 1.0)


@pytest.mark.parametrize("datatype", ["", "FP8", "TYPE_FP32", "float32"])
def test_unknown_datatypes_are_refused(kit, datatype) -> None:
    """Only the protocol's names are data types."""
    message = kit.request()
    message.inputs[0].datatype = datatype

    with pytest.raises(ClientError, match="is not a data type"):
        filled(message)


# -- shared memory ------------------------------------------------------------------------


@pytest.fixture
def regions(tmp_path):
    """A region ``r`` of four floats, 10 to 13."""
    (tmp_path / "mine").write_bytes(np.float32([10, 11, 12, 13]).tobytes())
    made = Regions(str(tmp_path))
    made.register("r", "/mine", 0, 16)
    return made


def placed(kit, region="r", size=4, offset=0):
    """A request whose input lies in shared memory."""
    message = kit.request()
    del message.raw_input_contents[:]
    parameters = message.inputs[0].parameters
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        parameters["shared_memory_offset"].int64_param = offset
    return message


def test_shared_memory_that_is_not_allowed_is_refused(kit) -> None:
    """The text says which option allows it."""
    with pytest.raises(RpcError) as caught:
        filled(placed(kit))

    assert caught.value.status is Status.UNIMPLEMENTED
    assert "Start the server with '--allow-client-shm=true' to enable." in caught.value.message


def test_an_input_is_copied_out_of_shared_memory(kit, regions, tmp_path) -> None:
    """What the client writes there afterwards does not change the step."""
    step = filled(placed(kit, offset=8), regions)
    (tmp_path / "mine").write_bytes(bytes(16))

    assert step.inputs["INPUT"].tolist() == [[12]]


def test_inputs_in_and_out_of_shared_memory_may_be_mixed(kit, regions) -> None:
    """Raw contents belong to the inputs that are not in shared memory, in their order."""
    message = placed(kit)
    for name, value in (("A", 1), ("B", 2)):
        message.inputs.add(name=name, datatype="FP32", shape=[1, 1])
        message.raw_input_contents.append(np.float32([value]).tobytes())
    message.inputs.insert(0, message.inputs.pop(1))

    step = filled(message, regions)

    assert {name: array.item() for name, array in step.inputs.items()} == {
        "A": 1, "INPUT": 10, "B": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"region": "q"}, Status.NOT_FOUND, "Unable to find shared memory region: 'q'"),
        ({"offset": 16}, Status.INVALID_ARGUMENT, "Invalid offset for shared memory region: 'r'"),
        (
            {"offset": 12, "size": 8},
            Status.INVALID_ARGUMENT,
            "Invalid offset + byte size for shared memory region: 'r'",
        ),
        ({"size": -1}, Status.INVALID_ARGUMENT, "expected 0 or more, got -1"),
    ],
)
def test_places_that_are_none_are_refused(kit, regions, changes, status, text) -> None:
    """Triton's words, and what was found."""
    with pytest.raises(RpcError) as caught:
        filled(placed(kit, **changes), regions)

    assert caught.value.status is status
    assert text in caught.value.message


def test_a_placed_input_of_another_size_is_refused(kit, regions) -> None:
    """The shape says how many bytes there must be."""
    with pytest.raises(InputError, match="Expected 4, got 8"):
        filled(placed(kit, size=8), regions)


@pytest.mark.parametrize("where", ["contents", "raw"])
def test_a_placed_input_with_content_is_refused(kit, regions, where) -> None:
    """It would not be known which of them counts."""
    message = placed(kit)
    if where == "contents":
        message.inputs[0].contents.fp32_contents.append(1)
    else:
        message.raw_input_contents.append(bytes(4))

    with pytest.raises(InputError, match="unexpected 'content' provided when using shared memory"):
        filled(message, regions)


def test_more_raw_contents_than_inputs_outside_are_refused(kit, regions) -> None:
    """None may be left over."""
    message = placed(kit)
    message.inputs.add(name="A", datatype="FP32", shape=[1, 1])
    message.raw_input_contents.extend([bytes(4)] * 3)

    with pytest.raises(ClientError, match="but 3 raw_input_contents"):
        filled(message, regions)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"shared_memory_offset": 0}, "can not be specified without 'shared_memory_region'"),
        ({"shared_memory_byte_size": 4}, "can not be specified without 'shared_memory_region'"),
        ({"shared_memory_region": "r"}, "'shared_memory_byte_size' must be specified along with"),
        (
            {"shared_memory_region": 7, "shared_memory_byte_size": 4},
            "invalid value type for 'shared_memory_region' parameter for tensor 'INPUT', expected",
        ),
        (
            {"shared_memory_region": "r", "shared_memory_byte_size": "4"},
            "invalid value type for 'shared_memory_byte_size'",
        ),
    ],
)
def test_parameters_of_a_place_must_agree(kit, regions, parameters, text) -> None:
    """The text names parameter and tensor."""
    message = kit.request()
    for key, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(message.inputs[0].parameters[key], field, value)

    with pytest.raises(RpcError, match=text):
        filled(message, regions)


def test_outputs_may_be_wanted_elsewhere(kit) -> None:
    """The names are known as ever; what is special about them stands beside."""
    message = kit.request()
    message.outputs.add(name="A")
    wanted = message.outputs.add(name="B").parameters
    wanted["shared_memory_region"].string_param = "r"
    wanted["shared_memory_byte_size"].int64_param = 8
    message.outputs.add(name="C").parameters["classification"].int64_param = 3

    step = filled(message)

    assert step.outputs == ("A", "B", "C")
    assert step.wishes == {"B": OutputWish(Place("r", 0, 8)), "C": OutputWish(None, 3)}


@pytest.mark.parametrize("count", [0, -1, True, "3"])
def test_classes_are_counted(kit, count) -> None:
    """At least one, and a number."""
    message = kit.request()
    field = {bool: "bool_param", str: "string_param", int: "int64_param"}[type(count)]
    setattr(message.outputs.add(name="C").parameters["classification"], field, count)

    with pytest.raises(RpcError, match="'classification' parameter for output 'C'"):
        filled(message)
