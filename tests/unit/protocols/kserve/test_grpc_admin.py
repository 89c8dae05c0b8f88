"""What surrounds inference over gRPC: shared memory, model control, log and trace settings."""

from __future__ import annotations

import asyncio

import pytest

from legato.engine.catalog import ControlError, Indexed
from legato.protocols.kserve.facilities import Facilities, NoRepository
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.grpc_service import service
from legato.protocols.kserve.memory import Regions
from legato.protocols.kserve.tuning import LogSettings
from legato.protocols.rpc.service import RpcError, Status

DISABLED = (
    "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
)


class FakeRepository:
    """Keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    async def load_model(self, name, *, config=None, files=None) -> None:
        self.asked.append(("load", name, config, files))
        if name == "nobody":
            raise ControlError("failed to load 'nobody', no such model", kind="unknown")
        if name == "broken":
            raise ControlError("broken/config.pbtxt: no such backend", kind="invalid")

    async def unload_model(self, name, *, dependents=False) -> None:
        self.asked.append(("unload", name, dependents))
        if name == "broken":
            raise ControlError("the disk is full", kind="failed")

    def index(self) -> list[Indexed]:
        return [Indexed("a", "1", "READY"), Indexed("b", "2", "UNAVAILABLE", "unloaded")]


@pytest.fixture
def facilities(tmp_path) -> Facilities:
    (tmp_path / "mine").write_bytes(bytes(100))
    log = LogSettings({"info", "warning", "error"}, lambda _levels: None)
    return Facilities(FakeRepository(), Regions(str(tmp_path)), log)


@pytest.fixture
def ask(engine, kit, facilities):
    """Call a method with a message; returns the parsed answer."""

    def run(name, request, offered=facilities):
        call = kit.Call()
        handler = service(engine, facilities=offered).methods[name].factory(call)
        handler.message(request.SerializeToString())
        return getattr(pb, f"{name}Response").FromString(call.sent[0])

    return run


@pytest.fixture
def change(engine, kit, facilities):
    """Call a method that takes its time; returns status and text."""

    async def run(name, request):
        call = kit.Call()
        handler = service(engine, facilities=facilities).methods[name].factory(call)
        handler.message(request.SerializeToString())
        for _turn in range(5):
            await asyncio.sleep(0)
        return call.status, call.text

    return run


# -- shared memory ------------------------------------------------------------------------


def test_regions_are_registered_told_and_unregistered(ask) -> None:
    """As a client on the same host does it."""
    register = pb.SystemSharedMemoryRegisterRequest
    ask("SystemSharedMemoryRegister", register(name="r", key="/mine", offset=8, byte_size=16))
    ask("SystemSharedMemoryRegister", register(name="q", key="/mine", byte_size=4))

    one = ask("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="r")).regions
    ask("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="r"))
    left = ask("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()).regions
    ask("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest())
    none = ask("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()).regions

    assert (one["r"].key, one["r"].offset, one["r"].byte_size) == ("/mine", 8, 16)
    assert (list(left), list(none)) == (["q"], [])


@pytest.mark.parametrize(
    "rpc",
    [f"SystemSharedMemory{verb}" for verb in ("Status", "Register", "Unregister")]
    + ["CudaSharedMemoryRegister"],
)
def test_shared_memory_is_off_unless_allowed(engine, ask, rpc) -> None:
    """Whoever starts the server must say that clients may name memory."""
    with pytest.raises(RpcError) as caught:
        ask(rpc, getattr(pb, f"{rpc}Request")(name="r"), Facilities(NoRepository(engine)))

    assert (caught.value.status, caught.value.message) == (Status.UNIMPLEMENTED, DISABLED)


@pytest.mark.parametrize("allowed", [True, False])
def test_cuda_memory_is_answered_but_never_registered(engine, ask, facilities, allowed) -> None:
    """Load generators give back memory that they never had, and must not fail."""
    offered = facilities if allowed else Facilities(NoRepository(engine))

    status = ask("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(), offered)
    ask("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest(name="x"), offered)

    assert not status.regions
    with pytest.raises(RpcError) as caught:
        ask("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(name="x"), offered)
    assert caught.value.status is Status.UNIMPLEMENTED
    if allowed:
        assert caught.value.message.startswith(
            "failed to register CUDA shared memory region: 'x', GPUs not supported"
        )


# -- model control ------------------------------------------------------------------------


def test_the_index_is_the_repositorys(ask) -> None:
    """All models, or those that are ready."""
    everything = ask("RepositoryIndex", pb.RepositoryIndexRequest()).models
    ready = ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).models

    assert [(m.name, m.version, m.state, m.reason) for m in everything] == [
        ("a", "1", "READY", ""),
        ("b", "2", "UNAVAILABLE", "unloaded"),
    ]
    assert [m.name for m in ready] == ["a"]


async def test_models_are_loaded_with_what_the_client_gives(change, facilities) -> None:
    """A config, and files in place of the repository's."""
    request = pb.RepositoryModelLoadRequest(model_name="a")
    request.parameters["config"].string_param = '{"backend": "python"}'
    request.parameters["file:1/model.py"].bytes_param = b"code"

    loaded = await change("RepositoryModelLoad", request)
    unload = pb.RepositoryModelUnloadRequest(model_name="a")
    unload.parameters["unload_dependents"].bool_param = True
    unloaded = await change("RepositoryModelUnload", unload)

    assert [loaded[0], unloaded[0]] == [Status.OK, Status.OK]
    assert facilities.repository.asked == [
        ("load", "a", '{"backend": "python"}', {"1/model.py": b"code"}),
        ("unload", "a", True),
    ]


