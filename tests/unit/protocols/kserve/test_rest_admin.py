"""What surrounds inference over REST: the same as over gRPC, in JSON."""

from __future__ import annotations

import base64

import httpx
import pytest
from starlette.applications import Starlette

from legato.engine.catalog import ControlError, Indexed
from legato.protocols.kserve.facilities import Facilities, NoRepository
from legato.protocols.kserve.memory import Regions
from legato.protocols.kserve.rest import routes
from legato.protocols.kserve.tuning import LogSettings

REGION = "/v2/systemsharedmemory/region/r"


class FakeRepository:
    """Keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    async def load_model(self, name, *, config=None, files=None) -> None:
        self.asked.append(("load", name, config, files))
        if name == "nobody":
            raise ControlError("no such model", kind="unknown")

    async def unload_model(self, name, *, dependents=False) -> None:
        self.asked.append(("unload", name, dependents))
        if name == "broken":
            raise ControlError("the disk is full", kind="failed")

    def index(self) -> list[Indexed]:
        return [Indexed("a", "1", "READY"), Indexed("b")]


@pytest.fixture
def facilities(tmp_path) -> Facilities:
    (tmp_path / "mine").write_bytes(bytes(100))
    log = LogSettings({"info", "warning", "error"}, lambda _levels: None)
    return Facilities(FakeRepository(), Regions(str(tmp_path)), log)


@pytest.fixture
def web(engine, facilities) -> httpx.AsyncClient:
    app = Starlette(routes=routes(engine, facilities=facilities))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


# -- shared memory ------------------------------------------------------------------------


async def test_regions_are_registered_told_and_unregistered(web) -> None:
    """As a client on the same host does it; the status is a list."""
    made = await web.post(f"{REGION}/register", json={"key": "/mine", "byte_size": 16})
    one = await web.get(f"{REGION}/status")
    gone = await web.post(f"{REGION}/unregister")
    none = await web.get("/v2/systemsharedmemory/status")
    again = await web.post("/v2/systemsharedmemory/unregister", content=b"")

    assert [a.status_code for a in (made, one, gone, none, again)] == [200] * 5
    assert one.json() == [{"name": "r", "key": "/mine", "offset": 0, "byte_size": 16}]
    assert none.json() == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "'key' of a shared memory region must be a string"),
        ({"key": "/mine"}, "'byte_size' of a shared memory region must be a number"),
        ({"key": "/mine", "byte_size": -1}, "'byte_size' of a shared memory region"),
        ({"key": "/mine", "byte_size": 1, "offset": True}, "'offset' of a shared memory region"),
        ({"key": "/mine", "byte_size": 101}, "failed to register shared memory region 'r'"),
        ({"key": "/../mine", "byte_size": 1}, "the key must be '/' and a name"),
    ],
)
async def test_bad_registrations_are_refused(web, body, text) -> None:
    """With the text of gRPC where there is one."""
    answer = await web.post(f"{REGION}/register", json=body)

    assert answer.status_code == 400
    assert text in answer.json()["error"]


async def test_an_unknown_region_is_not_found(web) -> None:
    """404, and the name."""
    answer = await web.get(f"{REGION}/status")

    assert (answer.status_code, answer.json()["error"]) == (
        404,
        "Unable to find system shared memory region: 'r'",
    )


async def test_shared_memory_is_off_unless_allowed(engine) -> None:
    """A GPU's may be given back all the same: load generators do, and must not fail."""
    app = Starlette(routes=routes(engine, facilities=Facilities(NoRepository(engine))))
    web = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    off = [
        await web.get("/v2/systemsharedmemory/status"),
        await web.post(f"{REGION}/register", json={"key": "/mine", "byte_size": 1}),
        await web.post(f"{REGION}/unregister"),
        await web.post("/v2/cudasharedmemory/region/r/register", json={}),
    ]
    cuda = [
        await web.get("/v2/cudasharedmemory/status"),
        await web.post("/v2/cudasharedmemory/unregister"),
        await web.post("/v2/cudasharedmemory/region/r/unregister"),
    ]

    assert {answer.status_code for answer in off} == {501}
    assert all("'--allow-client-shm=true' to enable." in a.json()["error"] for a in off)
    assert [answer.status_code for answer in cuda] == [200] * 3
    assert cuda[0].json() == []


