"""``legato inspect``: what a model takes, gives and carries, and what a step costs."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from legato.cli.measure import costs
from legato.core.errors import ConfigError
from legato.core.types import InputKind, UpdateRule
from legato.repository.loader import load_paths
from legato.runtimes.registry import build

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.cli.measure import Cost
    from legato.core.types import Signature, StateSpec, TensorSpec
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import Runtime

_FOLD_FROM = 3
_NO_TERMINAL_WIDTH = 80
_FILE_WIDTH = 140


def command(
    model: Annotated[
        Path, typer.Argument(help="An .onnx, .ort or .xml file, or a folder with model.yaml.")
    ],
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print a model.yaml with what was found, to keep.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything for programs.")] = False,
) -> None:
    """Show a model's inputs, outputs and state, why, and what a step costs.

    Nothing is served and nothing is changed. The model is run on made-up rows to find
    its batch axes, to see whether rows may share a call, and to time it.
    """
    if as_yaml and as_json:
        raise ConfigError("--yaml and --json exclude each other", fix="give one of them")
    facts = []
    for at, config in enumerate(load_paths([model])):
        runtime = build(config)
        try:
            if as_yaml:
                sys.stdout.write(("---\n" if at else "") + as_config(config, runtime))
            elif as_json:
                facts.append(as_facts(config, runtime, costs(runtime, config)))
            else:
                show(_console(), config, runtime, costs(runtime, config))
        finally:
            runtime.close()
    if as_json:
        text = json.dumps(facts[0] if len(facts) == 1 else facts, indent=2)
        sys.stdout.write(text + "\n")


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal and console.width == _NO_TERMINAL_WIDTH:
        console.width = _FILE_WIDTH  # nothing says how wide a file is; tables need not wrap
    return console


# -- for people -------------------------------------------------------------------------------


def show(
    console: Console, config: ModelConfig, runtime: Runtime, measured: Sequence[Cost] | None
) -> None:
    """Print tables: inputs, outputs, state and why, the batching verdict, the cost."""
    signature, findings = runtime.signature, getattr(runtime, "findings", None)
    file = config.file or config.folder / str(config.entry)
    platform = signature.platform.partition("_")[0]
    console.print(f"[bold]{escape(config.name)}[/]  {escape(file.name)}, on {platform}\n")
    console.print(_tensor_table("Inputs: what a client sends with a step", signature.inputs))
    console.print(_tensor_table("Outputs", signature.outputs))
    if signature.states:
        _show_states(console, signature, dict(findings.why) if findings else {})
    elif findings is not None and findings.doubts:
        console.print(
            "[bold]State[/]\n  [yellow]none found for sure[/]: served as it is, every step stands "
            "alone; see the notes\n"
        )
    else:
        console.print("[bold]State[/]\n  none found: every step stands alone\n")
    console.print(f"[bold]Batching[/]\n  {_verdict(signature)}: {escape(signature.why)}\n")
    _show_costs(console, config, measured, findings.size if findings else None, signature)
    _show_notes(console, findings)
    console.print(
        "[dim]N = rows of a call, ? = left open by the model, axes count from 0. "
        "Keep this as a file: legato inspect --yaml > model.yaml[/]"
    )


def _verdict(signature: Signature) -> str:
    if signature.batching:
        return "[green]yes[/], sequences share calls"
    return "[yellow]no[/], one sequence a call"


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        min_width=len(title),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
    )
    for name in columns:
        table.add_column(
            f"  {name}" if name == columns[0] else name, header_style="dim", overflow="fold"
        )
    return table


def _tensor_table(title: str, specs: Sequence[TensorSpec]) -> Table:
    remarks = [_remark(spec) for spec in specs]
    columns = ("name", "dtype", "shape", "batch axis", *(["fed"] if any(remarks) else []))
    table = _table(title, *columns)
    for spec, remark in zip(specs, remarks, strict=True):
        axis = "-" if spec.batch_axis is None else str(spec.batch_axis)
        cells = [f"  {escape(spec.name)}", spec.dtype, escape(_shape(spec)), axis, escape(remark)]
        table.add_row(*cells[: len(columns)])
    table.add_row()
    return table


def _shape(spec: TensorSpec | StateSpec) -> str:
    if not spec.shape:
        return "scalar"
    dims = ["?" if dim == -1 else str(dim) for dim in spec.shape]
    if spec.batch_axis is not None:
        dims[spec.batch_axis] = "N"
    return f"[{', '.join(dims)}]"


def _remark(spec: TensorSpec) -> str:
    if spec.kind is InputKind.CONTROL and spec.control is not None:
        return f"by the server: {spec.control.value.replace('_', ' ')} of the sequence"
    said = ["one value for all rows of a call"] if spec.kind is InputKind.SCALAR else []
    if spec.default is not None:
        said.append(f"{spec.default} if left out")
    elif spec.optional:
        said.append("may be left out")
    return ", ".join(said)


def _show_states(console: Console, signature: Signature, why: dict[str, str]) -> None:
    """Print the states as a table, or two lines each where there is no room for one."""
    rows = _state_rows(signature, why)
    title = _state_title(signature)
    table = _table(title, "takes", "next value from", "dtype", "shape", "batch axis", "rule", "why")
    for cells in rows:
        table.add_row(f"  {escape(cells[0])}", *map(escape, cells[1:]))
    table.add_row()
    if console.measure(table, options=console.options.update(width=_FILE_WIDTH * 2)).maximum <= (
        console.width
    ):
        console.print(table)
        return
    console.print(f"[bold]{escape(title)}[/]")
    for takes, source, dtype, shape, axis, rule, reason in rows:
        console.print(f"  {escape(takes)} [dim]<-[/] {escape(source)}")
        told = f"{dtype} {shape}, batch axis {axis}, {rule}; {reason}"
        console.print(Padding(escape(told), (0, 0, 0, 4)))
    console.print()


def _state_title(signature: Signature) -> str:
    fixed = sum(state_bytes(state) for state in signature.states)
    grows = any(-1 in state.shape for state in signature.states)
    size = f"{fixed:,} bytes a sequence" if not grows else "it grows as a sequence goes on"
    return f"State: kept by the server, {size}"


def _state_rows(signature: Signature, why: dict[str, str]) -> list[tuple[str, ...]]:
    """List the states in words, those of many layers as one."""
    rows: dict[tuple[str, ...], int] = {}
    for state in signature.states:
        source = state.output
        if state.rule is UpdateRule.WINDOW:
            source = f"last {state.size} of '{state.input}'"
        cells: tuple[str, ...] = (
            state.input,
            source or "the first step",
            state.dtype,
            _shape(state),
            str(state.batch_axis),
            state.rule.value.replace("_", " "),
            why.get(state.name, "declared by the model"),
        )
        rows[cells] = 1
    return [
        (f"{cells[0]} ({count} times)" if count > 1 else cells[0], *cells[1:])
        for cells, count in _folded(rows).items()
    ]


def _folded(rows: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], int]:
    """Fold rows that differ only in the numbers of their names, as those of many layers do."""
    patterns: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for cells in rows:
        names = [re.sub(r"\d+", "*", name) for name in cells[:2]]
        patterns.setdefault((*names, *cells[2:]), []).append(cells)
    folded: dict[tuple[str, ...], int] = {}
    for pattern, members in patterns.items():
        many = len(members) >= _FOLD_FROM
        folded |= {pattern: len(members)} if many else dict.fromkeys(members, 1)
    return folded


def state_bytes(state: StateSpec) -> int:
    """Bytes of a new sequence's value of a state."""
    return math.prod(max(dim, 0) for dim in state.shape) * np.dtype(state.dtype).itemsize