@pytest.mark.parametrize(
    ("rpc", "name", "status", "text"),
    [
        ("RepositoryModelLoad", "nobody", Status.NOT_FOUND, "no such model"),
        ("RepositoryModelLoad", "broken", Status.INVALID_ARGUMENT, "no such backend"),
        ("RepositoryModelUnload", "broken", Status.INTERNAL, "the disk is full"),
    ],
)
async def test_what_cannot_be_changed_says_why(change, rpc, name, status, text) -> None:
    """The kind of the problem is the status."""
    found = await change(rpc, getattr(pb, f"{rpc}Request")(model_name=name))

    assert found[0] is status
    assert text in found[1]


@pytest.mark.parametrize("rpc", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_models_are_not_changed_unless_clients_may(engine, kit, rpc) -> None:
    """The text is Triton's."""
    call = kit.Call()
    service(engine).methods[rpc].factory(call).message(b"")
    for _turn in range(5):
        await asyncio.sleep(0)

    assert (call.status, call.text) == (
        Status.UNAVAILABLE,
        "explicit model load / unload is not allowed if polling is enabled",
    )


@pytest.mark.parametrize(
    ("rpc", "key", "field", "value", "text"),
    [
        ("RepositoryModelLoad", "config", "int64_param", 1, "expected string_param"),
        ("RepositoryModelLoad", "file:1/m", "string_param", "x", "expected bytes_param"),
        ("RepositoryModelLoad", "file:1/m", "bytes_param", b"x", "'config' must be specified"),
        ("RepositoryModelLoad", "other", "string_param", "x", "unrecognized load parameter"),
        ("RepositoryModelUnload", "other", "bool_param", True, "unrecognized unload parameter"),
        ("RepositoryModelUnload", "unload_dependents", "int64_param", 1, "expected bool_param"),
    ],
)
async def test_parameters_without_meaning_are_refused(
    change, facilities, rpc, key, field, value, text
) -> None:
    """Before anything is changed."""
    request = getattr(pb, f"{rpc}Request")(model_name="a")
    setattr(request.parameters[key], field, value)

    status, message = await change(rpc, request)

    assert status is Status.INVALID_ARGUMENT
    assert text in message
    assert facilities.repository.asked == []


# -- settings -----------------------------------------------------------------------------


def test_log_settings_are_told_and_changed(ask) -> None:
    """A request changes what it names; the answer has all, each with its own type."""
    request = pb.LogSettingsRequest()
    request.settings["log_info"].bool_param = False
    request.settings["log_verbose_level"].uint32_param = 2

    before = ask("LogSettings", pb.LogSettingsRequest()).settings
    after = ask("LogSettings", request).settings

    assert (before["log_info"].bool_param, before["log_verbose_level"].uint32_param) == (True, 0)
    assert (after["log_info"].bool_param, after["log_verbose_level"].uint32_param) == (False, 2)
    assert after["log_format"].string_param == "ISO8601"


def test_trace_settings_are_told_and_changed(ask) -> None:
    """Of one model, or of all that have none of their own."""
    request = pb.TraceSettingRequest(model_name="a")
    request.settings["trace_level"].value.append("TIMESTAMPS")

    own = ask("TraceSetting", request).settings
    common = ask("TraceSetting", pb.TraceSettingRequest()).settings

    assert list(own["trace_level"].value) == ["TIMESTAMPS"]
    assert list(common["trace_level"].value) == ["OFF"]
    assert list(own["trace_rate"].value) == ["1000"]


def test_trace_settings_of_nobody_are_refused(ask) -> None:
    """The model must be in the repository."""
    with pytest.raises(RpcError) as caught:
        ask("TraceSetting", pb.TraceSettingRequest(model_name="x"))

    assert caught.value.status is Status.NOT_FOUND
