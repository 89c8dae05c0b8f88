"""Messages of ONNX Runtime in one line that a user can read."""

import pytest

from legato.runtimes.onnx.files import first_line

FAILED = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running "
TWO_ROWS = "Input initial_h must have shape {1,1,64}. Actual:{1,2,64}"
RESHAPE = (
    "Reshape node. Name:'r' Status Message: /onnxruntime_src/core/reshape.h:40 ns::Helper(int) "
)


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (f"{FAILED}GRU node. Name:'g1' Status Message: {TWO_ROWS}", f"node 'g1': {TWO_ROWS}"),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid name: zz", "Invalid name: zz"),
        (f"{FAILED}{RESHAPE}a == b was false. It cannot be", "node 'r': It cannot be"),
        ("first\nsecond", "first"),
        ("", "ValueError"),
    ],
)
def test_the_telling_part_is_kept(raw, line):
    """Codes, source paths and C++ conditions are dropped; the node and the reason stay."""
    assert first_line(ValueError(raw)) == line


def test_a_long_message_is_cut():
    """A page of shapes does not fill a log line."""
    assert len(first_line(ValueError("x" * 1000))) == 300
