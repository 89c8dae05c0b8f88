"""From a config to a runtime: open, pair, probe, gate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from legato.core.errors import ConfigError
from legato.core.types import InputKind
from legato.runtimes.discovery.axes import choices, likely_axes
from legato.runtimes.discovery.findings import Findings
from legato.runtimes.discovery.plan import make_plan
from legato.runtimes.discovery.signature import make_signature
from legato.runtimes.discovery.structure import read_structure
from legato.runtimes.onnx.dynamic import variants
from legato.runtimes.onnx.files import open_session, read_graph
from legato.runtimes.onnx.probe import Probed, probe
from legato.runtimes.onnx.runtime import OnnxRuntime
from legato.runtimes.rehearsal import RehearsalError, find_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from legato.repository.config import ModelConfig
    from legato.runtimes.discovery.plan import Plan
    from legato.runtimes.discovery.structure import Structure

_PLATFORM = "onnxruntime_onnx"


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A session on the file or on a changed copy of it, and what the probe found."""

    source: Path | bytes
    session: Any
    plan: Plan
    probed: Probed | None

    @property
    def ok(self) -> bool:
        return self.probed is not None and self.probed.verdict.ok

    @property
    def ran(self) -> bool:
        return self.probed is not None and self.probed.verdict.ran


def load(config: ModelConfig) -> OnnxRuntime:
    """Load an ONNX model: find its states, its batch axes, and whether rows may share calls.

    Raises:
        ConfigError: The file cannot be read, or contradicts the config.
    """
    return _Loader(config).load()


