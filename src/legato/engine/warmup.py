"""Model calls at load, so that the first client does not pay for what happens once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.errors import ConfigError, ServerError
from legato.core.text import split_texts
from legato.core.types import EndReason
from legato.engine.batch import Batcher, BatchRow
from legato.observe.log import get_logger
from legato.runtimes.base import RowInfo

if TYPE_CHECKING:
    from legato.core.types import Array
    from legato.repository.config import ModelConfig, WarmupConfig, WarmupInput
    from legato.runtimes.base import Runtime

log = get_logger()

_SEED = 20240229


def warm_up(runtime: Runtime, config: ModelConfig) -> None:
    """Make the calls that a config asks for. Blocks.

    Raises:
        ConfigError: A call failed, or its inputs cannot be made.
    """
    for number, warmup in enumerate(config.warmup):
        name = warmup.name or str(number)
        try:
            _calls(runtime, warmup)
        except (OSError, ValueError, ServerError) as error:
            raise ConfigError(
                f"warm-up '{name}' of model '{config.name}' failed: {error}",
                file=str(config.folder),
                key="warmup",
                fix="correct its inputs, or remove it",
            ) from error
        log.info("model_warmed_up", model=config.name, warmup=name, calls=warmup.calls)


def _calls(runtime: Runtime, warmup: WarmupConfig) -> None:
    batcher = Batcher(runtime.signature, reject_non_finite=False)
    rng = np.random.default_rng(_SEED)
    rows_at_once = warmup.rows if runtime.signature.batching else 1
    for _call in range(warmup.calls):
        for start in range(0, warmup.rows, rows_at_once):
            rows = []
            for at in range(start, min(start + rows_at_once, warmup.rows)):
                inputs = {name: _value(given, rng) for name, given in warmup.inputs.items()}
                # A sequence of one step, which no client's can be taken for.
                info = RowInfo(at + 1, 1, start=True, end=True, parameters={})
                rows.append(BatchRow(inputs, batcher.states.initial(inputs), info))
            outcome = batcher.run(runtime, rows)
            for row in rows:
                runtime.sequence_ended(row.info.correlation_id, EndReason.ENDED)
            for result in outcome.rows:
                if isinstance(result, ServerError):
                    raise result


def _value(given: WarmupInput, rng: np.random.Generator) -> Array:
    shape = tuple(max(dim, 1) for dim in given.shape)
    if given.file is not None:
        return _from_file(given, shape)
    if given.dtype == "object":
        return np.full(shape, b"", object)
    dtype: np.dtype[Any] = np.dtype(given.dtype)
    if not given.random:
        return np.zeros(shape, dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def _from_file(given: WarmupInput, shape: tuple[int, ...]) -> Array:
    assert given.file is not None  # noqa: S101 - the caller looked
    raw = given.file.read_bytes()
    if given.dtype == "object":
        return np.array(split_texts(raw), object).reshape(shape)
    return np.frombuffer(raw, np.dtype(given.dtype).newbyteorder("<"), int(np.prod(shape))).reshape(
        shape
    )
