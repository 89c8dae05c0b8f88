"""What a sequence is to its user, whichever way he waits."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any

from legato.client.errors import InvalidInputError, SequenceError
from legato.client.tensors import Outputs, Packer
from legato.client.wire import read_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from legato.client.hub import Hub, Target
    from legato.client.pilot import Pilot
    from legato.client.tensors import ModelInfo
    from legato.protocols.kserve.gen import kserve_pb2 as pb


class Handle:
    """The common part of sequences.

    Attributes:
        last: Outputs of the last step received; ``None`` before the first.
    """

    def __init__(self, target: Target, constants: Mapping[str, npt.ArrayLike]) -> None:
        self.last: Outputs | None = None
        self._target = target
        self._constants = dict(constants)
        self._window = target.window
        self._pilot: Pilot | None = None
        self._packer: Packer | None = None
        self._closed = False
        self._ended = False
        self._lost: weakref.finalize[..., Any]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r} of '{self.model}' step={self.step_number}>"

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._target.model

    @property
    def id(self) -> int | str:
        """Correlation id: what the server calls the sequence."""
        return self._target.id

    @property
    def prefix(self) -> str:
        """What begins the request ids of this client."""
        return self._target.prefix

    @property
    def step_number(self) -> int:
        """Number of the last step whose answer has arrived; what ``resume`` wants to know."""
        return self._pilot.window.acknowledged if self._pilot else self._target.step or 0

    @property
    def incarnation(self) -> str:
        """Tells this sequence from a later one of the same id; "" before the first answer."""
        return self._pilot.incarnation if self._pilot is not None else self._target.incarnation

    # -- for the subclasses ---------------------------------------------------------------

    @property
    def _pilot_now(self) -> Pilot:
        self._refuse_if_closed()
        if self._pilot is None:
            raise SequenceError(f"{self!r} is not open")
        return self._pilot

    @property
    def _packer_now(self) -> Packer:
        self._refuse_if_closed()
        if self._packer is None:
            raise SequenceError(f"{self!r} is not open")
        return self._packer

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise SequenceError(f"{self!r} is closed at this end", reason="closed")

    def _learnt(self, info: ModelInfo) -> None:
        """Check what is asked for against what the model is.

        Raises:
            InvalidInputError: It does not fit.
        """
        window, kept = self._target.window, info.receipts
        if kept is not None and window > kept:
            raise InvalidInputError(
                f"a window of {window} steps needs a model that keeps as many answers: "
                f"'{self.model}' keeps {kept} (sequences.receipts in its config)"
            )
        self._packer = Packer(info, self._constants, self._target.outputs)

    def _opened(self, hub: Hub, model: ModelInfo) -> None:
        self._pilot = hub.open(self._target, model)
        # One that is lost without being closed must not keep its stream for ever.
        self._lost = weakref.finalize(self, hub.forget, self._pilot)
        self._lost.atexit = False

    def _close(self) -> Pilot | None:
        """Mark as closed; return what there is to release, once."""
        if self._closed:
            return None
        self._closed = True
        if self._pilot is not None:
            self._lost.detach()
        return self._pilot

    def _stays(self, error: BaseException | None) -> bool:
        """Tell whether leaving the ``with`` block leaves the sequence alive."""
        return error is not None or self._target.keep or self._closed

    def _received(self, response: pb.ModelInferResponse, bare: bool) -> Any:
        number = response.parameters["sequence_step"].int64_param
        self.last = outputs = read_outputs(response, number)
        return next(iter(outputs.values())) if bare else outputs

    def _received_again(self, answers: list[tuple[int, pb.ModelInferResponse]]) -> list[Outputs]:
        found = [read_outputs(response, number) for number, response in answers]
        if found:
            self.last = found[-1]
        return found


def lookahead(chunks: Iterable[Any], *, hold: bool) -> Iterator[tuple[Any, bool]]:
    """Yield each chunk and whether it is the last; only with ``hold`` is that found out.

    Of a list or an array it is known at once; of an iterator only when the next
    chunk is there, so each is handed on one chunk late.
    """
    if not hold:
        for chunk in chunks:
            yield chunk, False
    elif isinstance(chunks, Sized):
        count = len(chunks)
        for index, chunk in enumerate(chunks):
            yield chunk, index == count - 1
    else:
        source = iter(chunks)
        for held in source:
            for chunk in source:
                yield held, False
                held = chunk  # noqa: PLW2901 - the point of it
            yield held, True
