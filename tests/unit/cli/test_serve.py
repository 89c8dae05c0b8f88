"""The line that says what is served, and where."""

from __future__ import annotations

from legato.cli.serve import as_line
from legato.serving.supervisor import Ready

MODEL = {"name": "lstm", "version": "1", "runtime": "openvino", "states": 2, "batched": True}


def ready(models=(MODEL,), addresses=("127.0.0.1:9000",)):
    ports = tuple(int(address.rpartition(":")[2]) for address in addresses)
    store = {"kind": "memory", "folder": None, "level": "none", "sequences": 0}
    return Ready(
        list(models), "127.0.0.1", ports, addresses, pid=1, seconds=0.5, restarts=0, store=store
    )


def test_each_port_is_shown_with_its_own_address() -> None:
    """They may differ: gRPC for the network, REST for this machine, say."""
    line = as_line(ready(addresses=("127.0.0.1:9000", "[::1]:9000", "10.0.0.5:8000")))

    assert " on http+grpc 127.0.0.1:9000, [::1]:9000, 10.0.0.5:8000 in 0.5 s" in line
    assert "serves lstm (openvino, 2 states, batched) on" in line


def test_many_models_are_counted() -> None:
    """The first five by name."""
    assert "and 3 more on http+grpc" in as_line(ready([MODEL] * 8))


def test_nothing_served_is_said() -> None:
    """A config file may list nothing, or nothing that loads."""
    assert "serves no model on http+grpc" in as_line(ready(()))
