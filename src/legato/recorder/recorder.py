"""Records the steps of sequences: of whole models by their config, of single ones on request.

It watches what the engine commits. On the event loop it only takes references and copies
inputs; digests, encoding and the disk are the writer's. A step is never slowed, refused or
failed by its recording: where the writer cannot follow, the recording says how much it lost
and begins anew from the state at hand.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from xxhash import xxh3_128_hexdigest

from legato.archive.sequence import Archive, pack, tensors_of
from legato.core.errors import ClientError, ConfigError, UnknownModelError
from legato.core.ids import id_to_text
from legato.core.types import RecordHead, SequenceKey, StateRow
from legato.engine.arena import encode_strings
from legato.recorder.frames import BEGIN, LOST, STEP, digests, encode
from legato.recorder.writer import Job, Writer
from legato.stores.base import Duplicate, Ok

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.core.types import Array
    from legato.engine.batch import RowResult
    from legato.engine.engine import Engine
    from legato.engine.model import ModelHandle
    from legato.engine.work import Work
    from legato.stores.base import Commit, CommitResult

FOLDER = "recordings"
MOST_TRACKS = 100_000
_LONGEST_NAME = 120


@dataclass(slots=True)
class Track:
    """How the recording of one incarnation goes.

    Attributes:
        incarnation: Which one.
        file: Where.
        begun: The file holds the state that the next step starts from.
        step: Last step written or lost.
        steps: Steps given to the writer.
        lost: Steps that were not recorded.
        lost_since: Of them, those that the file does not tell of yet.
        problem: Why it stopped, "" = it goes on.
    """

    incarnation: bytes
    file: Path
    begun: bool = False
    step: int = 0
    steps: int = 0
    lost: int = 0
    lost_since: int = 0
    problem: str = ""


class Taken(NamedTuple):
    """A committed step, as the writer gets it."""

    number: int
    at: float
    rows: int
    request_id: str
    end: bool
    parameters: dict[str, Any]
    inputs: tuple[tuple[str, Array], ...]
    row: RowResult


class Recorder:
    """Watches an engine.

    Args:
        engine: Whose steps.
        folder: Data folder; ``None`` = nothing can be recorded.
        wall: Wall-clock seconds.
        writer: Where frames go.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path | None,
        *,
        wall: Callable[[], float] = time.time,
        writer: Writer | None = None,
    ) -> None:
        self.engine = engine
        self.folder = folder
        self.writer = writer or Writer()
        self._wall = wall
        self._wanted: set[SequenceKey] = set()
        self._tracks: OrderedDict[SequenceKey, Track] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Recorder tracks={len(self._tracks)}>"

    def watch_models(self) -> None:
        """Begin to watch if a loaded model asks for it.

        Raises:
            ConfigError: One does, and there is nowhere to write.
        """
        asking = [handle for handle in self.engine.models() if handle.config.record]
        if asking and self.folder is None:
            raise ConfigError(
                f"model '{asking[0].name}' asks for its steps to be recorded, but the server has "
                "no data folder",
                key="record",
                fix="start it with --data DIR",
            )
        if asking:
            self._watch()

    def start(self, key: SequenceKey) -> None:
        """Record a sequence from its next step on.

        Raises:
            ClientError: There is nowhere to write.
        """
        if self.folder is None:
            raise ClientError("nothing can be recorded: the server was started without --data DIR")
        self._wanted.add(key)
        track = self._tracks.get(key)
        if track is not None:
            track.problem, track.begun = "", False
        self._watch()

    def stop(self, key: SequenceKey) -> None:
        """Record a sequence no more, unless its model is recorded as a whole."""
        self._wanted.discard(key)
        track = self._tracks.get(key)
        if track is not None and not self._model_is_recorded(key.model):
            track.begun = False

    def wants(self, key: SequenceKey) -> bool:
        """Whether the steps of a sequence are recorded."""
        return key in self._wanted or self._model_is_recorded(key.model)

    def track(self, key: SequenceKey) -> Track | None:
        """How the recording of a sequence goes; ``None`` before its first step."""
        return self._tracks.get(key)

    def shown(self, file: Path) -> str:
        """A file as people name it: from the data folder on."""
        return str(file) if self.folder is None else str(file.relative_to(self.folder))

    def close(self) -> None:
        """Write what is left."""
        if self.observe in self.engine.commits.observers:
            self.engine.commits.observers.remove(self.observe)
        self.writer.close()

    # -- watching -----------------------------------------------------------------------

    def observe(
        self,
        handle: ModelHandle,
        done: list[tuple[Work, RowResult]],
        batch: list[Commit],
        results: list[CommitResult],
    ) -> None:
        """Take what was committed; the engine calls this for every batch."""
        whole = bool(handle.config.record)
        if not whole and not self._wanted:
            return
        for (work, row), entry, result in zip(done, batch, results, strict=True):
            if (whole or entry.key in self._wanted) and isinstance(result, Ok | Duplicate):
                self._take(handle, work, row, entry, len(done))

    def _take(
        self, handle: ModelHandle, work: Work, row: RowResult, entry: Commit, rows: int
    ) -> None:
        track = self._track_of(entry)
        if track.problem:
            track.lost += 1
        else:
            if not track.begun or entry.step != track.step + 1:
                track.begun = self._begin(handle, work, entry, track)
            if not (track.begun and self._step(handle, work, row, rows, track)):
                track.lost += 1
                track.lost_since += 1
                track.begun = False
        track.step = entry.step
        if entry.end is not None:
            self._tracks.pop(entry.key, None)
            self._wanted.discard(entry.key)

    def _track_of(self, entry: Commit) -> Track:
        track = self._tracks.get(entry.key)
        if track is None or track.incarnation != entry.incarnation:
            file = self.file_of(entry.key, entry.incarnation)
            track = self._tracks[entry.key] = Track(entry.incarnation, file)
            if len(self._tracks) > MOST_TRACKS:
                self._tracks.popitem(last=False)  # it begins anew with its next step
        return track

    def file_of(self, key: SequenceKey, incarnation: bytes) -> Path:
        """Where an incarnation is recorded."""
        model = quote(key.model, safe="").replace(".", "%2E")
        name = id_to_text(key.correlation_id).replace(":", "-", 1)
        parts = [
            part if len(part) <= _LONGEST_NAME else "h-" + xxh3_128_hexdigest(part.encode())
            for part in (model, name)
        ]
        folder = self.folder or Path()
        return folder / FOLDER / parts[0] / f"{parts[1]}-{incarnation.hex()}.rec"

    def _begin(self, handle: ModelHandle, work: Work, entry: Commit, track: Track) -> bool:
        """Begin with the state before the step; also after a loss, which is told first."""
        head = RecordHead(
            entry.incarnation, 0, entry.step - 1, (), entry.version, entry.model_digest,
            entry.dialect, self._wall(), entry.ttl_s, entry.level,
        )  # fmt: skip
        make = partial(
            _encode_begin, handle, entry.key, head, work.state, track.lost_since, self._wall()
        )
        if not self.writer.put(self._job(handle, track, make, work.state.nbytes)):
            return False
        track.lost_since = 0
        return True

    def _step(
        self, handle: ModelHandle, work: Work, row: RowResult, rows: int, track: Track
    ) -> bool:
        step = work.step
        inputs = tuple((name, value.copy()) for name, value in step.inputs.items())
        taken = Taken(
            work.number, self._wall(), rows, step.request_id, step.end, dict(step.parameters),
            inputs, row,
        )  # fmt: skip
        held = sum(value.nbytes for _name, value in inputs) + sum(map(len, row.data))
        job = self._job(handle, track, partial(_encode_step, taken), held + row.state.nbytes)
        if not self.writer.put(job):
            return False
        track.steps += 1
        return True

    def _job(
        self, handle: ModelHandle, track: Track, make: Callable[[], list[bytes]], nbytes: int
    ) -> Job:
        def failed(problem: str) -> None:
            track.problem = problem

        return Job(track.file, make, nbytes + 512, failed, handle.config.recording.max_bytes)

    def _watch(self) -> None:
        if self.observe not in self.engine.commits.observers:
            self.engine.commits.observers.append(self.observe)

    def _model_is_recorded(self, name: str) -> bool:
        try:
            return bool(self.engine.model(name).config.record)
        except UnknownModelError:
            return False


