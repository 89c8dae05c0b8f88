"""Registering, scaling and describing, over both management APIs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from legato.core.errors import ConfigError
from legato.protocols.rpc.service import RpcError, Status
from legato.protocols.torchserve import grpc_management, registry
from legato.protocols.torchserve.errors import Failure
from legato.protocols.torchserve.gen import management_pb2 as pb
from legato.protocols.torchserve.http import Cors
from legato.protocols.torchserve.management import Management
from legato.protocols.torchserve.registry import Wish
from legato.protocols.torchserve.rest_management import ManagementApp, MetricsApp
from legato.repository.config import ModelConfig
from legato.repository.ts_properties import Properties


@pytest.fixture
def archives(bench, monkeypatch, tmp_path):
    """Archives by URL, and an engine that loads them."""
    found: dict[str, ModelConfig] = {}
    calls: list = []

    def load(path, *, name, settings):
        calls.append((name, settings))
        if path.name not in found:
            raise ConfigError("is broken", file=str(path))
        config = found[path.name]
        return config.model_copy(update={"name": name or config.name})

    async def load_model(_engine, config):
        handle = SimpleNamespace(
            name=config.name, version=config.version, ready=True, stateful=True,
            instances=[object()] * config.instances, free=[1], scheduler=[],
        )  # fmt: skip
        if config.name == "bad":
            raise ConfigError("no")
        return handle

    async def scale(handle, least, most):
        calls.append((handle.name, least, most))
        handle.instances = [object()] * least

    async def unload(name, version):
        calls.append(("unload", name, version))

    monkeypatch.setattr(registry, "load_archive", load)
    monkeypatch.setattr(registry, "load_model", load_model)
    bench.engine.scale, bench.engine.unload = scale, unload
    bench.registry._store = SimpleNamespace(
        find=lambda url: tmp_path / url, everything=lambda: sorted(found)
    )
    bench.registry.properties = Properties.read({})

    def add(url, name="m", version="1.0", workers=(1, 1)):
        found[url] = ModelConfig(
            name=name, version=version, runtime="torchserve", instance="process",
            instances=workers[0], options={"workers": list(workers), "keys": {}},
        )  # fmt: skip

    return SimpleNamespace(add=add, calls=calls)


@pytest.fixture
def management(bench) -> Management:
    return Management(bench.door, model_api=True)


async def test_the_first_version_is_the_default(archives, bench) -> None:
    """Until another one is made it; the default cannot go while there are others."""
    archives.add("one.mar")
    archives.add("two.mar", version="2.0")
    models = bench.registry
    await models.register(Wish("one.mar"))
    await models.register(Wish("two.mar"))

    assert models.find("m").version == "1.0"
    with pytest.raises(Failure, match="Cannot remove default version for model m"):
        await models.unregister("m")
    await models.set_default("m", "2.0")
    assert models.find("m").version == "2.0"
    assert bench.engine.preferred[-1] == ("m", "2.0")
    await models.unregister("m", "1.0")
    await models.unregister("m")
    with pytest.raises(Failure, match="Model not found: m"):
        models.find("m")


async def test_registering_tells_about_workers(archives, bench) -> None:
    """With none the model is listed and not loaded."""
    archives.add("one.mar", workers=(2, 2))
    archives.add("none.mar", name="none", workers=(0, 0))

    told = [await bench.registry.register(Wish(url)) for url in ("one.mar", "none.mar")]

    assert told[0] == 'Model "m" Version: 1.0 registered with 2 initial workers'
    assert told[1] == (
        'Model "none" Version: 1.0 registered with 0 initial workers. '
        "Use scale workers API to add workers for the model."
    )
    assert bench.registry.find("none").handle is None
    assert not bench.registry.only()


async def test_a_model_without_workers_is_loaded_when_it_is_scaled(archives, bench) -> None:
    """And may be scaled to nothing again."""
    archives.add("none.mar", workers=(0, 0))
    await bench.registry.register(Wish("none.mar"))

    text = await bench.registry.scale("m", "", 2, 2)
    loaded = len(bench.registry.find("m").handle.instances)
    await bench.registry.scale("m", "1.0", 0, 0)

    assert (text, loaded) == ("Workers scaled to 2 for model: m", 2)
    assert archives.calls[-1] == ("m", 0, 0)
    assert bench.registry.find("m").least == 0


async def test_what_a_register_call_says_reaches_the_archive(archives, bench) -> None:
    """With what config.properties says of all models, and of this one."""
    archives.add("one.mar")
    bench.registry.properties = Properties.read(
        {
            "models": '{"m": {"1.0": {"marName": "one.mar", "batchSize": 9}}}',
            "default_workers_per_model": "3",
            "decode_input_request": "false",
            "ts_header_key_sequence_id": "X-Id",
        }
    )

    await bench.registry.register(Wish("one.mar", batch_size=4, workers=2))

    (_name, settings) = archives.calls[0]
    assert (settings["batch_size"], settings["initial_workers"]) == (4, 2)
    assert settings["model"]["batchSize"] == 9
    assert settings["default_workers_per_model"] == 3
    assert settings["decode_input_request"] is False
    assert settings["ts_header_key_sequence_id"] == "x-id"


@pytest.mark.parametrize(
    ("url", "status"), [("broken.mar", 400), ("bad.mar", 500), ("one.mar", 409)]
)
async def test_what_cannot_be_registered(archives, bench, url: str, status: int) -> None:
    """A broken archive, workers that do not start, a version that is there; nothing is kept."""
    archives.add("one.mar")
    archives.add("bad.mar", name="bad")
    await bench.registry.register(Wish("one.mar"))

    with pytest.raises(Failure) as caught:
        await bench.registry.register(Wish(url))

    assert caught.value.status == status
    assert [one.name for one in bench.registry.all()] == ["m"]


async def test_a_start_takes_all_named_and_those_of_a_snapshot(archives, bench) -> None:
    """Default versions first."""
    archives.add("one.mar")
    archives.add("two.mar", version="2.0")
    snapshot = {
        "m": {"1.0": {"marName": "one.mar"}, "2.0": {"marName": "two.mar", "defaultVersion": True}}
    }

    await bench.registry.start(["mine=one.mar"], snapshot)

    assert sorted((one.name, one.version) for one in bench.registry.all()) == [
        ("m", "1.0"), ("m", "2.0"), ("mine", "1.0"),
    ]  # fmt: skip
    assert bench.registry.find("m").version == "2.0"
    assert bench.registry.snapshot()["m"]["2.0"]["defaultVersion"] is True
    with pytest.raises(ConfigError, match="is broken"):
        await bench.registry.start(["gone.mar"], {})


def test_lists_come_in_pages(bench) -> None:
    """The token comes whenever the page is full, as TorchServe's clients know it."""
    for name in "cab":
        bench.add(name)

    first = bench.registry.listed(2, 0)
    last = bench.registry.listed(2, 2)

    assert [m["modelName"] for m in first["models"]] == ["a", "b"]
    assert first["nextPageToken"] == "2"
    assert [m["modelName"] for m in last["models"]] == ["c"]
    assert "nextPageToken" not in last
    assert len(bench.registry.listed(1000, 0)["models"]) == 3