def _show_costs(
    console: Console,
    config: ModelConfig,
    measured: Sequence[Cost] | None,
    size: int | None,
    signature: Signature,
) -> None:
    if measured is None:
        console.print(
            "[bold]Cost[/]\n  not measured: the model does not run on made-up rows; say the shapes "
            "of a step's inputs in model.yaml\n"
        )
        return
    open_ended = any(-1 in spec.shape for spec in signature.inputs)
    at = f", '?' as {size}" if open_ended and size is not None else ""
    threads = "1 thread" if config.threads == 1 else f"{config.threads} threads"
    table = _table(
        f"Cost of the bare model, best of many calls, {threads}{at}",
        "sequences a call",
        "us a call",
        "us a step of a sequence",
        "steps a second",
    )
    for cost in measured:
        table.add_row(
            f"  {cost.batch}",
            f"{cost.call_us:,.1f}",
            f"{cost.step_us:,.1f}",
            f"{1e6 / cost.step_us:,.0f}",
        )
    table.add_row()
    console.print(table)


def _show_notes(console: Console, findings: Any) -> None:
    if findings is None:
        return
    notes = [
        f"'{doubt.input}' and '{doubt.output}' may be state ({doubt.why}), but nothing shows it: "
        f"if so, add {{input: {doubt.input}, output: {doubt.output}}} to 'states'"
        for doubt in findings.doubts
    ]
    notes += findings.notes
    if notes:
        console.print("[bold]Notes[/]")
        for note in notes:
            console.print(f"  {escape(note)}")
        console.print()


