"""``/``: one small page that says what is served."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from legato import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.engine.engine import Engine
    from legato.engine.model import ModelHandle

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Legato: {state}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 3rem auto; padding: 0 1rem;
       color: #222; background: #fff; }}
h1 {{ font-weight: 500; }} h1 small {{ color: #666; font-size: 1rem; font-weight: normal; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #ddd; }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
@media (prefers-color-scheme: dark) {{ body {{ color: #ddd; background: #1b1b1b; }}
  th, td {{ border-color: #444; }} a {{ color: #8ab4f8; }} }}
</style>
<h1>Legato <small>{version}, {state}</small></h1>
<table>
<tr><th>model<th>version<th>runtime<th class="n">states<th class="n">state a sequence
<th>batched<th class="n">live sequences<th class="n">steps</tr>
{rows}
</table>
<p>Store: {store}. {crashes}</p>
<p><a href="/health">health</a> &middot; <a href="/metrics">metrics</a> &middot;
<a href="/v2">server metadata</a></p>
"""


def state_bytes(model: ModelHandle) -> int | None:
    """Return the bytes of state of one sequence; ``None`` if they vary."""
    total = 0
    for spec in model.signature.states:
        size = _ITEM_BYTES.get(spec.dtype)
        if size is None or any(axis < 0 for axis in spec.shape):
            return None
        for axis in spec.shape:
            size *= axis
        total += size
    return total


_ITEM_BYTES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4,
    "uint32": 4, "float32": 4, "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip


def render(engine: Engine, health: Mapping[str, Any]) -> str:
    """Return the page; ``health`` is what ``/health`` tells."""
    state = "draining" if engine.draining else "ready" if health["ready"] else "not ready"
    return _PAGE.format(
        state=state,
        version=html.escape(__version__),
        store=html.escape(_store(health["store"])),
        crashes=html.escape(_crashes(health)),
        rows="\n".join(_row(engine, model) for model in engine.models()),
    )


def _store(store: Mapping[str, Any]) -> str:
    text = f"{store['kind']}, level {store['level']}"
    if store["folder"]:
        text += f", in {store['folder']}"
    if store["problem"]:
        text += f"; {'problem' if store['writable'] else 'CANNOT WRITE'}: {store['problem']}"
    return text


def _crashes(health: Mapping[str, Any]) -> str:
    if not health["restarts"]:
        return ""
    text = f"Started again {health['restarts']} times; last time, {health['died']}. "
    if health["quarantined"]:
        text += f"Quarantined steps: {len(health['quarantined'])}. "
    return text


def _row(engine: Engine, model: ModelHandle) -> str:
    size = state_bytes(model)
    statistics = model.statistics
    cells = (
        ("", model.name),
        ("", model.version),
        ("", model.config.runtime),
        ("n", str(len(model.signature.states))),
        ("n", "varies" if size is None else f"{size:,} B"),
        ("", "yes" if model.signature.batching else "no"),
        ("n", f"{engine.store.live(model.name):,}"),
        ("n", f"{statistics.applied:,}"),
    )
    return "<tr>" + "".join(f'<td class="{c}">{html.escape(text)}' for c, text in cells) + "</tr>"