# -- in the writer's thread -----------------------------------------------------------------


def _encode_begin(
    handle: ModelHandle,
    key: SequenceKey,
    head: RecordHead,
    state: StateRow,
    lost: int,
    at: float,
) -> list[bytes]:
    config = handle.config
    archive = Archive(key, head, tensors_of(state, handle.signature.states))
    facts = {
        "step": head.step,
        "at": at,
        "model": handle.name,
        "version": handle.version,
        "digest": handle.digest,
        "folder": str(config.folder),
        "file": str(config.file) if config.file else "",
    }
    told = encode(LOST, {"lost": lost, "before": head.step + 1}) if lost else []
    return [*told, *encode(BEGIN, facts, [pack(archive)])]


def _encode_step(taken: Taken) -> list[bytes]:
    inputs, blobs = [], []
    for name, value in taken.inputs:
        inputs.append([name, "object" if value.dtype.hasobject else value.dtype.name, value.shape])
        blobs.append(encode_strings(value) if value.dtype.hasobject else value.tobytes())
    facts = {
        "step": taken.number,
        "at": taken.at,
        "rows": taken.rows,
        "request_id": taken.request_id,
        "end": taken.end,
        "parameters": taken.parameters,
        "inputs": inputs,
        "outputs": [[header.name, header.dtype, header.shape] for header in taken.row.headers],
        "states": digests(taken.row.state),
    }
    return encode(STEP, facts, [*blobs, *taken.row.data])
