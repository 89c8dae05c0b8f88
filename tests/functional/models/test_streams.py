"""Real models on a real engine: many sequences at once, against the same model alone."""

import asyncio

import numpy as np
import onnxruntime as ort
import pytest
from tests.assets import asset, recording

from legato.core.errors import PoisonError
from legato.repository.config import ModelConfig

FRAME, CONTEXT = 512, 64
SILERO = {
    "inputs": {"input": {"shape": [1, FRAME]}},
    "states": [{"name": "context", "input": "input", "rule": "window", "axis": 1, "size": CONTEXT}],
}


def config(name, asset_name, file, **more):
    path = asset(asset_name, file)
    return ModelConfig(name=name, file=path, folder=path.parent, **more)


def bare(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def frames_of(samples):
    count = len(samples) // FRAME
    return samples[: count * FRAME].reshape(count, 1, FRAME)


def alone(session, frames):
    """Silero's own loop: state and context by hand."""
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros((1, CONTEXT), np.float32)
    found = []
    for frame in frames:
        x = np.concatenate((context, frame), axis=1)
        feed = {"input": x, "state": state, "sr": np.array(16000, np.int64)}
        p, state = session.run(["output", "stateN"], feed)
        context = x[:, -CONTEXT:]
        found.append(float(p[0, 0]))
    return np.array(found)


async def test_silero_hears_a_minute_beside_ragged_streams(bench):
    """All 1875 frames are bit-equal to the model's own loop while eleven others come and go."""
    samples = recording("silero", "test.wav")
    frames = frames_of(samples)
    expected = alone(bare(asset("silero", "silero_vad.onnx")), frames)
    await bench.engine.load(config("vad", "silero", "silero_vad.onnx", **SILERO))
    rng = np.random.default_rng(5)
    got: dict[int, list[float]] = {}

    async def stream(sequence, mine):
        got[sequence] = []
        for frame in mine:
            answer = await bench.step("vad", sequence, input=frame)
            got[sequence].append(float(answer["output"][0, 0]))
            for _ in range(int(rng.integers(0, 3))):
                await asyncio.sleep(0)  # gives way, so that arrivals are ragged

    starts = rng.integers(0, 1700, 11)
    others = [stream(n + 2, frames[at : at + 150]) for n, at in enumerate(starts)]
    await asyncio.gather(stream(1, frames), *others)

    assert len(frames) == 1875
    np.testing.assert_array_equal(np.array(got[1]), expected)
    assert expected.mean() == pytest.approx(0.7783, abs=1e-4)
    assert (expected > 0.5).sum() == 1452
    assert bench.mean_batch("vad") > 1


async def test_streams_of_two_rates_do_not_share_a_call(bench):
    """8 kHz and 16 kHz differ in a scalar: each stream hears as if alone."""
    await bench.engine.load(config("vad", "silero", "silero_vad.onnx"))
    session = bare(asset("silero", "silero_vad.onnx"))
    rng = np.random.default_rng(6)
    sounds = {
        rate: rng.standard_normal((20, 1, size)).astype(np.float32) * 0.1
        for rate, size in ((8000, 288), (16000, 576))
    }
    expected = {}
    for rate, sound in sounds.items():
        state, expected[rate] = np.zeros((2, 1, 128), np.float32), []
        for x in sound:
            feed = {"input": x, "state": state, "sr": np.array(rate, np.int64)}
            p, state = session.run(["output", "stateN"], feed)
            expected[rate].append(float(p[0, 0]))

    async def stream(sequence, rate):
        answers = [
            await bench.step("vad", sequence, input=x, sr=np.array(rate, np.int64))
            for x in sounds[rate]
        ]
        return [float(answer["output"][0, 0]) for answer in answers]

    got = await asyncio.gather(*(stream(n, rate) for n, rate in enumerate([8000, 16000] * 3, 1)))

    for n, rate in enumerate([8000, 16000] * 3):
        assert got[n] == expected[rate]


@pytest.mark.parametrize(
    ("name", "file", "data", "state"),
    [
        ("dtln", "model_1.onnx", ("input_2", (1, 1, 257)), ("input_3", (1, 2, 128, 2))),
        ("dtln", "model_2.onnx", ("input_4", (1, 1, 512)), ("input_5", (1, 2, 128, 2))),
        ("streamsad", "model_2025-06-10.onnx", ("input", (1, 257, 1)), ("input_state", (1, 1, 64))),
    ],
)
async def test_streams_together_are_as_the_file_alone(bench, name, file, data, state):
    """Eight sequences at once, also of a loosened file, match the file as it was shipped."""
    await bench.engine.load(config("model", name, file))
    session = bare(asset(name, file))
    (data_name, shape), (state_name, state_shape) = data, state
    rng = np.random.default_rng(7)
    inputs = np.abs(rng.standard_normal((8, 12, *shape)).astype(np.float32)) * 0.1

    async def stream(sequence):
        return [
            next(iter((await bench.feed("model", sequence + 1, {data_name: x})).values()))
            for x in inputs[sequence]
        ]

    got = await asyncio.gather(*(stream(n) for n in range(8)))

    for sequence in range(8):
        value = np.zeros(state_shape, np.float32)
        for step, x in enumerate(inputs[sequence]):
            y, value = session.run(None, {data_name: x, state_name: value})
            np.testing.assert_allclose(got[sequence][step], y, rtol=1e-3, atol=2e-5)
    assert bench.mean_batch("model") > 4


async def test_voicefilter_is_exact_because_it_runs_alone(bench):
    """Rows that would influence one another are kept apart; a constant is sent once."""
    once = [
        {"input": "dvec", "rule": "write_once"},
        {"input": "h0", "output": "hN"},
        {"input": "c0", "output": "cN"},
    ]
    await bench.engine.load(
        config("voice", "voicefilter", "voicefilter_lite.int8.onnx", states=once)
    )
    session = bare(asset("voicefilter", "voicefilter_lite.int8.onnx"))
    rng = np.random.default_rng(8)
    voices = rng.standard_normal((4, 1, 256)).astype(np.float32) * 0.1
    sounds = rng.standard_normal((4, 6, 1, 1, 512)).astype(np.float32)

    async def stream(n):
        masks = []
        for step, sound in enumerate(sounds[n]):
            first = {"dvec": voices[n]} if step == 0 else {}
            answer = await bench.feed("voice", n + 1, {"stacked_logmel": sound, **first})
            masks.append(answer["mask"])
        return masks

    got = await asyncio.gather(*(stream(n) for n in range(4)))

    assert bench.mean_batch("voice") == 1
    for n in range(4):
        h = c = np.zeros((3, 1, 512), np.float32)
        for step, sound in enumerate(sounds[n]):
            feed = {"stacked_logmel": sound, "dvec": voices[n], "h0": h, "c0": c}
            mask, h, c = session.run(["mask", "hN", "cN"], feed)
            np.testing.assert_array_equal(got[n][step], mask)


async def test_a_poisoned_gtcrn_step_leaves_the_sequence_as_it_was(bench):
    """NaN in a frame fails that step only; the next good one goes on from before it."""
    await bench.engine.load(config("denoise", "gtcrn", "gtcrn_simple.onnx"))
    session = bare(asset("gtcrn", "gtcrn_simple.onnx"))
    rng = np.random.default_rng(9)
    frames = rng.standard_normal((3, 1, 257, 1, 2)).astype(np.float32) * 0.1

    got = [(await bench.step("denoise", 1, mix=frames[0]))["enh"]]
    with pytest.raises(PoisonError):
        await bench.step("denoise", 1, mix=np.full((1, 257, 1, 2), np.nan, np.float32))
    got += [(await bench.step("denoise", 1, mix=frame))["enh"] for frame in frames[1:]]

    shapes = {
        "conv_cache": (2, 1, 16, 16, 33),
        "tra_cache": (2, 3, 1, 1, 16),
        "inter_cache": (2, 1, 33, 16),
    }
    state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for frame, enhanced in zip(frames, got, strict=True):
        expected, *following = session.run(None, {"mix": frame, **state})
        state = dict(zip(state, following, strict=True))
        np.testing.assert_array_equal(enhanced, expected)


# -- audio to text with a growing cache ---------------------------------------------------------

BEGIN, END = 1, 2


def vocabulary():
    """Read ``tokenizer.bin``: a length of one or two bytes, then the piece."""
    data, at, pieces = asset("moonshine", "tokenizer.bin").read_bytes(), 0, []
    while at < len(data):
        length, at = data[at], at + 1
        if length >= 128:
            length, at = data[at] * 128 + length - 128, at + 1
        pieces.append(data[at : at + length])
        at += length
    return pieces


async def test_moonshine_writes_down_several_recordings_at_once(bench):
    """One token a step from caches of different and growing lengths; the texts are right."""
    states = [{"name": "audio", "input": "encoder_hidden_states", "rule": "write_once"}]
    decoder = config("decoder", "moonshine", "decoder_model_merged.ort", states=states)
    await bench.engine.load(decoder)
    await bench.engine.load(config("encoder", "moonshine", "encoder_model.ort"))
    samples = recording("moonshine", "beckett.wav")
    pieces = vocabulary()

    async def listen(sequence, sound):
        hidden = await bench.step("encoder", sequence, input_values=sound[None])
        return {"encoder_hidden_states": hidden["last_hidden_state"]}

    async def write_down(sequence, once):
        tokens = [BEGIN]
        while tokens[-1] != END and len(tokens) < 40:
            inputs = {"input_ids": np.array([[tokens[-1]]], np.int64), **once}
            answer = await bench.feed("decoder", sequence, inputs)
            tokens.append(int(answer["logits"][0, -1].argmax()))
            once = {}
        return b"".join(pieces[t] for t in tokens[1:-1]).decode().replace("\u2581", " ").strip()

    whole = "Ever tried ever failed, no matter try again fail again fail better."
    sounds = [samples, samples[:64000], samples, samples[:48000], samples[:64000]]
    heard = await asyncio.gather(*(listen(n, sound) for n, sound in enumerate(sounds, 1)))
    texts = await asyncio.gather(*(write_down(n, once) for n, once in enumerate(heard, 1)))

    assert texts == [
        whole,
        "Ever tried ever failed, no matter.",
        whole,
        "Ever tried, ever failed.",
        "Ever tried ever failed, no matter.",
    ]
    assert bench.engine.model("decoder").statistics.retried_rows == 0
    assert bench.mean_batch("decoder") > 1
