"""What OpenVINO says, told in one line."""

import pytest

from legato.runtimes.openvino.reading import first_line

CHECK = "Check 'input_shape.compatible(shape)' failed at src/core/src/op/assign.cpp:82:"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Exception from src/a.cpp:1:\nir: No such file\n\n", "ir: No such file"),
        (f"Exception from src/b.cpp:2:\n{CHECK}\nShapes differ\n", "Shapes differ"),
        (CHECK, "input_shape.compatible(shape) is not so"),
        ("", "RuntimeError"),
        ("x" * 400, "x" * 297 + "..."),
    ],
    ids=["plain", "checked", "bare_check", "empty", "long"],
)
def test_the_telling_line_is_kept(said, told):
    """Source paths and conditions mean nothing to who serves a model."""
    assert first_line(RuntimeError(said)) == told
