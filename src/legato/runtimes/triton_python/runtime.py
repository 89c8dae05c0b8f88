"""Runs a ``TritonPythonModel`` behind the runtime contract: requests in, responses out."""

from __future__ import annotations

import asyncio
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from legato.core.errors import ConfigError, ModelError, ServerError
from legato.core.types import ControlKind, EndReason
from legato.runtimes.base import AGAIN, StepResult
from legato.runtimes.triton_python import loading, metrics, others
from legato.runtimes.triton_python.exchange import error_of, outputs_of, stack, to_part, to_parts
from legato.runtimes.triton_python.memory import AUTO, BY_ID, IN_MEMORY, Memory
from legato.runtimes.triton_python.requests import InferenceRequest, InferenceResponse, Line
from legato.runtimes.triton_python.signature import STATE, signature_of
from legato.runtimes.triton_python.tensors import Tensor
from legato.runtimes.worker.messages import Held, StatesWantedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from legato.core.types import Array, CorrelationId
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import Answer, RowInfo, StepBatch

OPTION: Final = "state"
"""Option that says where a model keeps the state of its sequences; in ``parameters`` of a
``config.pbtxt`` it is ``legato.options.state``."""
_START, _END = 1, 2


def load(config: ModelConfig) -> TritonPythonRuntime:
    """Load a ``model.py`` into this process, which is changed for it.

    Raises:
        ConfigError: It cannot be found or loaded, or its configuration does not fit.
    """
    kind = loading.class_of(loading.load_module(config), config)
    model_config = loading.completed(kind, config)
    model = loading.initialised(kind, config, model_config)
    return TritonPythonRuntime(config, model_config, model)


