"""What loading a model found out about its state, said once in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from legato.observe.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.engine.model import ModelHandle
    from legato.runtimes.base import Runtime

log = get_logger()


def tell_findings(handle: ModelHandle, runtimes: Sequence[Runtime]) -> None:
    """Tell of tensors that look like state and are not, and of state nobody has declared."""
    findings = getattr(runtimes[0], "findings", None) if runtimes else None
    doubts = getattr(findings, "doubts", ())
    if doubts and not handle.stateful:
        log.warning(
            "model_may_have_state",
            model=handle.name,
            pairs=", ".join(f"{doubt.input} <- {doubt.output}" for doubt in doubts),
            fix="name them under 'states' in model.yaml; if they are none, set 'discover: false'",
        )
    config = handle.config
    if not (config.origin and config.discover):
        return  # only a foreign repository has a word of its own about state
    why = getattr(findings, "why", {})
    for state in handle.signature.states:
        if state.name in why:
            log.info(
                "state_inferred",
                model=handle.name,
                pair=f"{state.input} <- {state.output}",
                why=why[state.name],
            )
