"""Read a model file with OpenVINO and shape it as the options say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openvino as ov
from openvino.passes import LowLatency2, Manager
from openvino.preprocess import PrePostProcessor

from legato.core.errors import ConfigError, join_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from legato.runtimes.openvino.options import Layout, Options, Shape, Size

_COMPOSED = ("AUTO", "HETERO", "MULTI", "BATCH")
_LONGEST = 300


def open_core(options: Options, file: str) -> Any:
    """Return a Core that has the device and the extension asked for.

    Raises:
        ConfigError: It has not.
    """
    core = ov.Core()
    if options.extension:
        try:
            core.add_extension(options.extension)
        except Exception as error:
            raise ConfigError(
                f"cannot be loaded: {first_line(error)}", file=file, key="options.cpu_extension"
            ) from error
    device = options.target_device.partition(":")[0].partition(".")[0]
    if device not in _COMPOSED and device not in {
        d.partition(".")[0] for d in core.available_devices
    }:
        raise ConfigError(
            f"this machine has no device '{options.target_device}'",
            file=file,
            key="options.target_device",
            fix="use one of " + ", ".join(core.available_devices),
        )
    return core


def read_model(core: Any, path: Path, options: Options) -> Any:
    """Read a model; apply layouts, shapes and LowLatency2, in the order of Model Server.

    Raises:
        ConfigError: The file cannot be read, or an option does not fit the model.
    """
    file = str(path)
    try:
        model = core.read_model(file)
    except Exception as error:
        raise ConfigError(
            f"OpenVINO {ov.__version__.partition('-')[0]} cannot read it: {first_line(error)}",
            file=file,
            fix="an .xml needs its .bin beside it; check that the files are complete",
        ) from error
    if options.layouts:
        model = _laid_out(model, options, file)
    if options.shapes:
        _reshape(model, options, file)
    elif options.batch_size:
        _set_batch(model, options, file)
    if options.low_latency:
        _unroll(model, options, file)
    return model


def compile_model(core: Any, model: Any, options: Options, *, threads: int, file: str) -> Any:
    """Compile a model.

    Raises:
        ConfigError: The device refuses the model or a property.
    """
    try:
        return core.compile_model(model, options.target_device, options.properties(threads))
    except Exception as error:
        raise ConfigError(
            f"OpenVINO cannot compile it for {options.target_device}: {first_line(error)}",
            file=file,
            fix="check 'options.plugin_config'" if options.plugin_config else "",
        ) from error


def first_line(error: BaseException) -> str:
    """Return the telling part of an OpenVINO message: one line, without source paths."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    if text.startswith("Check '"):  # nothing follows but where it was checked
        text = text.rpartition("' failed at ")[0].removeprefix("Check '") + " is not so"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def port_names(ports: Sequence[Any]) -> list[str]:
    """Name inputs or outputs: OpenVINO's name of the tensor, else of its node; never twice."""
    names: list[str] = []
    for at, port in enumerate(ports):
        given = sorted(port.get_names())
        name = port.get_any_name() if given else port.get_node().get_friendly_name()
        names.append(f"{name}:{at}" if name in names else name)
    return names


# -- options ------------------------------------------------------------------------------


def _dimension(size: Size) -> Any:
    return ov.Dimension(*size) if isinstance(size, tuple) else ov.Dimension(size)


def _index(model: Any, name: str, key: str, options: Options, file: str) -> int:
    """Find the input that an option names; "" is the only one."""
    names = port_names(model.inputs)
    public = [options.renamed_inputs.get(known, known) for known in names]
    if name == "":
        if len(names) != 1:
            raise ConfigError(
                f"must say which input it means: the model has {join_names(public)}",
                file=file,
                key=key,
                fix="write a mapping from input names",
            )
        return 0
    for known in (names, public):
        if name in known:
            return known.index(name)
    raise ConfigError(
        f"the model has no input '{name}'",
        file=file,
        key=key,
        fix=f"its inputs are {join_names(public)}",
    )


def _reshape(model: Any, options: Options, file: str) -> None:
    stateful = _is_stateful(model, options)
    sizes = {}
    for name, shape in options.shapes.items():
        at = _index(model, name, "options.shape", options, file)
        if shape is None and stateful:
            raise _no_auto("shape", file)
        sizes[at] = _wanted(model.inputs[at], shape)
    try:
        model.reshape(sizes)
    except Exception as error:
        raise ConfigError(
            f"the model does not take this shape: {first_line(error)}",
            file=file,
            key="options.shape",
        ) from error


def _is_stateful(model: Any, options: Options) -> bool:
    return bool(options.low_latency or options.stateful or model.get_sinks())


def _no_auto(key: str, file: str) -> ConfigError:
    return ConfigError(
        "cannot be 'auto' for a stateful model",
        file=file,
        key=f"options.{key}",
        fix="give numbers; the server shares calls among sequences by itself",
    )


def _wanted(port: Any, shape: Shape) -> Any:
    if shape is None:
        return ov.PartialShape([-1] * port.get_partial_shape().rank.get_length())
    return ov.PartialShape([_dimension(size) for size in shape])


def _set_batch(model: Any, options: Options, file: str) -> None:
    """Set the rows of one request on the axis that the layout calls N, else on axis 0."""
    if options.batch_size == -1 and _is_stateful(model, options):
        raise _no_auto("batch_size", file)
    sizes = {}
    for at, port in enumerate(model.inputs):
        shape = port.get_partial_shape()
        if shape.rank.is_dynamic or not len(shape):
            continue
        shape[batch_of_layout(port) or 0] = _dimension(options.batch_size)
        sizes[at] = shape
    try:
        model.reshape(sizes)
    except Exception as error:
        raise ConfigError(
            f"the model does not take this batch: {first_line(error)}",
            file=file,
            key="options.batch_size",
        ) from error


def batch_of_layout(port: Any) -> int | None:
    """Return the axis that an input's layout calls N, if the file or an option says one."""
    layout, shape = port.get_node().get_layout(), port.get_partial_shape()
    if layout.empty or shape.rank.is_dynamic or not layout.has_name("N"):
        return None
    at: int = layout.get_index_by_name("N")
    return at % len(shape)


def _laid_out(model: Any, options: Options, file: str) -> Any:
    """Note layouts, and convert where clients send another one than the model has."""
    builder = PrePostProcessor(model)
    outputs = port_names(model.outputs)
    for name, layout in options.layouts.items():
        if name in outputs:
            _note(builder.output(outputs.index(name)), layout)
        else:
            _note(builder.input(_index(model, name, "options.layout", options, file)), layout)
    try:
        return builder.build()
    except Exception as error:
        raise ConfigError(
            f"the model does not take this layout: {first_line(error)}",
            file=file,
            key="options.layout",
        ) from error


def _note(side: Any, layout: Layout) -> None:
    side.tensor().set_layout(ov.Layout(layout.tensor))
    side.model().set_layout(ov.Layout(layout.model))


def _unroll(model: Any, options: Options, file: str) -> None:
    """Turn loops of one iteration into variables.

    Sequence operators are transformed as they are: converted to TensorIterator first,
    they leave the loop's own counters behind as variables, and give wrong numbers.
    """
    manager = Manager()
    manager.register_pass(LowLatency2(options.const_initializer))
    manager.run_passes(model)
    if not model.get_sinks():
        raise ConfigError(
            "finds no loop of one iteration in this model",
            file=file,
            key="options.low_latency_transformation",
            fix="set the size of its time axis to 1 by 'options.shape'",
        )
