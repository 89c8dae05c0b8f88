"""What this protocol offers besides inference, in one piece for gRPC and REST."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from legato.engine.catalog import CONTROL_IS_OFF, ControlError, Indexed
from legato.observe import log as logs
from legato.protocols.kserve.memory import Regions, disabled
from legato.protocols.kserve.tuning import LogSettings, TraceSettings
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.protocols.kserve.ports import EnginePort

EXTENSIONS = (
    "classification",
    "sequence",
    "sequence(string_id)",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "logging",
)
"""Server extensions that work here; clients look for them by these names."""

SHARED_MEMORY = "system_shared_memory"

_CONTROL_STATUS = {
    "off": Status.UNAVAILABLE,
    "unknown": Status.NOT_FOUND,
    "invalid": Status.INVALID_ARGUMENT,
}


class RepositoryPort(Protocol):
    """Where models come from, and how a client may ask for others."""

    async def load_model(
        self, name: str, *, config: str | None = None, files: Mapping[str, bytes] = ...
    ) -> None:
        """Load a model, or load it again. Raises ControlError."""

    async def unload_model(self, name: str, *, dependents: bool = False) -> None:
        """Take a model away. Raises ControlError."""

    def index(self) -> list[Indexed]:
        """Return all that is in the repository, loaded or not."""


class NoRepository:
    """Stands in for a repository: what the engine serves, and no changes."""

    def __init__(self, engine: EnginePort) -> None:
        self._engine = engine

    async def load_model(
        self, name: str, *, config: str | None = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Refuse."""
        del name, config, files
        raise ControlError(CONTROL_IS_OFF, kind="off")

    async def unload_model(self, name: str, *, dependents: bool = False) -> None:
        """Refuse."""
        del name, dependents
        raise ControlError(CONTROL_IS_OFF, kind="off")

    def index(self) -> list[Indexed]:
        """Return what is served."""
        return [
            Indexed(model.name, model.version, "READY" if model.ready else "UNAVAILABLE")
            for model in self._engine.models()
        ]


def _own_log() -> LogSettings:
    return LogSettings(logs.written_levels(), logs.write_levels)


@dataclass(slots=True)
class Facilities:
    """What a server offers besides inference.

    Attributes:
        repository: Models that there are, and who loads them.
        regions: Shared memory of clients; ``None`` = not allowed.
        log: What is logged.
        trace: What would be traced.
    """

    repository: RepositoryPort
    regions: Regions | None = None
    log: LogSettings = field(default_factory=_own_log)
    trace: TraceSettings = field(default_factory=TraceSettings)

    def allowed_regions(self) -> Regions:
        """Return the shared memory of clients.

        Raises:
            RpcError: It is not allowed.
        """
        if self.regions is None:
            raise disabled()
        return self.regions

    def extensions(self) -> list[str]:
        """Return the extensions that work on this server."""
        return [*EXTENSIONS, SHARED_MEMORY] if self.regions is not None else [*EXTENSIONS]

    def index(self, *, only_ready: bool) -> list[Indexed]:
        """Return the models that there are, or those that take requests."""
        lines = self.repository.index()
        return [line for line in lines if line.state == "READY"] if only_ready else lines

    def known_model(self, name: str) -> str:
        """Return the name of a model that a setting is for; "" = all.

        Raises:
            RpcError: There is no such model.
        """
        if name and all(line.name != name for line in self.repository.index()):
            raise RpcError(
                Status.NOT_FOUND, f"Request for unknown model: '{name[:200]}' is not found"
            )
        return name

    def refuse_cuda(self, name: str) -> RpcError:
        """Return why memory of a GPU cannot be registered."""
        if self.regions is None:
            return disabled()
        return RpcError(
            Status.UNIMPLEMENTED,
            f"failed to register CUDA shared memory region: '{name[:80]}', GPUs not supported: "
            "this server reads tensors from requests and from system shared memory",
        )


def control_failure(error: ControlError) -> RpcError:
    """Return the error for a model that could not be loaded or unloaded."""
    return RpcError(_CONTROL_STATUS.get(error.kind, Status.INTERNAL), error.message)


def load_options(parameters: Mapping[str, object]) -> tuple[str | None, dict[str, bytes]]:
    """Read the parameters of a load request: a config, and files in place of the stored ones.

    Raises:
        RpcError: One of them has no meaning.
    """
    config: str | None = None
    files: dict[str, bytes] = {}
    for key, value in parameters.items():
        if key == "config":
            if not isinstance(value, str):
                raise _wrong_parameter(key, "string_param")
            config = value
        elif key.startswith("file:"):
            if not isinstance(value, bytes):
                raise _wrong_parameter(key, "bytes_param")
            files[key.removeprefix("file:")] = value
        else:
            raise RpcError(
                Status.INVALID_ARGUMENT,
                f"unrecognized load parameter '{key[:80]}'; there are 'config' and "
                "'file:<version>/<file-name>'",
            )
    if files and config is None:
        raise RpcError(
            Status.INVALID_ARGUMENT,
            "load parameter 'config' must be specified when files are given in its parameters",
        )
    return config, files


def unload_options(parameters: Mapping[str, object]) -> bool:
    """Read the parameters of an unload request: whether models that need it go, too.

    Raises:
        RpcError: One of them has no meaning.
    """
    dependents = False
    for key, value in parameters.items():
        if key != "unload_dependents":
            raise RpcError(
                Status.INVALID_ARGUMENT,
                f"unrecognized unload parameter '{key[:80]}'; there is 'unload_dependents'",
            )
        if not isinstance(value, bool):
            raise _wrong_parameter(key, "bool_param")
        dependents = value
    return dependents


def _wrong_parameter(key: str, expected: str) -> RpcError:
    return RpcError(
        Status.INVALID_ARGUMENT,
        f"invalid value type for '{key[:80]}' parameter, expected {expected}.",
    )