# -- REST --------------------------------------------------


@pytest.fixture
def app(management, bench) -> ManagementApp:
    return ManagementApp(management, None, bench.door.metrics, Cors("", "", ""))


async def test_a_model_is_registered_by_query_or_json(app, archives, http) -> None:
    """Both have the same names."""
    archives.add("one.mar")
    archives.add("two.mar", version="2.0")
    body = json.dumps({"url": "two.mar", "batch_size": 3, "synchronous": True}).encode()

    one = await http("POST", "/models", query="url=one.mar&response_timeout=7").ask(app)
    two = await http("POST", "/models", body).ask(app)

    assert (one.status, two.status) == (200, 200)
    assert archives.calls[0][1]["response_timeout"] == 7
    assert archives.calls[1][1]["batch_size"] == 3
    assert two.json["status"].startswith('Model "m" Version: 2.0 registered')


async def test_scaling_is_asynchronous_unless_told(app, archives, bench, http) -> None:
    """202 at once; 200 when it is done."""
    archives.add("one.mar")
    await bench.registry.register(Wish("one.mar"))

    later = await http("PUT", "/models/m", query="min_worker=2").ask(app)
    now = await http("PUT", "/models/m/1.0", query="min_worker=3&synchronous=true").ask(app)

    assert (later.status, later.json["status"]) == (202, "Processing worker updates...")
    assert (now.status, now.json["status"]) == (
        200,
        "Workers scaled to 3 for model: m, version: 1.0",
    )


