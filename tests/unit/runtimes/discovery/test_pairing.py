"""Pairing states by name: what is taken, what is doubted, what is left alone."""

import pytest

from legato.runtimes.discovery.pairing import GraphTensor, pair_by_name


def tensors(*names, dims=(None, 4), dtype="float32"):
    return [GraphTensor(name, dtype, dims) for name in names]


def pairs(inputs, outputs):
    return {pair.input: pair.output for pair in pair_by_name(inputs, outputs).pairs}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("state", "stateN"),
        ("h0", "hN"),
        ("h", "hn"),
        ("c", "cn"),
        ("cache_3", "next_cache_3"),
        ("conv_cache", "conv_cache_out"),
        ("input_state", "output_state"),
        ("h_in", "h_out"),
        ("hiddenIn", "hiddenOut"),
        ("past_key_values.11.decoder.value", "present.11.decoder.value"),
        ("past_0", "present_0"),
        ("prev_state", "state"),
        ("old_sum", "new_sum"),
        ("initial_state", "final_state"),
        ("cache_last_channel", "cache_last_channel_next"),
        ("cached_len_0", "new_cached_len_0"),
    ],
)
def test_usual_names_of_a_state_are_paired(source, target):
    """Each convention of exporters that is in use is understood, beside a data input."""
    inputs = tensors("features", source)
    outputs = tensors("logits", target)

    found = pairs(inputs, outputs)

    assert found == {source: target}


def test_names_decide_and_not_the_order():
    """States whose names sort differently on the two sides are paired by what they name."""
    inputs = tensors("x", "cache_0", "cache_1", "cache_10")
    outputs = tensors("next_cache_10", "y", "next_cache_1", "next_cache_0")

    found = pairs(inputs, outputs)

    assert found == {f"cache_{n}": f"next_cache_{n}" for n in (0, 1, 10)}


def test_equal_shapes_alone_are_no_pair():
    """A denoiser's data has the shape of its output, and is no state for it."""
    found = pair_by_name(tensors("mix"), tensors("enhanced"))

    assert found.pairs == ()
    assert found.doubts == ()


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["input", "mask"], ["output", "score"]),
        (["input_1", "input_2"], ["output_1", "output_2"]),
    ],
)
def test_bare_in_and_out_name_nothing(inputs, outputs):
    """``input`` and ``output`` with no other word do not name a state."""
    assert pair_by_name(tensors(*inputs), tensors(*outputs)).pairs == ()


def test_an_image_filter_is_only_doubted():
    """Names that only say in and out are reported, and not taken for state."""
    found = pair_by_name(tensors("image", "mask"), tensors("image_out", "score"))

    assert found.pairs == ()
    assert [(doubt.input, doubt.output) for doubt in found.doubts] == [("image", "image_out")]


def test_the_only_input_is_not_made_state_by_a_word_of_time():
    """A model that maps ``token`` to ``next_token`` would be left without data."""
    found = pair_by_name(tensors("token"), tensors("next_token"))

    assert found.pairs == ()


def test_integer_data_is_not_made_state_by_a_word_of_time():
    """``token`` and ``next_token`` are ids that a client sends and gets."""
    inputs = tensors("token", dtype="int64") + tensors("audio")

    found = pair_by_name(inputs, tensors("next_token", dtype="int64"))

    assert found.pairs == ()


def test_two_candidates_for_one_state_are_doubted():
    """Where two outputs fit a state by name, neither is taken."""
    found = pair_by_name(tensors("x", "state"), tensors("next_state", "state_out"))

    assert found.pairs == ()
    assert len(found.doubts) == 2


@pytest.mark.parametrize(
    "target",
    [
        GraphTensor("next_state", "float64", (None, 4)),
        GraphTensor("next_state", "float32", (None, 5)),
        GraphTensor("next_state", "float32", (None, 4, 1)),
    ],
)
def test_another_dtype_or_shape_is_never_paired(target):
    """Names do not outweigh what cannot be fed back."""
    assert pair_by_name(tensors("x", "state"), [target]).pairs == ()


def test_an_unknown_size_agrees_with_any():
    """Open and symbolic dimensions fit a number: only the run can tell more."""
    inputs = [*tensors("x"), GraphTensor("state", "float32", (2, None, 128))]
    outputs = [GraphTensor("stateN", "float32", (None, "batch", None))]

    assert pairs(inputs, outputs) == {"state": "stateN"}


def test_encoder_caches_of_a_merged_decoder_keep_when_empty():
    """Merged decoders answer with empty encoder caches once these are known."""
    inputs = tensors("ids", "past_key_values.0.encoder.key", "past_key_values.0.decoder.key")
    outputs = tensors("present.0.decoder.key", "present.0.encoder.key")

    found = pair_by_name(inputs, outputs)

    assert {p.input.split(".")[2]: p.keeps_if_empty for p in found.pairs} == {
        "encoder": True,
        "decoder": False,
    }