class TritonPythonRuntime:
    """One model. What it keeps under a sequence's id, or in its slot, is that sequence's state."""

    def __init__(self, config: ModelConfig, model_config: dict[str, Any], model: Any) -> None:
        self.signature = signature_of(config, model_config)
        self._config = config
        self._model = model
        self._decoupled = self.signature.decoupled
        self._batching = model_config.get("sequence_batching", {})
        self._iterative = bool(self._batching.get("iterative_sequence", False))
        self._outputs = {spec.name: spec.dtype for spec in self.signature.outputs}
        self._ready = {
            spec.name: spec.control_values[0]
            for spec in self.signature.inputs
            if spec.control is not None
        }
        self._memory = (
            self._make_memory(model_config["max_batch_size"]) if self.signature.states else None
        )

    def __repr__(self) -> str:
        return f"<TritonPythonRuntime {self._config.name} {self._memory}>"

    def _make_memory(self, max_batch_size: int) -> Memory:
        said = self._config.options.get(OPTION, AUTO)
        if said not in (AUTO, BY_ID, IN_MEMORY):
            raise ConfigError(
                f"is '{said}'", file=str(self._config.folder), key=f"options.{OPTION}",
                fix=f"use '{AUTO}', '{BY_ID}' or '{IN_MEMORY}'",
            )  # fmt: skip
        kind = type(self._model)
        return Memory(
            {"model": self._model, "class": kind, "module": sys.modules[kind.__module__]},
            loading.own_classes(self._config),
            slots=0 if "oldest" in self._batching else max(1, max_batch_size),
            fills_holes=any(spec.control is ControlKind.READY for spec in self.signature.inputs),
            mode=said,
        )

    # -- a step -------------------------------------------------------------------------

    def step(self, batch: StepBatch) -> StepResult:
        """Call the model; see :class:`legato.runtimes.base.Runtime`.

        Raises:
            ModelError: ``execute`` raised, with the text that Triton gives it.
            StatesWantedError: A state that this worker was said to have is gone.
        """
        call = _Call(len(batch.rows))
        memory = self._memory
        if memory is None:
            self._execute(batch, range(len(batch.rows)), call)
        else:
            everyone = range(len(batch.rows))
            alone = self._prepare(memory, batch)
            for group in [[at] for at in everyone] if alone else [everyone]:
                self._remember(memory, batch, group, call)
        return self._result(batch, call)

    @staticmethod
    def _prepare(memory: Memory, batch: StepBatch) -> bool:
        """See whether everything is there; tell whether each row must run by itself.

        Raises:
            StatesWantedError: A state that this worker was said to have is gone.
        """
        memory.look()
        states = batch.state[STATE].tolist()
        names = [row.correlation_id for row in batch.rows]
        alone = memory.assign(names, states)
        wanted = [
            at
            for at, state in enumerate(states)
            if isinstance(state, Held) and not memory.has(names[at], state.digest)
        ]
        if wanted:
            raise StatesWantedError(wanted)
        return alone

    def _remember(
        self, memory: Memory, batch: StepBatch, group: Sequence[int], call: _Call
    ) -> None:
        """Put the states of some rows in place, run them, and take their states out again."""
        group = [at for at in group if self._restored(memory, batch, at, call)]
        if not group:
            return
        names = [batch.rows[at].correlation_id for at in group]
        memory.begin(names)
        done = False
        try:
            self._execute(batch, group, call)
            done = True
        except ServerError as error:
            if len(batch.rows) == len(group):
                raise
            call.failed.update(dict.fromkeys(group, error))
        finally:
            memory.ended(names, judge=done)
            if not done:
                self._give_up(memory, batch, group)
        for at, name in zip(group, names, strict=True):
            if at in call.failed:
                self._give_up(memory, batch, [at])
                continue
            over = at not in call.again and (batch.rows[at].end or self._iterative)
            taken = memory.take(name, over=over)
            if taken.bound:
                call.bound.append(at)
            call.states[at] = taken.state

    @staticmethod
    def _restored(memory: Memory, batch: StepBatch, at: int, call: _Call) -> bool:
        state = batch.state[STATE][at]
        if isinstance(state, Held):
            return True
        try:
            memory.restore(batch.rows[at].correlation_id, state)
        except ServerError as error:
            call.failed[at] = error
        return at not in call.failed

    @staticmethod
    def _give_up(memory: Memory, batch: StepBatch, group: Sequence[int]) -> None:
        """A sequence whose first step failed does not exist."""
        for at in group:
            if batch.rows[at].start:
                memory.release(batch.rows[at].correlation_id)

    def _result(self, batch: StepBatch, call: _Call) -> StepResult:
        count = len(batch.rows)
        # Rows that failed or go on need something in their place; nobody sees it.
        any_one = next((one for one in call.responses if one is not None), None)
        responses = [
            any_one if at in call.failed or at in call.again or at in call.later else one
            for at, one in enumerate(call.responses)
        ]
        outputs = stack(responses, self._outputs)
        answers: list[Answer] | None = None
        if outputs is None:
            outputs = {}
            answers = [((), ()) if one is None else outputs_of(one) for one in responses]
        states: dict[str, Array] = {}
        if self._memory is not None:
            following = np.empty(count, object)
            following[:] = call.states
            states[STATE] = following
        return StepResult(
            outputs, states, call.failed, call.again, (), call.bound, answers, call.later
        )

    # -- a call of the model ------------------------------------------------------------

    def _execute(self, batch: StepBatch, group: Sequence[int], call: _Call) -> None:
        """Hand rows to the model and see what becomes of each.

        Raises:
            ModelError: No row is valid.
        """
        lines = {at: self._line(batch.rows[at]) for at in group}
        requests = {at: self._request(batch, at, lines[at]) for at in group}
        places = self._places(batch, group)
        if places is None:
            handed = list(requests.values())
            order = list(group)
        else:
            nobody = self._request(batch, group[0], Line(None, _never), real=False)
            last = max(places)
            order = [places.get(place, -1) for place in range(last + 1)]
            handed = [requests.get(at, nobody) for at in order]
        try:
            returned = self._model.execute(handed)
            if asyncio.iscoroutine(returned):
                returned = asyncio.run(returned)
            self._check(returned, handed, lines)
        except ModelError:
            _close(lines.values())
            raise
        except Exception as error:
            traceback.print_exc()
            _close(lines.values())
            raise ModelError(self._failure(error)) from error
        given = dict(zip(order, returned or [None] * len(order), strict=True))
        for at in group:
            self._settle(at, batch.rows[at], requests[at], lines[at], given[at], call)

    def _places(self, batch: StepBatch, group: Sequence[int]) -> dict[int, int] | None:
        """Return the row of each place, where places mean something to the model."""
        memory = self._memory
        if memory is None or not memory.by_place:
            return None
        slots = {memory.place(batch.rows[at].correlation_id): at for at in group}
        return {slot: at for slot, at in slots.items() if slot is not None}

    def _check(
        self, returned: Any, handed: Sequence[InferenceRequest], lines: dict[int, Line]
    ) -> None:
        """Refuse what no model may return.

        Raises:
            ModelError: It is none of what may be returned.
        """
        name = self._config.name
        if returned is None:
            if self._decoupled or all(line.used for line in lines.values()):
                return
            raise self._says(f"Expected a list in the execute return of model '{name}', found None")
        if self._decoupled:
            raise self._says(
                f"Python model '{name}' is using the decoupled mode and the execute function must "
                "return None."
            )
        if not isinstance(returned, list):
            kind = type(returned).__name__
            raise self._says(
                f"Expected a list in the execute return, found type '{kind}' in model '{name}'."
            )
        if len(returned) != len(handed):
            raise self._says(
                "Number of InferenceResponse objects do not match the number of InferenceRequest "
                f"objects. InferenceRequest(s) size is:{len(handed)}, and InferenceResponse(s) "
                f"size is:{len(returned)}"
            )
        for response in returned:
            if response is not None and not isinstance(response, InferenceResponse):
                raise self._says(
                    "Expected an 'InferenceResponse' object in the execute function return list, "
                    f"found type '{type(response).__name__}' in model '{name}'."
                )

    def _settle(
        self, at: int, row: RowInfo, request: InferenceRequest, line: Line, given: Any, call: _Call
    ) -> None:
        """Say what the answer to a row is, or why there is none, or that it is run again."""
        wanted = row.asked.outputs if row.asked is not None else ()
        if request.rescheduled:
            if not self._iterative:
                call.failed[at] = self._says(
                    "a request is rescheduled, but the model's sequence_batching does not have "
                    "'iterative_sequence: true'"
                )
                return
            line.close()
            call.again[at] = to_parts(line.kept, wanted)
            return
        if given is None and (self._decoupled or line.used):
            if self._later(row, line):
                call.later[at] = None
                return
            line.wait()
            given = self._last(row, line)
        elif given is None:
            call.failed[at] = self._says(
                f"Python model '{self._config.name}' gave None where a response was expected"
            )
            return
        error = None if given is None else error_of(given)
        if error is not None:
            call.failed[at] = error
        else:
            call.responses[at] = given

    def _later(self, row: RowInfo, line: Line) -> bool:
        """Have a row answered when its last response comes; false = that is there, or must be."""
        finish = None if row.asked is None else row.asked.finish
        if finish is None:
            return False
        give = finish

        def settle() -> None:
            last = self._last(row, line)
            error = None if last is None else error_of(last)
            give(error or (((), ()) if last is None else outputs_of(last)))

        return line.when_final(settle)

    def _last(self, row: RowInfo, line: Line) -> InferenceResponse | None:
        """Return the answer to a row whose last response has come; ``None`` = an empty one."""
        last = line.last
        if line.kept and last is None and row.partial is None:
            last = line.kept.pop()
        if not line.kept:
            return last
        if row.partial is not None:
            wanted = row.asked.outputs if row.asked is not None else ()
            row.partial(*to_parts(line.kept, wanted))
            return last
        return InferenceResponse(
            error=f"model '{self._config.name}' gave {len(line.kept) + (last is not None)} "
            "responses to a request that can have one only; ask it by a stream"
        )

    def _line(self, row: RowInfo) -> Line:
        partial, asked = row.partial, row.asked
        wanted = asked.outputs if asked is not None else ()
        forward = None
        if partial is not None and self._decoupled and not self._iterative:

            def forward(response: InferenceResponse) -> None:
                partial(*to_part(response, wanted))

        return Line(forward, _never if asked is None else asked.cancelled)

    def _request(
        self, batch: StepBatch, at: int, line: Line, *, real: bool = True
    ) -> InferenceRequest:
        """Make what the model sees of a row; of nobody's, where it is not a real one."""
        row, asked = batch.rows[at], batch.rows[at].asked
        outputs = asked.outputs if asked is not None else ()
        return InferenceRequest(
            request_id=asked.request_id if asked is not None and real else "",
            correlation_id=row.correlation_id if real else 0,
            inputs=list(self._inputs(batch, at, real=real)),
            requested_output_names=outputs or tuple(self._outputs),
            model_name=self._config.name,
            model_version=int(self._config.version) if self._config.version.isdecimal() else 1,
            flags=(_START * row.start + _END * self._ends(row)) if real else 0,
            timeout=asked.timeout_us if asked is not None else 0,
            priority=asked.priority if asked is not None else 0,
            parameters={key: value for key, value in row.parameters.items() if key != AGAIN},
            line=line,
        )

    def _ends(self, row: RowInfo) -> bool:
        # The end of an iterative sequence is the model's to say.
        return row.end and not self._iterative

    def _inputs(self, batch: StepBatch, at: int, *, real: bool) -> Iterator[Tensor]:
        for spec in self.signature.inputs:
            value = batch.inputs.get(spec.name)
            if value is None:
                continue
            # A copy: models keep what they get, and write into it.
            own = np.array(value[at : at + 1] if spec.batch_axis == 0 else value)
            if not real and spec.name in self._ready:
                own[...] = _off(spec, own)
            elif self._iterative and spec.control is ControlKind.END:
                own[...] = spec.control_values[0]
            yield Tensor(spec.name, own)

    # -- errors -------------------------------------------------------------------------

    def _failure(self, error: BaseException) -> str:
        """Say in Triton's words that ``execute`` raised, and where."""
        text = (
            f"Failed to process the request(s) for model '{loading.instance_name(self._config)}', "
            f"message: {type(error).__name__}: {error}"
        )
        folder = loading.home(self._config)
        places = [
            f"  {Path(frame.filename).relative_to(folder)}({frame.lineno}): {frame.name}"
            for frame in reversed(traceback.extract_tb(error.__traceback__))
            if Path(frame.filename).is_relative_to(folder)
        ]
        return "\n".join((text, "", "At:", *places, "")) if places else text

    def _says(self, text: str) -> ModelError:
        name = loading.instance_name(self._config)
        return ModelError(f"Failed to process the request(s) for model '{name}', message: {text}")

    # -- ends ---------------------------------------------------------------------------

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        """Let go of what is kept for a sequence that is over."""
        # Who displaced it has taken its place already.
        if self._memory is not None and reason is not EndReason.DISPLACED:
            self._memory.forget(correlation_id)

    def connect(self, ask: Callable[..., dict[str, Any]]) -> None:
        """Let the model ask others by this."""
        others.connect(ask)

    def measured(self) -> list[Any]:
        """What the model measured since the last time."""
        return metrics.take_changed()

    def close(self) -> None:
        """Let the model finish."""
        finalize = getattr(self._model, "finalize", None)
        if finalize is not None:
            try:
                finalize()
            except Exception:  # noqa: BLE001 - the model's own code, at its end
                traceback.print_exc()


class _Call:
    """What becomes of the rows of a step.

    Attributes:
        responses: The answer of each row that has one.
        failed, again, bound, states, later: As in :class:`legato.runtimes.base.StepResult`.
    """

    def __init__(self, count: int) -> None:
        self.responses: list[InferenceResponse | None] = [None] * count
        self.failed: dict[int, Exception] = {}
        self.again: dict[int, tuple[bytes, dict[str, Any]]] = {}
        self.bound: list[int] = []
        self.later: dict[int, None] = {}
        self.states: list[bytes | None] = [None] * count


def _never() -> bool:
    return False


def _off(spec: Any, own: Array) -> Any:
    """What a control input tells of nobody: nothing is so, and the id is 0."""
    if spec.control is ControlKind.CORRELATION_ID:
        return b"0" if own.dtype.hasobject else 0
    return spec.control_values[0]


def _close(lines: Any) -> None:
    for line in lines:
        line.close()
