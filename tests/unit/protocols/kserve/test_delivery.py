"""Outputs into shared memory and as classes; what has no room is refused before it is computed."""

from __future__ import annotations

import numpy as np
import pytest

from legato.core.types import OutputHeader, Reply, Signature, TensorSpec
from legato.protocols.kserve.classes import Classes
from legato.protocols.kserve.delivery import finished, prepare
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.infer import Door, InferCall, InferStream
from legato.protocols.kserve.memory import Regions
from legato.protocols.rpc.service import RpcError, Status


@pytest.fixture
def regions(tmp_path):
    """A region ``r`` of 16 bytes."""
    (tmp_path / "mine").write_bytes(bytes(16))
    made = Regions(str(tmp_path))
    made.register("r", "/mine", 0, 16)
    return made


def wanting(kit, *, name="OUTPUT", size=4, offset=0, region="r", classes=0):
    """A request for an output that is to be given otherwise."""
    message = kit.request(request_id="z")
    parameters = message.outputs.add(name=name).parameters
    if region:
        parameters["shared_memory_region"].string_param = region
        parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        parameters["shared_memory_offset"].int64_param = offset
    if classes:
        parameters["classification"].int64_param = classes
    return message


@pytest.mark.parametrize("streamed", [False, True])
def test_an_output_goes_into_shared_memory(engine, call, kit, regions, tmp_path, streamed) -> None:
    """The response has its shape and an empty entry; clients know where they wanted it."""
    engine.answer = kit.reply(3)
    handler = (InferStream if streamed else InferCall)(Door(engine, "sequence", regions), call)

    handler.message(wanting(kit, offset=8).SerializeToString())

    (sent,) = call.sent
    response = (
        pb.ModelStreamInferResponse.FromString(sent).infer_response
        if streamed
        else pb.ModelInferResponse.FromString(sent)
    )
    assert (tmp_path / "mine").read_bytes() == bytes(8) + b"\0\0\0\x40" + bytes(4)
    assert (response.id, list(response.raw_output_contents)) == ("z", [b""])
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("FP32", [1, 1])
    assert not response.outputs[0].parameters


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"region": "q"}, Status.NOT_FOUND, "Unable to find shared memory region: 'q'"),
        ({"offset": 16}, Status.INVALID_ARGUMENT, "Invalid offset for shared memory region"),
        ({"size": 17}, Status.INVALID_ARGUMENT, "Invalid offset + byte size for shared memory"),
        (
            {"size": 3},
            Status.INTERNAL,
            "for output 'OUTPUT' (3 bytes) should be at least 4 bytes to hold the results",
        ),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_step_whose_answer_has_no_room_is_not_run(
    engine, call, kit, regions, changes, status, text, streamed
) -> None:
    """Otherwise the sequence would move on and the client could not know."""
    handler = (InferStream if streamed else InferCall)(Door(engine, "sequence", regions), call)
    data = wanting(kit, **changes).SerializeToString()

    if streamed:
        handler.message(data)
        message = call.stream_replies()[0].error_message
    else:
        with pytest.raises(RpcError) as caught:
            handler.message(data)
        assert caught.value.status is status
        message = caught.value.message

    assert text in message
    assert not engine.steps


def test_outputs_need_permission_as_inputs_do(engine, call, kit) -> None:
    """The text says which option gives it."""
    with pytest.raises(RpcError, match="--allow-client-shm=true"):
        InferCall(Door(engine, "sequence"), call).message(wanting(kit).SerializeToString())


def test_memory_that_shrank_meanwhile_is_told_with_the_step(
    engine, call, kit, regions, tmp_path
) -> None:
    """The step stands; the client must know that it does."""
    handler = InferCall(Door(engine, "sequence", regions), call)
    handler.message(wanting(kit).SerializeToString())
    with (tmp_path / "mine").open("rb+") as file:
        file.truncate(0)

    engine.steps[0].done(kit.reply(3))

    assert call.status is Status.INVALID_ARGUMENT
    assert "was truncated" in call.text
    assert call.text.endswith("; step 3 of the sequence was applied")
    assert call.sent == []


def test_outputs_of_any_size_are_checked_when_they_come(engine, kit, regions) -> None:
    """A shape that varies is not known before."""
    signature = Signature(kit.signature.inputs, (TensorSpec("OUTPUT", "float32", (1, -1)),))
    engine.handles["accumulator"] = kit.served("accumulator", signature)
    call = kit.Call()
    InferCall(Door(engine, "sequence", regions), call).message(wanting(kit).SerializeToString())

    headers = (OutputHeader("OUTPUT", "float32", (1, 2)),)
    engine.steps[0].done(Reply(headers, (bytes(8),), 0, 0, "1"))

    assert call.status is Status.INTERNAL
    assert "(4 bytes) should be at least 8 bytes to hold the results" in call.text
    assert "applied" not in call.text  # it belongs to no sequence