async def test_cuda_memory_is_never_registered(web) -> None:
    """The text says why, and what else there is."""
    answer = await web.post("/v2/cudasharedmemory/region/r/register", json={})

    assert answer.status_code == 501
    assert "GPUs not supported" in answer.json()["error"]


# -- model control ------------------------------------------------------------------------


async def test_the_index_is_the_repositorys(web) -> None:
    """All models, or those that are ready."""
    everything = await web.post("/v2/repository/index", content=b"")
    ready = await web.post("/v2/repository/index", json={"ready": True})

    assert everything.json() == [
        {"name": "a", "version": "1", "state": "READY", "reason": ""},
        {"name": "b", "version": "", "state": "", "reason": ""},
    ]
    assert [line["name"] for line in ready.json()] == ["a"]


async def test_models_are_loaded_with_what_the_client_gives(web, facilities) -> None:
    """Files come as base64."""
    model = base64.b64encode(b"code").decode()
    path = "/v2/repository/models/a"

    loaded = await web.post(
        f"{path}/load", json={"parameters": {"config": "{}", "file:1/model.py": model}}
    )
    unloaded = await web.post(f"{path}/unload", json={"parameters": {"unload_dependents": True}})

    assert [loaded.status_code, unloaded.status_code] == [200, 200]
    assert facilities.repository.asked == [
        ("load", "a", "{}", {"1/model.py": b"code"}),
        ("unload", "a", True),
    ]


@pytest.mark.parametrize(
    ("path", "status"), [("nobody/load", 404), ("broken/unload", 500), ("nobody/unload", 200)]
)
async def test_what_cannot_be_changed_says_why(web, path, status) -> None:
    """The kind of the problem is the status."""
    answer = await web.post(f"/v2/repository/models/{path}", content=b"")

    assert answer.status_code == status


@pytest.mark.parametrize(
    "parameters",
    [
        [],
        {"config": 1},
        {"file:1/m": "not base64!", "config": "{}"},
        {"file:1/m": 1, "config": "{}"},
        {"x": 1},
    ],
)
async def test_parameters_without_meaning_are_refused(web, facilities, parameters) -> None:
    """Before anything is changed."""
    answer = await web.post("/v2/repository/models/a/load", json={"parameters": parameters})

    assert answer.status_code == 400
    assert answer.json()["error"]
    assert facilities.repository.asked == []


# -- settings -----------------------------------------------------------------------------


async def test_log_settings_are_told_and_changed(web) -> None:
    """A request changes what it names; the answer has all."""
    before = (await web.get("/v2/logging")).json()
    after = (await web.post("/v2/logging", json={"log_verbose_level": 1})).json()
    wrong = await web.post("/v2/logging", json={"log_info": "yes"})

    assert (before["log_verbose_level"], after["log_verbose_level"]) == (0, 1)
    assert after["log_info"] is True
    assert wrong.status_code == 400


async def test_trace_settings_are_told_and_changed(web) -> None:
    """Of one model or of all; ``null`` gives back what was before."""
    path = "/v2/models/a/trace/setting"

    changed = (await web.post(path, json={"trace_level": ["TIMESTAMPS"], "trace_rate": 5})).json()
    common = (await web.get("/v2/trace/setting")).json()
    cleared = (await web.post(path, json={"trace_rate": None})).json()
    wrong = await web.post("/v2/trace/setting", json={"trace_rate": {}})

    assert (changed["trace_level"], changed["trace_rate"]) == (["TIMESTAMPS"], "5")
    assert (common["trace_level"], common["trace_rate"]) == (["OFF"], "1000")
    assert (cleared["trace_level"], cleared["trace_rate"]) == (["TIMESTAMPS"], "1000")
    assert wrong.status_code == 400
    assert (await web.get("/v2/models/x/trace/setting")).status_code == 404


async def test_bodies_of_requests_that_carry_nothing_are_bounded(web) -> None:
    """413."""
    answer = await web.post("/v2/logging", content=b" " * 70_000)

    assert answer.status_code == 413