@pytest.mark.parametrize(
    ("method", "path", "query", "status"),
    [
        ("PUT", "/models/m", "min_worker=3&max_worker=1", 400),
        ("PUT", "/models/m", "min_worker=x", 400),
        ("POST", "/models", "", 400),
        ("POST", "/models/m", "", 405),
        ("DELETE", "/models", "", 405),
        ("PUT", "/models/m/9/set-default", "", 404),
        ("GET", "/models/m/9", "", 404),
        ("GET", "/nope", "", 404),
        ("GET", "/token", "type=inference", 404),
    ],
)
async def test_what_management_refuses(app, bench, http, method, path, query, status) -> None:
    """Each with its code."""
    bench.add("m")

    found = await http(method, path, query=query).ask(app)

    assert found.status == status
    assert found.json["code"] == status


async def test_nobody_registers_where_it_is_off(bench, http) -> None:
    """405; other calls work."""
    bench.add("m")
    closed = Management(bench.door, model_api=False)
    app = ManagementApp(closed, None, bench.door.metrics, Cors("", "", ""))

    answers = [
        await http("POST", "/models", query="url=a.mar").ask(app),
        await http("DELETE", "/models/m").ask(app),
        await http("GET", "/models/m").ask(app),
    ]

    assert [a.status for a in answers] == [405, 405, 200]


async def test_a_handler_describes_itself_on_request(app, bench, http) -> None:
    """In a sequence of a single step, where TorchServe hangs."""
    bench.add("m")
    bench.engine.submit = lambda step: (
        bench.engine.steps.append(step),
        bench.engine.reply(b'{"a": 1}'),
    )

    found = await http("GET", "/models/m", query="customized=true").ask(app)

    assert found.json[0]["customizedMetadata"] == {"a": 1}
    (step,) = bench.engine.steps
    assert (step.start, step.end) == (True, True)
    assert bench.engine.shown()["describe"] == "True"


async def test_metrics_can_be_picked(bench, http) -> None:
    """By repeated ``name[]``; another path or method is refused."""
    app = MetricsApp(bench.door.metrics, Cors("", "", ""))
    bench.door.metrics.render = lambda names: repr(list(names)).encode()

    found = await http("GET", "/metrics", query="name[]=a&name[]=b").ask(app)

    assert found.body == b"['a', 'b']"
    assert (await http("POST", "/metrics").ask(app)).status == 405
    assert (await http("GET", "/models").ask(app)).status == 404


# -- gRPC --------------------------------------------------


async def test_the_grpc_service_has_torchserves_methods(management, bench, make_call) -> None:
    """Texts of the REST API, bare; JSON for describe and list."""
    bench.add("m")
    made = grpc_management.service(management, lambda _call: None, 1000)

    async def call(method: str, request):
        one = make_call()
        made.methods[method].factory(one).message(request.SerializeToString())
        for task in list(bench.door._tasks):
            await task
        return one

    described = await call("DescribeModel", pb.DescribeModelRequest(model_name="m"))
    gone = await call("SetDefault", pb.SetDefaultRequest(model_name="m", model_version="9"))
    nameless = await call("UnregisterModel", pb.UnregisterModelRequest())
    listed = await call("ListModels", pb.ListModelsRequest())

    assert made.name == "org.pytorch.serve.grpc.management.ManagementAPIsService"
    assert sorted(made.methods) == [
        "DescribeModel", "ListModels", "RegisterModel", "ScaleWorker", "SetDefault",
        "UnregisterModel",
    ]  # fmt: skip
    assert (
        json.loads(pb.ManagementResponse.FromString(described.sent[0]).msg)[0]["modelName"] == "m"
    )
    assert gone.status == Status.NOT_FOUND
    assert nameless.status == Status.INVALID_ARGUMENT
    assert json.loads(pb.ManagementResponse.FromString(listed.sent[0]).msg)["models"]


def test_a_management_call_without_a_key_is_refused(management, make_call) -> None:
    """Before its message is read."""

    def refuse(_call) -> None:
        raise RpcError(Status.PERMISSION_DENIED, "no")

    made = grpc_management.service(management, refuse, 1000)
    handler = made.methods["ListModels"].factory(make_call())

    with pytest.raises(RpcError):
        handler.message(b"")


def test_a_default_without_workers_is_not_told_to_the_engine(bench) -> None:
    """The engine is asked only for what it serves."""
    bench.add("m", workers=0)

    bench.registry._prefer("m")

    assert bench.engine.preferred == []
