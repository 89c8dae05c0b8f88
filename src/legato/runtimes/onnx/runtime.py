"""The ONNX runtime: one session, one call a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.errors import ModelError
from legato.runtimes.base import StepResult
from legato.runtimes.discovery.findings import Findings
from legato.runtimes.onnx.files import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.core.types import Array, CorrelationId, EndReason, Signature
    from legato.runtimes.base import StepBatch


class OnnxRuntime:
    """An ONNX model in an ONNX Runtime session; satisfies ``runtimes.base.Runtime``.

    The session is called below its Python checks, which cost as much as a tiny model
    (measured on StreamSAD, one row: 11.3 against 11.9 us; bound and reused buffers
    gain nothing over this, ``OrtValue`` costs 28 us more).

    Args:
        session: An open session.
        signature: What it takes, gives and carries.
        unbatched: States that have no batch axis in the file; rows carry one in front.
        findings: What was learnt on loading.
    """

    def __init__(
        self,
        session: Any,
        signature: Signature,
        *,
        unbatched: frozenset[str] = frozenset(),
        findings: Findings | None = None,
        reopen: Callable[[], Any] | None = None,
    ) -> None:
        self.signature = signature
        self.findings = findings or Findings({})
        self._session = session
        self._reopen = reopen
        self._unbatched = unbatched
        carried = [state for state in signature.states if state.output is not None]
        self._outputs = [spec.name for spec in signature.outputs]
        extra = [s.output for s in carried if s.output not in self._outputs]
        self._names: list[str] = [*self._outputs, *(name for name in extra if name is not None)]
        places = {name: at for at, name in enumerate(self._names)}
        self._next = [(s.name, places[s.output]) for s in carried if s.output is not None]
        self._renamed = [
            (state.name, state.input) for state in signature.states if state.name != state.input
        ]
        dtypes = [spec.dtype for spec in (*signature.inputs, *signature.outputs)]
        dtypes += [state.dtype for state in signature.states]
        self._text = "object" in dtypes
        # Inputs that the file has a value for are not among these.
        self._required = len(session.get_inputs())
        self._run = _bare_run(session)

    def step(self, batch: StepBatch) -> StepResult:
        """Run the model once; see :meth:`legato.runtimes.base.Runtime.step`.

        Raises:
            ModelError: The model refused or failed; in one line, without source paths.
        """
        feed = {**batch.inputs, **batch.state}
        for name, input_name in self._renamed:
            if name in batch.state:
                del feed[name]
                feed[input_name] = batch.state[name]
        if self._unbatched:
            for state in self.signature.states:
                if state.name in self._unbatched:
                    feed[state.input] = feed[state.input][0]
        if self._text:
            feed = {name: _decoded(value) for name, value in feed.items()}
        if len(feed) < self._required:
            missing = [n.name for n in self._session.get_inputs() if n.name not in feed]
            msg = f"the model needs a value of '{missing[0]}'"
            raise ModelError(msg)
        try:
            values = self._run(self._names, feed, None)
        except Exception as error:
            msg = f"the model failed: {first_line(error)}"
            raise ModelError(msg) from error
        if self._text:
            values = [_encoded(value) for value in values]
        outputs = dict(zip(self._outputs, values, strict=False))
        following = {name: values[at] for name, at in self._next}
        for name in self._unbatched & following.keys():
            following[name] = following[name][np.newaxis]
        return StepResult(outputs, following, lasting=True)

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        """Nothing to do: a session keeps nothing of a sequence."""

    def clone(self) -> OnnxRuntime:
        """Open another session on the same model without probing it again."""
        session = self._session if self._reopen is None else self._reopen()
        return OnnxRuntime(
            session,
            self.signature,
            unbatched=self._unbatched,
            findings=self.findings,
            reopen=self._reopen,
        )

    def close(self) -> None:
        """Free the session."""
        self._run = _closed
        self._session = None

    def __repr__(self) -> str:
        signature = self.signature
        return (
            f"<OnnxRuntime inputs={len(signature.inputs)} outputs={len(signature.outputs)} "
            f"states={len(signature.states)} batching={signature.batching}>"
        )


def _bare_run(session: Any) -> Callable[[list[str], dict[str, Array], Any], list[Array]]:
    """Return the session's own call without its Python checks, or the public one.

    The attribute is not part of ONNX Runtime's interface, so it is used only where it
    is what it has been since 1.0.
    """
    inner = getattr(getattr(session, "_sess", None), "run", None)
    run: Callable[[list[str], dict[str, Array], Any], list[Array]] = inner or session.run
    return run


def _closed(_names: list[str], _feed: dict[str, Array], _options: Any) -> list[Array]:
    msg = "the model is closed"
    raise RuntimeError(msg)


def _decoded(value: Array) -> Array:
    """Turn BYTES elements into the text that ONNX Runtime takes."""
    if not value.dtype.hasobject:
        return value
    texts = [v.decode() if isinstance(v, bytes) else str(v) for v in value.ravel().tolist()]
    return np.array(texts, object).reshape(value.shape)


def _encoded(value: Array) -> Array:
    if not value.dtype.hasobject and value.dtype.kind != "U":
        return value
    raw = np.empty(value.size, object)
    raw[:] = [v if isinstance(v, bytes) else str(v).encode() for v in value.ravel().tolist()]
    return raw.reshape(value.shape)
