"""Runs a recording again, offline, and compares bit for bit.

The same code as in the server gathers, runs, checks and splits; only the batch is always
of one row. A model whose rows differ in the last bit by the size of their batch therefore
shows a difference that is none of the state's: the report tells the batch that was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from legato.archive.sequence import unpack
from legato.core.errors import ConfigError, ServerError
from legato.core.types import OutputHeader
from legato.engine.batch import BatchRow, Unfinished
from legato.engine.model import ModelHandle
from legato.recorder.frames import BEGIN, LOST, STEP, Frame, RecordingError, digests, read
from legato.repository.digest import content_digest
from legato.repository.loader import load_paths
from legato.runtimes import registry
from legato.runtimes.base import RowInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from legato.core.types import Array, SequenceKey, StateRow
    from legato.engine.batch import RowResult
    from legato.repository.config import ModelConfig

MANIFEST = "model.yaml"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that came out differently.

    Attributes:
        step: Step number.
        what: ``output``, ``state``, ``error`` or ``layout``.
        tensor: Name of the output or state.
        index: Place of the first element that differs, for an output.
        recorded, replayed: The values there, or what was said instead.
        differing: Elements that differ, and
        elements: of how many.
        rows: Rows of the batch in which the step was run when it was recorded.
    """

    step: int
    what: str
    tensor: str
    index: tuple[int, ...] = ()
    recorded: str = ""
    replayed: str = ""
    differing: int = 0
    elements: int = 0
    rows: int = 1


@dataclass(slots=True)
class Outcome:
    """What a replay found.

    Attributes:
        steps: Steps run again and found equal.
        key: The sequence.
        recorded_digest, digest: Content of the model then and now.
        first, last: Numbers of the first and last step that were equal.
        missing: Ranges of steps that the file does not hold, as text.
        torn: Bytes at the end that are no whole frame.
        difference: The first one, if any; nothing behind it was run.
    """

    steps: int = 0
    key: SequenceKey | None = None
    recorded_digest: str = ""
    digest: str = ""
    first: int = 0
    last: int = 0
    missing: list[str] = field(default_factory=list)
    torn: int = 0
    difference: Difference | None = None


class Replay:
    """One recording and the model that runs it again.

    Args:
        file: The recording.
        model: Where the model is; ``None`` = where it was when it was recorded.
    """

    def __init__(self, file: Path, model: Path | None = None) -> None:
        self.file = file
        self.outcome = Outcome()
        self._model = model
        self._handle: ModelHandle | None = None
        self._state: StateRow | None = None
        self._states: list[str] = []
        self._step = 0

    def __repr__(self) -> str:
        return f"<Replay {self.file} steps={self.outcome.steps}>"

    def run(self, progress: Callable[[int], None] = lambda _bytes: None) -> Outcome:
        """Run to the end, or to the first difference.

        Args:
            progress: Told after each frame how many bytes of the file are done.

        Raises:
            RecordingError: The file is no recording, or holds no step.
            ConfigError: The model cannot be loaded.
        """
        outcome, end = self.outcome, 0
        try:
            for frame in self._frames():
                end = frame.end
                if frame.kind == BEGIN:
                    self._begin(frame)
                elif frame.kind == STEP:
                    outcome.difference = self._compare(frame)
                    if outcome.difference is not None:
                        return outcome
                elif frame.kind != LOST:
                    raise RecordingError(f"the file has a frame of kind {frame.kind}")
                progress(frame.end)
            outcome.torn = self.file.stat().st_size - end
        finally:
            if self._handle is not None:
                for instance in self._handle.instances:
                    instance.close()
        if self._handle is None:
            raise RecordingError("the recording holds nothing that could be run")
        return outcome

    def _frames(self) -> Iterator[Frame]:
        try:
            with self.file.open("rb") as stream:
                yield from read(stream)
        except OSError as error:
            raise RecordingError(f"{self.file} cannot be read: {error.strerror}") from None

    # -- beginning ------------------------------------------------------------------------

    def _begin(self, frame: Frame) -> None:
        """Take the state that the next steps start from."""
        facts = frame.facts
        archive = unpack(frame.blobs[0])
        if self._handle is None:
            self._handle = self._load(facts)
            self.outcome.key = archive.key
            self.outcome.recorded_digest = facts["digest"]
            self.outcome.digest = self._handle.digest
        elif facts["step"] > self._step:
            self.outcome.missing.append(_range(self._step + 1, facts["step"]))
        state = archive.fit(self._handle.signature.states)
        if not self._handle.batcher.states.fits(state):
            raise RecordingError("the recorded state has other shapes than the model declares")
        self._state, self._step = state, facts["step"]

    def _load(self, facts: dict[str, Any]) -> ModelHandle:
        path = self._model or _home(facts)
        if not path.exists():
            raise ConfigError(
                f"the model '{facts['model']}' is not where it was recorded",
                file=str(path),
                fix="name it with --model PATH",
            )
        config = _choose(load_paths([path]), facts)
        return ModelHandle(config, [registry.build(config)], content_digest(config))

    # -- comparing ---------------------------------------------------------------------------

    def _compare(self, frame: Frame) -> Difference | None:
        """Run one step; ``None`` if it came out as it was recorded."""
        facts = frame.facts
        handle, state = self._handle, self._state
        if handle is None or state is None or self.outcome.key is None:
            raise RecordingError("the recording does not begin with a state")
        number: int = facts["step"]
        if number != self._step + 1:
            raise RecordingError(f"step {number} follows step {self._step} in the file")
        count = len(facts["inputs"])
        inputs = {
            name: _array(blob, dtype, shape)
            for (name, dtype, shape), blob in zip(facts["inputs"], frame.blobs[:count], strict=True)
        }
        info = RowInfo(
            self.outcome.key.correlation_id, number, number == 1, facts["end"], facts["parameters"]
        )
        rows = handle.batcher.run(handle.instances[0].runtime, [BatchRow(inputs, state, info)]).rows
        result = rows[0]
        if isinstance(result, Unfinished):
            raise RecordingError("a model that answers after its call keeps no state to replay")
        if isinstance(result, ServerError):
            return Difference(
                number, "error", "", recorded="the step was applied", replayed=str(result),
                rows=facts["rows"],
            )  # fmt: skip
        recorded = [OutputHeader(n, d, tuple(s)) for n, d, s in facts["outputs"]]
        found = _outputs(number, facts["rows"], recorded, frame.blobs[count:], result)
        found = found or self._states_of(number, facts, result)
        if found is None:
            self.outcome.steps += 1
            self.outcome.first = self.outcome.first or number
            self.outcome.last = self._step = number
            self._state = result.state
        return found

    def _states_of(
        self, number: int, facts: dict[str, Any], result: RowResult
    ) -> Difference | None:
        specs = self._handle.signature.states if self._handle else ()
        for spec, was, now in zip(specs, facts["states"], digests(result.state), strict=True):
            if was != now:
                return Difference(
                    number, "state", spec.name, recorded=was, replayed=now, rows=facts["rows"]
                )
        return None


