"""How sequences look on a terminal: tables with human units."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from legato.core.ids import id_from_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from legato.recorder.replay import Difference, Outcome

_FEW = 6


def console() -> Console:
    """The terminal, or plain text where there is none."""
    return Console(highlight=False, soft_wrap=True)


def seconds(value: float | None) -> str:
    """A duration as people say it: ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 10 min``, ``4 d``."""
    if value is None:
        return "-"
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(value: int | None) -> str:
    """Bytes as people say them, in powers of 1024."""
    if value is None:
        return "-"
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return "-"


def shown_id(typed: str) -> str:
    """An id as people type it: with its kind only where that is needed."""
    correlation_id = id_from_text(typed)
    text = str(correlation_id)
    try:
        plain = text.isprintable() and id_from_text(text) == correlation_id
        same_kind = plain and type(id_from_text(text)) is type(correlation_id)
    except ValueError:
        same_kind = False
    return text if same_kind else typed


def sequences(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A listing."""
    table = _table("model", "id", "step>", "age>", "idle>", "state>", "dialect", "where")
    for row in rows:
        where = "resident" if row.get("resident") else "parked"
        table.add_row(
            row["model"], shown_id(row["id"]), str(row["step"]), seconds(row["age_s"]),
            seconds(row.get("idle_s")), size(row.get("state_bytes")), row["dialect"],
            where + (", recorded" if row.get("recording") else ""),
        )  # fmt: skip
    return table


def snapshots(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Snapshots."""
    table = _table("sequence", "snapshot", "step>", "state>", "kept")
    for row in rows:
        kept = f"for {seconds(row['ttl_s'])}" if row["ttl_s"] else "until deleted"
        table.add_row(
            shown_id(row["id"]), row["name"], str(row["step"]), size(row["state_bytes"]), kept
        )
    return table


def description(answer: Mapping[str, Any]) -> Table:
    """One sequence, a line a fact."""
    row = answer["sequence"]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    facts = [
        ("sequence", f"{row['model']} / {shown_id(row['id'])}"),
        ("status", _status(row)),
        ("step", str(row["step"])),
        ("age", seconds(row["age_s"])),
        ("idle", _idle(row)),
        ("state", _state(row, answer.get("states", []))),
        ("opened by", row["dialect"]),
        ("version", f"{row['version']} (content {row['model_digest']})"),
        ("incarnation", row["incarnation"]),
    ]
    if row["level"]:
        facts.append(("durability", row["level"]))
    facts += [
        ("snapshot", f"{frozen['name']} of step {frozen['step']}")
        for frozen in answer.get("snapshots", [])
    ]
    if answer.get("recording"):
        facts.append(("recording", recording(answer["recording"])))
    for name, value in facts:
        table.add_row(name, value)
    return table


def recording(row: Mapping[str, Any]) -> str:
    """One line about a recording."""
    if not row.get("file"):
        return "begins with the next step" if row["on"] else "off"
    text = f"{row['file']}, {row['steps']} steps"
    if row["lost"]:
        text += f", {row['lost']} lost"
    if row["problem"]:
        return f"{text}; stopped: {row['problem']}"
    return text if row["on"] else f"{text}; off"


def tensors(answer: Mapping[str, Any]) -> Table:
    """State tensors in short: their range and first values."""
    table = _table("state", "dtype", "shape", "min>", "max>", "mean>", "first values")
    for tensor in answer["tensors"]:
        values = np.frombuffer(base64.b64decode(tensor["data"]), np.dtype(tensor["dtype"]))
        numbers = values.astype(float)
        summary = (
            [f"{f(numbers):.6g}" for f in (np.min, np.max, np.mean)] if len(values) else ["-"] * 3
        )
        first = " ".join(f"{value:.6g}" for value in numbers[:_FEW].tolist())
        more = " ..." if len(values) > _FEW else ""
        table.add_row(tensor["name"], tensor["dtype"], str(tensor["shape"]), *summary, first + more)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        right = column.endswith(">")
        table.add_column(
            column.removesuffix(">"), justify="right" if right else "left", no_wrap=True
        )
    return table


def _status(row: Mapping[str, Any]) -> str:
    if row["status"] == "live":
        waiting = row.get("waiting") or 0
        return "live" + (f", {waiting} steps wait" if waiting else "")
    return f"{row['status'].replace('_', ' ')} {seconds(row.get('ended_ago_s'))} ago"


def _idle(row: Mapping[str, Any]) -> str:
    if row.get("idle_s") is None:
        return "-"
    text = seconds(row["idle_s"])
    if row["ttl_s"]:
        return f"{text}, ends in {seconds(max(0.0, row['ttl_s'] - row['idle_s']))}"
    return text


def _state(row: Mapping[str, Any], states: Iterable[Mapping[str, Any]]) -> str:
    if row.get("state_bytes") is None:
        return "-"
    where = "resident" if row.get("resident") else "parked"
    parts = ", ".join(f"{s['name']} {s['dtype']}{s['shape']}" for s in states)
    return f"{size(row['state_bytes'])}, {where}" + (f": {parts}" if parts else "")


# -- replay ----------------------------------------------------------------------------


def replay_facts(outcome: Outcome) -> dict[str, Any]:
    """What a replay found, for programs."""
    difference = outcome.difference
    return {
        "equal": difference is None,
        "steps": outcome.steps,
        "first": outcome.first,
        "last": outcome.last,
        "missing": outcome.missing,
        "torn_bytes": outcome.torn,
        "recorded_digest": outcome.recorded_digest,
        "digest": outcome.digest,
        "difference": None if difference is None else asdict(difference),
    }


def replay(outcome: Outcome) -> str:
    """What a replay found, for people."""
    lines = []
    if outcome.digest != outcome.recorded_digest:
        lines.append(
            f"the model is another one: content {outcome.digest} now, "
            f"{outcome.recorded_digest} when it was recorded"
        )
    lines += [f"not in the recording: {missing}" for missing in outcome.missing]
    if outcome.torn:
        lines.append(f"the last {outcome.torn} bytes of the file are no whole step")
    lines.append(f"{outcome.steps} steps equal")
    if outcome.difference is not None:
        lines.append(_difference(outcome.difference))
    return "\n".join(lines)


def _difference(found: Difference) -> str:
    batch = f" (recorded in a batch of {found.rows})" if found.rows > 1 else ""
    what = {
        "output": f"output '{found.tensor}' at {list(found.index)}",
        "state": f"the digest of state '{found.tensor}'",
        "error": "the step",
        "layout": "the outputs",
    }[found.what]
    count = f"; {found.differing} of {found.elements} values differ" if found.elements else ""
    return (
        f"step {found.step} differs{batch}: {what} was {found.recorded}, is {found.replayed}{count}"
    )