def test_headers_of_like_replies_are_one_object(engine, call, kit, regions) -> None:
    """So that writers serialise them once."""
    handler = InferCall(Door(engine, "sequence", regions), call)
    handler.message(wanting(kit).SerializeToString())
    step = engine.steps[0]

    first, second = (finished(step, kit.reply(number)) for number in (1, 2))

    assert first.headers is second.headers


# -- classes ------------------------------------------------------------------------------


@pytest.fixture
def classifier(engine, kit, tmp_path):
    """A model of four scores, the last of which has no label."""
    (tmp_path / "labels.txt").write_text("cat\ndog\nowl\n")
    signature = Signature(
        kit.signature.inputs, (TensorSpec("SCORES", "float32", (1, 4)),), kit.signature.states
    )
    output = {"name": "SCORES", "label_filename": "labels.txt"}
    engine.handles["accumulator"] = kit.served(
        "accumulator", signature, folder=tmp_path / "1", origin={"output": [output]}
    )
    scores = np.float32([0.5, 2, -1, 2]).tobytes()
    engine.answer = Reply((OutputHeader("SCORES", "float32", (1, 4)),), (scores,), 7, 1, "1")
    return output


def strings(raw: bytes) -> list[bytes]:
    found = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return found


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [b"2.000000:1:dog"]),
        (3, [b"2.000000:1:dog", b"2.000000:3", b"0.500000:0:cat"]),
        (9, [b"2.000000:1:dog", b"2.000000:3", b"0.500000:0:cat", b"-1.000000:2:owl"]),
    ],
)
def test_classes_are_the_largest_values(engine, call, kit, classifier, count, expected) -> None:
    """Value, place and label; of equal ones the first comes first."""
    message = wanting(kit, name="SCORES", region="", classes=count)

    InferCall(Door(engine, "sequence"), call).message(message.SerializeToString())

    response = pb.ModelInferResponse.FromString(call.sent[0])
    assert strings(response.raw_output_contents[0]) == expected
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == (
        "BYTES",
        [1, len(expected)],
    )


@pytest.mark.parametrize(
    ("batched", "shape", "expected"),
    [
        (True, (2, 3), ((2, 1), [b"3:1", b"7:2"])),
        (True, (0, 3), ((0, 1), [])),
        (False, (6,), ((1,), [b"7:5"])),
    ],
)
def test_each_row_has_its_classes(batched, shape, expected) -> None:
    """Where there is a batch dimension, and also where it is empty."""
    values = np.int32([1, 3, 2, 5, 6, 7])[: np.prod(shape)]

    header, data = Classes(1, batched=batched).write(
        OutputHeader("S", "int32", shape), values.tobytes()
    )

    assert (header.shape, strings(data)) == expected


@pytest.mark.parametrize("dtype", ["object", "bool"])
def test_what_has_no_order_has_no_classes(dtype) -> None:
    """The text says of which type it is."""
    with pytest.raises(RpcError, match="due to unsupported type"):
        Classes(1).write(OutputHeader("S", dtype, (1, 1)), b"\0\0\0\0")


def test_classes_may_go_into_shared_memory(
    engine, call, kit, classifier, regions, tmp_path
) -> None:
    """As any output."""
    (tmp_path / "big").write_bytes(bytes(64))
    regions.register("big", "/big", 0, 64)
    message = wanting(kit, name="SCORES", region="big", size=64, classes=1)

    InferCall(Door(engine, "sequence", regions), call).message(message.SerializeToString())

    assert (tmp_path / "big").read_bytes().startswith(b"\x0e\0\0\x002.000000:1:dog\0")


@pytest.mark.parametrize("name", ["/etc/hosts", "../secret.txt", "missing.txt"])
def test_labels_lie_within_the_models_folder(engine, call, kit, classifier, name) -> None:
    """A client may give a configuration, but not read other files by it."""
    classifier["label_filename"] = name
    message = wanting(kit, name="SCORES", region="", classes=1)

    with pytest.raises(RpcError, match=r"the label file .* cannot be read"):
        InferCall(Door(engine, "sequence"), call).message(message.SerializeToString())

    assert not engine.steps


def test_an_unknown_model_is_left_to_the_engine(engine, kit, regions) -> None:
    """It has the better error."""
    call = kit.Call()
    message = wanting(kit)
    message.model_name = "nobody"

    InferCall(Door(engine, "sequence", regions), call).message(message.SerializeToString())

    assert engine.steps[0].model == "nobody"


def test_a_step_without_wishes_is_left_alone(engine, kit, call) -> None:
    """Its reply is the very same object."""
    InferCall(Door(engine, "sequence"), call).message(kit.request().SerializeToString())
    step, reply = engine.steps[0], kit.reply(1)

    prepare(step, engine, None)

    assert finished(step, reply) is reply
