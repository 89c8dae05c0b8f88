"""Outputs that a client does not want as they are: into its shared memory, or as classes.

Most requests want no such thing, and pay for one look at ``KserveStep.finishing``.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from legato.core.errors import ServerError
from legato.core.types import OutputHeader, Reply, Step
from legato.protocols.kserve.classes import Classes
from legato.protocols.kserve.datatypes import element_count
from legato.protocols.kserve.memory import Place, Region, Regions, disabled
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from legato.protocols.kserve.ports import EnginePort

    Finishing = Callable[[Reply], Reply]


class KserveStep(Step):
    """A step of this protocol.

    Attributes:
        wishes: Outputs that are not to be given as they are.
        finishing: What a reply still goes through before it leaves; may raise RpcError.
        decoupled: Its model may answer it any number of times.
        called: Its request id, which the engine takes away after a first answer of several.
    """

    wishes: Mapping[str, OutputWish] | None = None
    finishing: Finishing | None = None
    decoupled: bool = False
    called: str = ""


class OutputWish(NamedTuple):
    """How a client wants one output.

    Attributes:
        place: Where in its shared memory it shall lie; ``None`` = in the response.
        classes: How many of its largest values it wants as classes; 0 = the tensor itself.
    """

    place: Place | None = None
    classes: int = 0


class PlacedHeader(OutputHeader):
    """Header of an output that lies in shared memory.

    Nothing in a response says so: clients of Triton take any parameters of an output for
    those of a binary tensor, and know where they wanted it.
    """

    __slots__ = ()


class _Target(NamedTuple):
    """A wish that was found to be possible."""

    region: Region | None
    offset: int
    byte_size: int
    classes: Classes | None


def wish_of(tensor: str, place: Place | None, classes: object) -> OutputWish | None:
    """Return what an output's parameters ask for; ``None`` = nothing special.

    Raises:
        RpcError: The number of classes is none.
    """
    if classes is None:
        return None if place is None else OutputWish(place)
    if isinstance(classes, bool) or not isinstance(classes, int):
        raise RpcError(
            Status.INVALID_ARGUMENT,
            f"invalid value type for 'classification' parameter for output '{tensor}', expected "
            "int64_param.",
        )
    if classes < 1:
        raise RpcError(
            Status.INVALID_ARGUMENT,
            f"invalid value for 'classification' parameter for output '{tensor}', expected 1 or "
            f"more, got {classes}",
        )
    return OutputWish(place, classes)


def prepare(step: KserveStep, engine: EnginePort, regions: Regions | None) -> None:
    """Make sure, before a step is run, that its outputs can be given as they are wanted.

    Raises:
        RpcError: They cannot: a step must not be applied whose answer has no room.
    """
    wishes = step.wishes
    if wishes is None:
        return
    targets = {name: _target(name, wish, step, engine, regions) for name, wish in wishes.items()}
    finish_with(step, partial(_deliver, targets))


def finish_with(step: KserveStep, finishing: Finishing) -> None:
    """Let the reply of a step go through ``finishing``, after what was asked for before."""
    before = step.finishing
    step.finishing = finishing if before is None else partial(_both, before, finishing)


def _both(first: Finishing, second: Finishing, reply: Reply) -> Reply:
    return second(first(reply))


def finished(step: KserveStep, reply: Reply) -> Reply | RpcError:
    """Return the reply as the client wants it, or why it cannot have it."""
    finishing = step.finishing
    if finishing is None:
        return reply
    try:
        return finishing(reply)
    except RpcError as error:
        applied = f"; step {reply.step} of the sequence was applied" if reply.step else ""
        return RpcError(error.status, error.message + applied, error.trailers)


# -- before the step ----------------------------------------------------------------------


def _target(
    name: str, wish: OutputWish, step: Step, engine: EnginePort, regions: Regions | None
) -> _Target:
    classes = None
    if wish.classes:
        classes = _classes(name, wish.classes, step, engine)
    if wish.place is None:
        return _Target(None, 0, 0, classes)
    if regions is None:
        raise disabled()
    region = regions.find(wish.place.region)
    region.check(wish.place.offset, wish.place.byte_size)
    target = _Target(region, wish.place.offset, wish.place.byte_size, classes)
    if classes is None:
        needed = _known_size(name, step, engine)
        if needed is not None and needed > wish.place.byte_size:
            raise _too_small(name, target, needed)
    return target


def _classes(name: str, count: int, step: Step, engine: EnginePort) -> Classes | None:
    try:
        return Classes.of(engine.model(step.model, step.version), name, count)
    except ServerError:
        return None  # the engine tells it better


def _known_size(name: str, step: Step, engine: EnginePort) -> int | None:
    """Return the bytes of an output whose shape does not vary."""
    try:
        signature = engine.model(step.model, step.version).signature
    except ServerError:
        return None
    for spec in signature.outputs:
        if spec.name == name and spec.dtype != "object" and -1 not in spec.shape:
            return element_count(spec.shape) * np.dtype(spec.dtype).itemsize
    return None


def _too_small(name: str, target: _Target, needed: int) -> RpcError:
    return RpcError(
        Status.INTERNAL,
        f"shared memory size specified with the request for output '{name}' "
        f"({target.byte_size} bytes) should be at least {needed} bytes to hold the results",
    )


# -- after it -----------------------------------------------------------------------------


def _deliver(targets: Mapping[str, _Target], reply: Reply) -> Reply:
    headers: list[OutputHeader] = []
    contents: list[bytes] = []
    placed: list[bool] = []
    for header, data in zip(reply.headers, reply.data, strict=True):
        target = targets.get(header.name)
        classes = target.classes if target is not None else None
        if classes is not None:
            header, data = classes.write(header, data)  # noqa: PLW2901 - what goes out instead
        headers.append(header)
        if target is None or target.region is None:
            contents.append(data)
            placed.append(False)
            continue
        if len(data) > target.byte_size:
            raise _too_small(header.name, target, len(data))
        target.region.write(target.offset, data)
        contents.append(b"")
        placed.append(True)
    return Reply(
        _marked(tuple(headers), tuple(placed)), tuple(contents), reply.correlation_id, reply.step,
        reply.version, reply.replayed, reply.durability, reply.incarnation,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _marked(
    headers: tuple[OutputHeader, ...], placed: tuple[bool, ...]
) -> tuple[OutputHeader, ...]:
    """Mark the placed ones; the same object for the same, as writers like it."""
    made = [
        PlacedHeader(*header) if there else header
        for header, there in zip(headers, placed, strict=True)
    ]
    return tuple(made)