# -- for files and programs ---------------------------------------------------------------------


def as_config(config: ModelConfig, runtime: Runtime) -> str:
    """Write what was found as a ``model.yaml``: complete, so that nothing is guessed again."""
    signature = runtime.signature
    values: dict[str, Any] = {"name": config.name}
    if config.entry is not None:
        values["entry"] = config.entry
    if config.file is not None:
        values["file"] = os.path.relpath(config.file, config.folder)
    values |= config.model_dump(
        mode="json", exclude_defaults=True, exclude={"name", "file", "entry", "folder", "states"}
    )
    if config.runtime in ("onnx", "openvino", "torch"):
        values["batching"] = config.batching if signature.batching else "off"
        inputs = {spec.name: _input_config(spec) for spec in signature.inputs}
        values["inputs"] = {name: said for name, said in inputs.items() if said}
        given = {state.name or state.input: state.initial for state in config.states or ()}
        values["states"] = [_state_config(s, given.get(s.name)) for s in signature.states]
        values["discover"] = False
        values = {key: value for key, value in values.items() if value != {}}
        if values["batching"] == "auto":
            del values["batching"]
    head = f"# {config.name}: found by 'legato inspect'. Batching: {signature.why}\n"
    body = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)
    return head.replace("\n", " ").strip() + "\n" + body


def _input_config(spec: TensorSpec) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if spec.kind is InputKind.SCALAR:
        said["scalar"] = True
    elif spec.kind is InputKind.CONTROL and spec.control is not None:
        said["control"] = spec.control.value
        said["control_values"] = list(spec.control_values)
    else:
        said["shape"] = list(spec.shape)
    if spec.batch_axis is not None:
        said["batch_axis"] = spec.batch_axis
    if spec.default is not None:
        said["default"] = np.asarray(spec.default).tolist()
    return said


def _state_config(state: StateSpec, initial: Any) -> dict[str, Any]:
    said: dict[str, Any] = {"input": state.input}
    if state.name != state.input:
        said = {"name": state.name, **said}
    if state.output is not None:
        said["output"] = state.output
    if state.rule is not UpdateRule.REPLACE:
        said["rule"] = state.rule.value
    if state.rule in (UpdateRule.APPEND, UpdateRule.WINDOW):
        said["axis"] = state.axis
    if state.size:
        said["size"] = state.size
    if state.append_new_only:
        said["append_new_only"] = True
    if state.max_length:
        said["max_length"] = state.max_length
    said["shape"] = list(state.shape)
    said["batch_axis"] = state.batch_axis
    if initial is not None:
        said["initial"] = initial
    return said


def as_facts(
    config: ModelConfig, runtime: Runtime, measured: Sequence[Cost] | None
) -> dict[str, Any]:
    """Collect everything for programs; sizes that vary are -1."""
    signature, findings = runtime.signature, getattr(runtime, "findings", None)
    why = dict(findings.why) if findings else {}
    return {
        "name": config.name,
        "version": config.version,
        "file": str(config.file) if config.file else None,
        "platform": signature.platform,
        "inputs": [_tensor_facts(spec) for spec in signature.inputs],
        "outputs": [_tensor_facts(spec) for spec in signature.outputs],
        "states": [
            {
                "name": state.name,
                "input": state.input,
                "output": state.output,
                "dtype": state.dtype,
                "shape": list(state.shape),
                "batch_axis": state.batch_axis,
                "rule": state.rule.value,
                "bytes": state_bytes(state),
                "why": why.get(state.name, "declared by the model"),
            }
            for state in signature.states
        ],
        "doubts": [
            {"input": doubt.input, "output": doubt.output, "why": doubt.why}
            for doubt in (findings.doubts if findings else ())
        ],
        "batching": {
            "shared": signature.batching,
            "why": signature.why,
            "made_dynamic": bool(findings and findings.made_dynamic),
        },
        "cost": [
            {"batch": cost.batch, "call_us": cost.call_us, "step_us": cost.step_us}
            for cost in measured or ()
        ],
    }


def _tensor_facts(spec: TensorSpec) -> dict[str, Any]:
    default = None if spec.default is None else np.asarray(spec.default).tolist()
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "batch_axis": spec.batch_axis,
        "kind": spec.kind.value,
        "control": spec.control.value if spec.control else None,
        "default": default,
        "optional": spec.optional,
    }
