#!/usr/bin/env python3
"""Make two clean ONNX models of Moonshine's files: an encoder, and a decoder with a past.

The package ships a *merged* decoder: both branches of an ``If``, of which the second
gives empty values for what does not change. A server of states wants neither. So the
branch with a past becomes a model of its own, whose states are

- ``past_key_values.*.encoder.*``: keys and values of the audio, constant for a clip,
- ``past_key_values.*.decoder.*``: keys and values of the text so far, one entry more a step,

and that gives the most likely token instead of 128 KiB of logits. The projections of the
audio, which the merged decoder makes in its first step, move to the end of the encoder.

    python tools/fetch_assets.py moonshine
    python tools/export_moonshine.py          # into .cache/assets/moonshine
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, compose, helper

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "assets" / "moonshine"
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
LAYERS, HEADS, WIDTH, HIDDEN = 8, 8, 52, 416

_OPSET = 14


def export(folder: Path = FOLDER) -> tuple[Path, Path]:
    """Make both models beside the package's files, unless they are there; give their paths."""
    encoder, decoder = folder / ENCODER, folder / DECODER
    if not (encoder.is_file() and decoder.is_file()):
        merged = _read(folder / "decoder_model_merged.ort")
        _write(_encoder(_read(folder / "encoder_model.ort"), merged), encoder)
        _write(_decoder(merged), decoder)
    return encoder, decoder


def _read(path: Path) -> ModelProto:
    """Have ONNX Runtime write its own format as ONNX, without any change."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "model.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(out)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(out)


def _write(model: ModelProto, path: Path) -> None:
    onnx.checker.check_model(model)
    part = path.with_suffix(".part")
    onnx.save(model, part)
    part.replace(path)


def _decoder(merged: ModelProto) -> ModelProto:
    """Make the branch with a past a model: a token in, the next token and what grew out."""
    nodes, names = _branch(merged, "then_branch")
    nodes.append(helper.make_node("ArgMax", [names["logits"]], ["token"], axis=-1, keepdims=0))
    grown = [f"present.{layer}.decoder.{kind}" for layer in range(LAYERS) for kind in _KINDS]
    nodes += [helper.make_node("Identity", [names[name]], [name]) for name in grown]
    inputs = [_tensor("input_ids", TensorProto.INT64, ["batch", 1])]
    for side, length in (("encoder", "audio"), ("decoder", "past")):
        inputs += [
            _tensor(f"past_key_values.{layer}.{side}.{kind}", *_cache(length))
            for layer in range(LAYERS)
            for kind in _KINDS
        ]
    outputs = [_tensor("token", TensorProto.INT64, ["batch", 1])]
    outputs += [_tensor(name, *_cache("past + 1")) for name in grown]
    return _model("moonshine_decoder", merged, nodes, inputs, outputs)


def _encoder(encoder: ModelProto, merged: ModelProto) -> ModelProto:
    """Put the decoder's projections of the audio behind the encoder."""
    nodes, names = _branch(merged, "else_branch")
    hidden = "encoder_hidden_states"
    for node in nodes:
        # Of the text's own tensors these ask the batch alone, which is that of the audio.
        if node.op_type == "Shape" and "encoder_attn" in node.output[0]:
            node.input[0] = hidden
    given = [f"present.{layer}.encoder.{kind}" for layer in range(LAYERS) for kind in _KINDS]
    wanted = [name.replace("present", "past_key_values") for name in given]
    nodes += [
        helper.make_node("Identity", [names[old]], [new])
        for old, new in zip(given, wanted, strict=True)
    ]
    projections = _model(
        "projections",
        merged,
        nodes,
        [_tensor(hidden, TensorProto.FLOAT, ["batch", "audio", HIDDEN])],
        [_tensor(name, *_cache("audio")) for name in wanted],
    )
    encoder = ModelProto.FromString(encoder.SerializeToString())
    del encoder.opset_import[:], encoder.graph.value_info[:]
    encoder.opset_import.extend(projections.opset_import)
    encoder.ir_version = projections.ir_version
    prefixed = compose.add_prefix(projections, "p_", rename_inputs=False, rename_outputs=False)
    (out,) = (output.name for output in encoder.graph.output)
    return compose.merge_models(encoder, prefixed, io_map=[(out, hidden)], name="moonshine_encoder")


_KINDS = ("key", "value")


def _branch(merged: ModelProto, name: str) -> tuple[list[NodeProto], dict[str, str]]:
    """Copy the nodes of a branch and those around it; name the tensors that it gives."""
    (choice,) = (node for node in merged.graph.node if node.op_type == "If")
    (branch,) = (a.g for a in choice.attribute if a.name == name)
    nodes = [_copy(node) for node in merged.graph.node if node.op_type != "If"]
    nodes += [_constant(tensor) for tensor in branch.initializer]
    nodes += [_copy(node) for node in branch.node]
    # A branch and the If have one name for a tensor; the outputs made here take it over.
    mine = {output.name: f"branch/{output.name}" for output in branch.output}
    for node in nodes:
        node.input[:] = [mine.get(tensor, tensor) for tensor in node.input]
        node.output[:] = [mine.get(tensor, tensor) for tensor in node.output]
    outside = list(choice.output)
    return nodes, {
        there: mine[here.name] for there, here in zip(outside, branch.output, strict=True)
    }


def _copy(node: NodeProto) -> NodeProto:
    return NodeProto.FromString(node.SerializeToString())


def _constant(tensor: TensorProto) -> NodeProto:
    return helper.make_node("Constant", [], [tensor.name], value=tensor)


def _cache(length: str) -> tuple[int, list[int | str]]:
    return TensorProto.FLOAT, ["batch", HEADS, length, WIDTH]


def _tensor(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    name: str,
    merged: ModelProto,
    nodes: list[NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> ModelProto:
    """Make a model of the nodes that the outputs need, in their order."""
    needed = {output.name for output in outputs}
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.insert(0, node)
            needed |= set(node.input)
    graph: GraphProto = helper.make_graph(
        kept,
        name,
        inputs,
        outputs,
        [tensor for tensor in merged.graph.initializer if tensor.name in needed],
    )
    opsets = [one for one in merged.opset_import if one.domain in {"", "com.microsoft"}]
    return helper.make_model(graph, opset_imports=opsets, ir_version=merged.ir_version)


def main() -> int:
    """Export into the folder of the assets, or another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    if not (folder / "decoder_model_merged.ort").is_file():
        print("error: run tools/fetch_assets.py moonshine first", file=sys.stderr)
        return 1
    for path in export(folder):
        print(f"{path} ({path.stat().st_size / 1e6:.0f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