def _outputs(
    number: int, rows: int, recorded: list[OutputHeader], blobs: list[bytes], result: RowResult
) -> Difference | None:
    """The first difference among the outputs."""
    if recorded != list(result.headers):
        return Difference(
            number, "layout", "", recorded=_layout(recorded), replayed=_layout(result.headers),
            rows=rows,
        )  # fmt: skip
    for header, was, now in zip(recorded, blobs, result.data, strict=True):
        if was != now:
            return _element(number, rows, header, was, now)
    return None


def _element(number: int, rows: int, header: OutputHeader, was: bytes, now: bytes) -> Difference:
    one, other = (_array(blob, header.dtype, header.shape).ravel() for blob in (was, now))
    if one.dtype.hasobject:
        unequal = np.flatnonzero(one != other)
    else:  # by their bits: NaN equals itself here, and 0.0 is not -0.0
        size = one.itemsize
        bits = (np.frombuffer(blob, np.uint8).reshape(-1, size) for blob in (was, now))
        unequal = np.flatnonzero((next(bits) != next(bits)).any(axis=1))
    at = int(unequal[0])
    index = tuple(int(n) for n in np.unravel_index(at, header.shape)) if header.shape else ()
    return Difference(
        number, "output", header.name, index, _show(one[at]), _show(other[at]), len(unequal),
        len(one), rows,
    )  # fmt: skip


def _show(value: Any) -> str:
    """A value so that two different ones look different."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _layout(headers: Any) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, dtype, shape in headers)


def _array(blob: bytes, dtype: str, shape: Any) -> Array:
    if dtype != "object":
        return np.frombuffer(blob, np.dtype(dtype)).reshape(shape)
    values, at = [], 0
    while at < len(blob):
        size = int.from_bytes(blob[at : at + 4], "little")
        values.append(blob[at + 4 : at + 4 + size])
        at += 4 + size
    made = np.empty(math.prod(shape), object)
    made[:] = values
    return made.reshape(shape)


def _range(first: int, last: int) -> str:
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _home(facts: dict[str, Any]) -> Path:
    folder = Path(facts["folder"])
    if (folder / MANIFEST).is_file() or not facts["file"]:
        return folder
    return Path(facts["file"])


def _choose(configs: list[ModelConfig], facts: dict[str, Any]) -> ModelConfig:
    """The model of the same name, the version of the same name; else what there is."""

    def likeness(config: ModelConfig) -> tuple[bool, bool]:
        return config.name == facts["model"], config.version == facts["version"]

    if not configs:
        raise ConfigError("no model is there", fix="name one with --model PATH")
    return max(configs, key=likeness)
