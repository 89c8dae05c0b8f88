"""A loaded model version: what it takes, how steps are checked, who runs them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import xxh3_64

from legato.core.errors import InputError, join_names
from legato.core.reply import ReplyEncoder
from legato.core.scheduler import Policy, Scheduler
from legato.core.types import ControlKind, InputKind, UpdateRule
from legato.engine.batch import Batcher
from legato.engine.instance import Instance
from legato.engine.ordering import Line
from legato.engine.own_metrics import OwnMetrics
from legato.engine.process import ProcessRuntime
from legato.engine.statistics import ModelStatistics
from legato.engine.workers import ProcessInstance, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from legato.core.types import Array, SequenceKey, Signature, Step, TensorSpec
    from legato.engine.queueing import QueueRules
    from legato.engine.work import Work
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import Runtime


class ModelHandle:
    """One version of a model, ready to take steps.

    Attributes:
        name, version: What clients call it.
        config: As loaded.
        signature: Inputs, outputs and states.
        digest: Content of the model file, 16 hex digits.
        statistics: Running totals.
        serving: Takes steps; false while it unloads.
        stateful: Has state, so its steps belong to sequences.
        pinned: Incarnations of the sequences that live on it, once it gives way to another
            version (see :mod:`legato.engine.succession`); ``None`` before that.
        line: Keeps answers in the order in which their steps became ready, where asked for.
        queue_rules: How steps wait, where the config says so and there is no state.
        waits_for_live: A batch waits for sequences that live now, and for no others.
        gave_way_at: When that was, in monotonic seconds.
        searched: ``pinned`` is complete.
        instances: All loaded copies; ``free`` are those without a plan, ``down`` those whose
            worker process is dead.
        parts: The model may answer in parts.
        late: Steps whose call is over and that are not answered yet.
        asks: Rows tell of the requests behind them.
        tells_together: Some control input has no batch axis; see :meth:`told_alike`.
        sticky: Sequences go to the worker that ran them last, where it is free.
        scaling: Held while the number of instances is changed.
        post: Calls a function on the event loop; from any thread.
        measured: Takes what the model's own code measured in a worker process; from any thread.
        ask_other: Asks another model for this one; from any thread.
        own_metrics: Metrics that a Triton Python model has made for itself.
    """

    def __init__(
        self,
        config: ModelConfig,
        runtimes: Sequence[Runtime],
        digest: str,
        signature: Signature | None = None,
    ) -> None:
        self.name = config.name
        self.version = config.version
        self.config = config
        self.digest = digest
        self.signature: Signature = signature or runtimes[0].signature
        self.statistics = ModelStatistics()
        self.receipts = ReplyEncoder()
        self.serving = True
        self.stateful = bool(self.signature.states) or config.sequenced
        self.asks = self.signature.asks
        self.late = 0
        self.parts = self.asks or config.runtime == "torchserve"
        self.pinned: dict[SequenceKey, bytes] | None = None
        self.gave_way_at = 0.0
        self.searched = False
        self.batcher = Batcher(self.signature, reject_non_finite=config.reject_non_finite)
        limit = config.max_batch_size if self.signature.batching else 1
        limit = min(limit, self.signature.most_rows or limit)
        self._shared_controls = tuple(
            spec.control
            for spec in self.signature.inputs
            if spec.kind is InputKind.CONTROL and (spec.batch_axis is None or not spec.shape)
        )
        self.tells_together = bool(self._shared_controls)
        self.scheduler: Scheduler[Work] = Scheduler(
            Policy(limit, config.max_queue_delay_ms / 1e3, tuple(config.preferred_batch_sizes))
        )
        self.line = Line() if config.preserve_order else None
        self.queue_rules: QueueRules | None = None
        self.waits_for_live = self.stateful and config.wait_for == "live"
        self.sticky = bool(config.options.get("sticky")) and config.instance == "process"
        self.instances = [self.make_instance(runtime) for runtime in runtimes]
        self.free = list(self.instances)
        self.down: set[Instance] = set()
        self.scaling = asyncio.Lock()
        self.post: Callable[..., Any] = _nowhere
        self.measured: Callable[[list[Any]], Any] = _nowhere
        self.ask_other: Callable[..., Future[dict[str, Any]]] | None = None
        self.own_metrics: OwnMetrics | None = None
        if config.runtime == "triton_python":
            self.own_metrics = OwnMetrics(config.name)
            self.measured = self.own_metrics.take
        self.wake_scheduled = False
        self.timer: asyncio.TimerHandle | None = None
        self.mean_call_s: float | None = None
        self._checks = tuple(
            _Check(spec, self.signature)
            for spec in self.signature.inputs
            if spec.kind is not InputKind.CONTROL
        )
        self._by_name = {check.name for check in self._checks}
        self._uniform = all(check.uniform for check in self._checks)

    def __repr__(self) -> str:
        return (
            f"<ModelHandle {self.name} v{self.version} {len(self.signature.states)} states "
            f"queued={self.statistics.queued}>"
        )

    def reads(self, digest: str) -> bool:
        """Tell whether it goes on with state that was written by this content (D8)."""
        return digest == self.digest or digest in self.config.compatible_with

    def takes_over(self, old: ModelHandle) -> bool:
        """Tell whether state of another version's shapes and dtypes fits this one's."""
        mine, theirs = self.signature.states, old.signature.states
        named_alike = self.digest != old.digest or [s.input for s in mine] == [
            s.input for s in theirs
        ]
        return (
            named_alike
            and len(mine) == len(theirs)
            and all(
                a.dtype == b.dtype
                and len(a.shape) == len(b.shape)
                and all(x in (-1, y) for x, y in zip(a.shape, b.shape, strict=True))
                for a, b in zip(mine, theirs, strict=True)
            )
        )

    def make_instance(self, runtime: Runtime) -> Instance:
        """Put a loaded copy to work; it takes no plans before it is among ``free``."""
        kind = ProcessInstance if isinstance(runtime, ProcessRuntime) else Instance
        return kind(self, runtime)  # type: ignore[arg-type]  # the kind goes with the runtime

    @property
    def ready(self) -> bool:
        """It takes steps, and something is there to run them."""
        return self.serving and any(
            one not in self.down and (not isinstance(one, ProcessInstance) or one.alive)
            for one in self.instances
        )

    def workers(self) -> list[WorkerStatus]:
        """The worker processes, in the order of their start; none for threads."""
        return [one.status() for one in self.instances if isinstance(one, ProcessInstance)]

    @property
    def inline(self) -> bool:
        """Whether a model call is short enough to run on the event loop."""
        if self.config.instance == "process":
            return False  # it may take as long as its time limit
        execution = self.config.execution
        if execution != "auto":
            return execution == "inline"
        return self.mean_call_s is not None and self.mean_call_s < INLINE_BELOW_S

    def note_call(self, seconds: float) -> None:
        """Remember how long a call took (moving mean)."""
        mean = self.mean_call_s
        self.mean_call_s = seconds if mean is None else mean + 0.1 * (seconds - mean)

    def check(self, step: Step, *, first: bool) -> InputError | None:
        """Hold a step's inputs against the signature and set its group.

        Args:
            step: The step; ``group`` is set.
            first: It begins a sequence (WRITE_ONCE inputs are required then).

        Returns:
            What is wrong, or ``None``.
        """
        inputs = step.inputs
        seen = 0
        for check in self._checks:
            value = inputs.get(check.name)
            if value is None:
                if check.required or (check.first_only and first):
                    return InputError(
                        f"input '{check.name}' of model '{self.name}' is missing; the model takes "
                        f"{join_names(sorted(self._by_name))}",
                        reason="missing",
                        tensor=check.name,
                    )
                continue
            seen += 1
            if value.dtype is not check.dtype and value.dtype != check.dtype:
                return check.wrong_dtype(value, self.name)
            if value.shape != check.shape:
                problem = check.shape_problem(value, self.name)
                if problem is not None:
                    return problem
        if seen != len(inputs):
            extra = next(name for name in inputs if name not in self._by_name)
            return InputError(
                f"model '{self.name}' has no input '{extra}'; it takes "
                f"{join_names(sorted(self._by_name))}",
                reason="unknown",
                tensor=extra,
            )
        for name in step.outputs:
            if name not in self.batcher.outputs.names:
                return InputError(
                    f"model '{self.name}' has no output '{name}'; it gives "
                    f"{join_names(sorted(self.batcher.outputs.names))}",
                    reason="unknown_output",
                    tensor=name,
                )
        step.group = None if self._uniform else self._group(inputs)
        return None

    def told_alike(self, step: Step, number: int) -> tuple[Any, ...]:
        """What control inputs without a batch axis tell a step: they tell all rows the same.

        Args:
            step: Which step.
            number: Its number.
        """
        told: list[Any] = []
        for control in self._shared_controls:
            if control in (ControlKind.START, ControlKind.NOT_START):
                told.append(number == 1)
            elif control is ControlKind.END:
                told.append(step.end)
            elif control is ControlKind.CORRELATION_ID:
                told.append(step.correlation_id)
        return tuple(told)

    def _group(self, inputs: Any) -> tuple[Any, ...]:
        """What rows must agree on to share a batch."""
        key: list[Any] = []
        for check in self._checks:
            value = inputs.get(check.name)
            if value is None:
                key.append(None)
            elif check.scalar:
                key.append(value.tobytes())
            else:
                key.append(value.shape)
        return tuple(key)


def _nowhere(*_call: object) -> None:
    """Stand in for the loop, where there is none."""


INLINE_BELOW_S = 0.0015
"""Mean seconds of a model call below which a hand-over to a thread costs more than it frees."""


class _Check:
    """What one input must look like."""

    __slots__ = (
        "dtype", "first_only", "name", "required", "scalar", "shape", "spec", "uniform",
    )  # fmt: skip

    def __init__(self, spec: TensorSpec, signature: Signature) -> None:
        self.spec = spec
        self.name = spec.name
        self.dtype = np.dtype(spec.dtype)
        # Whatever has no batch axis is shared by all rows, so they must agree on it.
        self.scalar = spec.kind is InputKind.SCALAR or spec.batch_axis is None
        self.shape = spec.shape if -1 not in spec.shape else None
        self.first_only = any(
            state.input == spec.name and state.rule is UpdateRule.WRITE_ONCE
            for state in signature.states
        )
        self.required = not (self.first_only or spec.optional or spec.default is not None)
        self.uniform = self.shape is not None and not self.scalar and self.required

    def wrong_dtype(self, value: Array, model: str) -> InputError:
        return InputError(
            f"input '{self.name}' of model '{model}' is {value.dtype}, "
            f"the model takes {self.spec.dtype}",
            reason="dtype",
            tensor=self.name,
            expected=self.spec.dtype,
            got=value.dtype.name,
        )

    def shape_problem(self, value: Array, model: str) -> InputError | None:
        want, got = self.spec.shape, value.shape
        if self.scalar and value.size == 1 and len(want) <= 1 and len(got) <= 1:
            return None
        if len(want) == len(got) and all(w in (-1, g) for w, g in zip(want, got, strict=True)):
            return None
        axis = self.spec.batch_axis
        batched = axis is not None and len(want) == len(got) and got[axis] != 1
        return InputError(
            f"input '{self.name}' of model '{model}' has shape {list(got)}, "
            f"the model takes {list(want)}"
            + (" (one row a step: the batch axis must be 1)" if batched else ""),
            reason="batch" if batched else "shape",
            tensor=self.name,
            expected=want,
            got=got,
        )


def digest_inputs(step: Step) -> bytes:
    """8-byte digest of a step's inputs: names, dtypes, shapes and bytes (D3)."""
    state = xxh3_64()
    inputs = step.inputs
    for name in sorted(inputs) if len(inputs) > 1 else inputs:
        value = inputs[name]
        if value.dtype.hasobject:
            state.update(f"{name}:object:{value.shape}:{value.tolist()!r}".encode())
        else:
            state.update(f"{name}:{value.dtype.str}:{value.shape}".encode())
            state.update(np.ascontiguousarray(value).data)
    return state.digest()
