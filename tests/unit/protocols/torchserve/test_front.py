"""Which port serves what."""

from __future__ import annotations

import pytest

from legato.protocols.torchserve.front import Front, Options


@pytest.fixture
def make(bench, tmp_path):
    def front(*, snapshots=False, **properties: str) -> Front:
        options = Options(
            properties=properties,
            model_store=tmp_path,
            snapshots=tmp_path / "snapshots" if snapshots else None,
        )
        return Front(bench.engine, options, wall=lambda: 1_700_000_000.0)

    return front


async def ask(front, http, port: int, path: str, method="GET", **headers: str):
    one = http(method, path, **headers)
    one.scope["server"] = ("127.0.0.1", port)
    return await one.ask(front)


async def test_each_port_serves_its_own_api(make, http) -> None:
    """And knows nothing of the others'."""
    front = make()

    statuses = {
        (port, path): (await ask(front, http, port, path)).status
        for port in (8080, 8081, 8082)
        for path in ("/ping", "/models", "/metrics")
    }

    assert {key for key, status in statuses.items() if status == 200} == {
        (8080, "/ping"), (8081, "/models"), (8082, "/metrics"),
    }  # fmt: skip
    assert front.owns({"server": ("127.0.0.1", 7070)})
    assert not front.owns({"server": ("127.0.0.1", 8000)})


async def test_one_port_may_serve_all(make, http) -> None:
    """Where addresses are equal the path decides."""
    same = "http://127.0.0.1:9000"
    front = make(inference_address=same, management_address=same, metrics_address=same)

    for path in ("/ping", "/models", "/metrics"):
        assert (await ask(front, http, 9000, path)).status == 200


async def test_a_grpc_port_gives_nothing_to_a_browser(make, http) -> None:
    """404, as for any unknown path."""
    assert (await ask(make(), http, 7070, "/ping")).status == 404


async def test_metrics_can_be_turned_off(make) -> None:
    """Then nothing listens there."""
    assert not make(enable_metrics_api="false").owns({"server": ("127.0.0.1", 8082)})


async def test_snapshots_are_written_at_start_and_end(make, tmp_path) -> None:
    """Without ``load_models``; a folder that cannot be written costs nothing."""
    front = make(snapshots=True, load_models="none.mar", job_queue_size="7")

    front._snapshot("startup")
    front.close()

    files = sorted((tmp_path / "snapshots").iterdir())
    assert [file.name.rpartition("-")[2] for file in files] == ["shutdown.cfg", "startup.cfg"]
    text = files[0].read_text()
    assert "job_queue_size=7" in text
    assert "load_models" not in text
    for file in files:
        file.unlink()
    (tmp_path / "snapshots").rmdir()
    (tmp_path / "snapshots").write_text("a file")
    front.close()
