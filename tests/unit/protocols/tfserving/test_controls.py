"""The special tensors: every spelling, and every mistake with its own text."""

from __future__ import annotations

import numpy as np
import pytest

from legato.core.types import TFSERVING, Step
from legato.protocols.tfserving import controls
from legato.protocols.tfserving.errors import RefusalError

NO_SHAPE = "Special input proto does not contain tensor shape information"
ID_TYPE = "Could not find sequence id in expected tensor proto field uint64_val"
CONTROL_TYPE = "Could not find sequence control input in expected tensor proto field uint32_val"
ID_MISSING = "Sequence ID has not been provided in request inputs"


def read(**inputs):
    step = Step("m", None, {}, TFSERVING)
    controls.read(step, inputs)
    return step.correlation_id, step.start, step.end


def refused(**inputs):
    with pytest.raises(RefusalError) as caught:
        read(**inputs)
    return caught.value.message


@pytest.mark.parametrize("name", [1, 5_000_000_000, 2**64 - 1])
def test_the_id_is_a_uint64(kit, name) -> None:
    """Above 2**32 too."""
    assert read(sequence_id=kit.values("uint64_val", name)) == (name, False, False)


@pytest.mark.parametrize(
    ("control", "flags"), [(0, (False, False)), (1, (True, False)), (2, (False, True))]
)
def test_the_control_starts_and_ends(kit, control, flags) -> None:
    """0 is the same as none at all."""
    found = read(
        sequence_id=kit.values("uint64_val", 7),
        sequence_control_input=kit.values("uint32_val", control),
    )

    assert found == (7, *flags)


@pytest.mark.parametrize(
    "spelling",
    [
        lambda kit: kit.tensor(np.array([7], np.uint64)),
        lambda kit: kit.tensor(np.array([7], np.int64)),
        lambda kit: kit.tensor(np.array([7], np.uint32)),
        lambda kit: kit.tensor(np.array([7], np.int32)),
        lambda kit: kit.values("int64_val", 7, dtype=9),
        lambda kit: kit.values("int_val", 7, dtype=3),
        lambda kit: kit.values("uint64_val", 7, dtype=22),  # the dtype is not looked at
    ],
)
def test_ids_of_real_clients_are_read(kit, spelling) -> None:
    """Model Server's own client library sends most of these."""
    assert read(sequence_id=spelling(kit)) == (7, False, False)


@pytest.mark.parametrize(
    "spelling",
    [
        lambda kit: kit.tensor(np.array([1], np.uint32)),
        lambda kit: kit.tensor(np.array([1], np.int32)),
        lambda kit: kit.tensor(np.array([1], np.int64)),
        lambda kit: kit.values("int_val", 1, dtype=3),
        lambda kit: kit.values("int64_val", 1, dtype=9),
        lambda kit: kit.values("uint32_val", 1, dtype=1),
    ],
)
def test_controls_of_real_clients_are_read(kit, spelling) -> None:
    """The same spellings."""
    assert read(sequence_control_input=spelling(kit)) == (None, True, False)


@pytest.mark.parametrize("inputs", ["absent", "zero"])
def test_start_without_an_id_asks_the_server_for_one(kit, inputs) -> None:
    """0 is the same as no id."""
    given = {"sequence_id": kit.values("uint64_val", 0)} if inputs == "zero" else {}

    found = read(**given, sequence_control_input=kit.values("uint32_val", 1))

    assert found == (None, True, False)


@pytest.mark.parametrize("control", [None, 0, 2])
@pytest.mark.parametrize("name", [None, 0])
def test_other_steps_need_an_id(kit, control, name) -> None:
    """Absent or 0, with every control but start."""
    given = {}
    if control is not None:
        given["sequence_control_input"] = kit.values("uint32_val", control)
    if name is not None:
        given["sequence_id"] = kit.values("uint64_val", name)

    assert refused(**given) == ID_MISSING


@pytest.mark.parametrize("control", [3, 99, 999])
@pytest.mark.parametrize("name", [0, 7])
def test_other_controls_are_refused(kit, control, name) -> None:
    """Before a missing id is."""
    text = refused(
        sequence_id=kit.values("uint64_val", name),
        sequence_control_input=kit.values("uint32_val", control),
    )

    assert text == "Unexpected value of sequence control input"


ID, CONTROL = "sequence_id", "sequence_control_input"


@pytest.mark.parametrize(
    ("name", "spelling", "text"),
    [
        (ID, lambda kit: kit.values("uint64_val", 7, shape=()), NO_SHAPE),
        (CONTROL, lambda kit: kit.values("uint32_val", 1, shape=()), NO_SHAPE),
        (
            ID,
            lambda kit: kit.values("uint64_val", 7, shape=(1, 1)),
            "Invalid number of shape dimensions - Required shape for sequence_id is: (1)",
        ),
        (
            CONTROL,
            lambda kit: kit.values("uint32_val", 1, shape=(1, 1)),
            ("Invalid number of shape dimensions - Required shape for sequence_control_input is: "
            "(1)"),
        ),
        (
            ID,
            lambda kit: kit.values("uint64_val", 7, 8, shape=(2,)),
            "Invalid input shape - Required shape for sequence_id is: (1)",
        ),
        (
            CONTROL,
            lambda kit: kit.values("uint32_val", 1, shape=(2,)),
            "Invalid input shape - Required shape for sequence_control_input is: (1)",
        ),
        (ID, lambda kit: kit.values("uint32_val", 7, dtype=22), ID_TYPE),
        (CONTROL, lambda kit: kit.values("uint64_val", 1, dtype=23), CONTROL_TYPE),
        (ID, lambda kit: kit.values("uint64_val", 7, 8), ID_TYPE),
        (CONTROL, lambda kit: kit.values("uint32_val", 1, 1), CONTROL_TYPE),
        (ID, lambda kit: kit.values("uint64_val"), ID_TYPE),
        (ID, lambda kit: kit.values("int64_val", -1), ID_TYPE),
        (CONTROL, lambda kit: kit.values("int64_val", 2**32), CONTROL_TYPE),
        (ID, lambda kit: kit.values("float_val", 7), ID_TYPE),
        (ID, lambda kit: kit.tensor(np.float32([7])), ID_TYPE),
        (ID, lambda kit: kit.tensor(np.array([7], np.uint64), tensor_content=b"1234567"), ID_TYPE),
    ],
)  # fmt: skip
def test_each_mistake_has_its_text(kit, name, spelling, text) -> None:
    """For both tensors."""
    assert refused(**{name: spelling(kit)}) == text


def test_the_id_is_looked_at_first(kit) -> None:
    """And its shape before its value."""
    wrong_id = kit.values("uint32_val", 7, 8, shape=(2,))
    wrong_control = kit.values("uint64_val", 1, shape=())

    text = refused(sequence_id=wrong_id, sequence_control_input=wrong_control)

    assert text == "Invalid input shape - Required shape for sequence_id is: (1)"