class _Loader:
    """One load; keeps what the steps of it share."""

    def __init__(self, config: ModelConfig) -> None:
        if config.file is None:
            raise ConfigError(
                f"model '{config.name}' has no model file",
                file=str(config.folder),
                key="file",
                fix="name the .onnx or .ort file",
            )
        self.config = config
        self.path: Path = config.file
        self.file = str(config.file)
        if not self.path.is_file():
            raise ConfigError("there is no such file", file=self.file, key="file")
        self.structure: Structure | None = None
        self.hints: dict[str, int] = {}

    def load(self) -> OnnxRuntime:
        session = open_session(self.path, threads=self.config.threads, file=self.file)
        self.structure = read_structure(self.path)
        graph = read_graph(session, self.file)
        plan = make_plan(self.config, self.file, graph, self.structure)
        given = _Candidate(self.path, session, plan, None)
        if self.structure is not None:
            axes = ((t.name, self.structure.recurrent_axis(t)) for t in given.plan.graph.inputs)
            self.hints = {name: axis for name, axis in axes if axis is not None}
        off = self.config.batching == "off"
        given = self._probed(given, compare=self.config.gate and not off)
        if off:
            return self._alone(given, "batching is switched off in the config", None)
        if given.ok:
            return self._together(given)
        changed = self._made_dynamic(given.plan) if self._is_fixed(given.plan) else None
        if changed is not None and changed.ok:
            return self._together(changed, made_dynamic=True)
        if self.config.batching == "force":
            return self._forced(changed if changed is not None and changed.ran else given)
        return self._alone(given, self._reason(given, changed), changed)

    def _probed(self, candidate: _Candidate, *, compare: bool) -> _Candidate:
        found = probe(candidate.session, candidate.plan, self.hints, compare=compare)
        return replace(candidate, probed=found)

    def _is_fixed(self, plan: Plan) -> bool:
        """Tell whether some input has no axis that the file leaves open for the batch."""
        return next(choices(plan, self.hints), None) is None

    def _made_dynamic(self, plan: Plan) -> _Candidate | None:
        """Try changed copies of the file; only one that the gate proves will do."""
        if self.structure is None or not (self.config.gate or self.config.batching == "force"):
            return None
        best: _Candidate | None = None
        for data in variants(self.structure.model):
            try:
                session = open_session(data, threads=self.config.threads, file=self.file)
            except ConfigError:
                continue  # the changed graph is not even consistent
            loosened = replace(plan, graph=read_graph(session, self.file))
            tried = self._probed(_Candidate(data, session, loosened, None), compare=True)
            # Sizes that are not the batch stay as the file has them.
            tried = replace(tried, plan=plan)
            if tried.ok:
                return tried
            if best is None or (tried.ran and not best.ran):
                best = tried
        return best

    # -- verdicts -----------------------------------------------------------------------

    def _together(self, found: _Candidate, *, made_dynamic: bool = False) -> OnnxRuntime:
        assert found.probed is not None  # noqa: S101 - ``ok`` says so
        why = found.probed.verdict.why
        if made_dynamic:
            why = f"the file fixes the batch at 1, made dynamic in memory: {why}"
        return self._runtime(found, dict(found.probed.axes), batching=True, why=why)

    def _forced(self, given: _Candidate) -> OnnxRuntime:
        """Believe the config: rows share calls whatever the gate says."""
        if given.probed is None:
            raise ConfigError(
                "batching cannot be forced: the file fixes the batch at 1",
                file=self.file,
                key="batching",
                fix="remove 'batching: force', or export the model with a dynamic batch",
            )
        axes = {**likely_axes(given.plan, self.hints), **given.probed.axes}
        why = f"forced by the config, although {given.probed.verdict.why}"
        return self._runtime(given, axes, batching=True, why=why)

    def _alone(self, given: _Candidate, why: str, changed: _Candidate | None) -> OnnxRuntime:
        axes = likely_axes(given.plan, self.hints)
        tried = given.probed
        if tried is not None and tried.verdict.ran:
            axes = dict(tried.axes)  # right axes, wrong numbers
        runtime = self._runtime(given, axes, batching=False, why=why)
        if changed is not None and changed.probed is not None and tried is None:
            findings = replace(runtime.findings, verdict=changed.probed.verdict)
            runtime.findings = findings
        return runtime

    def _reason(self, given: _Candidate, changed: _Candidate | None) -> str:
        if given.probed is not None:
            return given.probed.verdict.why
        if changed is not None and changed.probed is not None:
            return (
                "the file fixes the batch at 1, and loosened in memory "
                f"{changed.probed.verdict.why}"
            )
        if self.structure is None:
            return "the file fixes the batch at 1, and only .onnx files can be loosened"
        if not self.config.gate:
            return "the file fixes the batch at 1, and the gate that could prove more is off"
        return "some input has no axis that could hold several rows"

    def _runtime(
        self, found: _Candidate, axes: dict[str, int | None], *, batching: bool, why: str
    ) -> OnnxRuntime:
        plan = found.plan
        made = make_signature(plan, axes, batching=batching, why=why)
        signature = replace(made, platform=_PLATFORM)
        unbatched = frozenset(
            c.name
            for c in plan.carried
            if c.config.rule != "window" and axes.get(c.config.input) is None
        )
        findings = Findings(
            why={c.name: c.why for c in plan.carried},
            doubts=plan.doubts,
            verdict=found.probed.verdict if found.probed else None,
            made_dynamic=not isinstance(found.source, type(self.path)),
            notes=_notes(plan),
        )
        runtime = OnnxRuntime(
            found.session,
            signature,
            unbatched=unbatched,
            findings=findings,
            reopen=_reopener(found.source, self.config.threads, self.file),
        )
        runtime.findings = replace(findings, size=_runs_at(runtime, found.probed))
        return runtime


def _reopener(source: Path | bytes, threads: int, file: str) -> Callable[[], Any]:
    return lambda: open_session(source, threads=threads, file=file)


def _runs_at(runtime: OnnxRuntime, probed: Probed | None) -> int | None:
    if probed is not None and probed.size is not None:
        return probed.size
    try:
        return find_size(runtime)
    except RehearsalError:
        return None


def _notes(plan: Plan) -> tuple[str, ...]:
    notes = [
        f"output {dropped} is not a tensor and is not served" for dropped in plan.graph.dropped
    ]
    notes += [
        f"'{name}' is one value for all rows of a call; steps with other values are run apart"
        for name, kind in plan.kinds.items()
        if kind is InputKind.SCALAR
    ]
    return tuple(notes)
