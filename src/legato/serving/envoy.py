"""Envoy's configuration: pyvoy's own, with our changes; and its admin interface."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any, Final

from pyvoy import PyvoyServer

from legato.core.errors import ConfigError
from legato.serving.paths import ALLOWED_SIZE, refuse_other_paths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from legato.settings import ServerSettings, TlsAddress

APP: Final = "legato.serving.child:app"
LISTENER: Final = "listener"

_STREAM_WINDOW_BYTES: Final = 4 * 1024 * 1024
_CONNECTION_WINDOW_BYTES: Final = 64 * 1024 * 1024
_CONNECTION_BUFFER_BYTES: Final = 16 * 1024 * 1024

# What we change in the connection manager, and why:
_MANAGER_CHANGES: Final[dict[str, Any]] = {
    # Five minutes by default: a quiet stream of a live sequence would be cut.
    "stream_idle_timeout": "0s",
    "request_timeout": "0s",
    # A client that opens a connection and dawdles over its headers is still cut.
    "request_headers_timeout": "30s",
    "max_request_headers_kb": 256,
    "server_name": "legato",
    "common_http_protocol_options": {"idle_timeout": "3600s", "max_headers_count": 500},
    "http2_protocol_options": {
        # One stream a sequence is the usual way to use us: the default of 1024 is too few.
        "max_concurrent_streams": 1_000_000,
        "initial_stream_window_size": _STREAM_WINDOW_BYTES,
        "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
        # gRPC clients give room back for each message they read, and a batch's replies on one
        # stream are one frame: at the default of 10 a busy connection is taken for a flood.
        "max_inbound_window_update_frames_per_data_frame_sent": 10_000,
        # A client that vanished without a word is found, and its streams are cancelled.
        "connection_keepalive": {"interval": "60s", "timeout": "30s"},
    },
}


def build_config(
    settings: ServerSettings, address: str, admin: Path | None, app: str = APP
) -> dict[str, Any]:
    """Return the whole configuration.

    Args:
        settings: What was asked for.
        address: The IP address to listen on.
        admin: Unix socket for the admin interface; ``None`` = a free loopback port.
        app: The ASGI app, ``module:attribute``.
    """
    pyvoy = PyvoyServer(app, address=address, port=settings.port, lifespan=True)
    config: dict[str, Any] = pyvoy.get_envoy_config()
    if admin is not None:
        config["admin"]["address"] = {"pipe": {"path": str(admin), "mode": 0o600}}
    (listener,) = config["static_resources"]["listeners"]
    further = [(address, port) for port in settings.extra_ports]
    further += [(resolve(host), port) for host, port in settings.extra_addresses]
    if further:
        # Further addresses of one listener; a second listener would be a second app.
        listener["additional_addresses"] = [
            {"address": {"socket_address": {"address": host, "port_value": port}}}
            for host, port in further
        ]
    # With SO_REUSEPORT a second server on our port would silently take half of our clients.
    listener["enable_reuse_port"] = False
    listener["per_connection_buffer_limit_bytes"] = _CONNECTION_BUFFER_BYTES
    for chain in listener["filter_chains"]:
        for network_filter in chain["filters"]:
            if network_filter["name"] == "envoy.filters.network.http_connection_manager":
                network_filter["typed_config"].update(_MANAGER_CHANGES)
                refuse_other_paths(network_filter["typed_config"])
    listeners, clusters = _tls(settings.tls)
    config["static_resources"]["listeners"] += listeners
    config["static_resources"].setdefault("clusters", []).extend(clusters)
    config["layered_runtime"] = {"layers": [{"name": "legato", "static_layer": ALLOWED_SIZE}]}
    return config


_TYPES: Final = "type.googleapis.com/envoy.extensions"


def _tls(addresses: Sequence[TlsAddress]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return listeners that take TLS off and hand bytes on, and where they hand them to.

    An HTTP listener of their own would start the app a second time.
    """
    listeners, clusters = [], []
    for one in addresses:
        name = f"tls_{one.port}"
        certificate = {
            "certificate_chain": {"filename": str(one.certificate)},
            "private_key": {"filename": str(one.key)},
        }
        context = {
            "@type": f"{_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [certificate],
                "alpn_protocols": ["h2", "http/1.1"],
            },
        }
        proxy = {
            "@type": f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name,
            "cluster": name,
            "idle_timeout": "0s",  # a quiet stream of a live sequence must not be cut
        }
        listeners.append(
            {
                "name": name,
                "address": _address(resolve(one.host), one.port),
                "enable_reuse_port": False,
                "per_connection_buffer_limit_bytes": _CONNECTION_BUFFER_BYTES,
                "filter_chains": [
                    {
                        "filters": [
                            {"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}
                        ],
                        "transport_socket": {
                            "name": "envoy.transport_sockets.tls",
                            "typed_config": context,
                        },
                    }
                ],
            }
        )
        endpoint = {"endpoint": {"address": _address("127.0.0.1", one.inner)}}
        clusters.append(
            {
                "name": name,
                "type": "STATIC",
                "connect_timeout": "5s",
                "per_connection_buffer_limit_bytes": _CONNECTION_BUFFER_BYTES,
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{"lb_endpoints": [endpoint]}],
                },
                # Each client's connection is one of ours; Envoy's limit is 1024 of them.
                "circuit_breakers": {"thresholds": [{"max_connections": 1_000_000}]},
            }
        )
    return listeners, clusters


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def resolve(host: str) -> str:
    """Return the IP address of a host name: Envoy listens on addresses only.

    Raises:
        ConfigError: There is none.
    """
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise ConfigError(
            f"'{host}' is not an address of this machine: {error.strerror}",
            key="--host",
            fix="use 127.0.0.1 for this machine only, 0.0.0.0 for every network",
        ) from error


class AdminError(Exception):
    """The admin interface did not give what was asked for."""


class Admin:
    """Envoy's admin interface on a Unix socket. Blocking; answers come at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ports(self) -> Sequence[int]:
        """Return the ports listened on: the first one, then the extra ones.

        Raises:
            AdminError: Nothing listens yet.
        """
        answer = json.loads(self._get("/listeners?format=json"))
        for status in answer.get("listener_statuses", ()):
            if status["name"] == LISTENER:
                addresses = [status["local_address"]]
                addresses += status.get("additional_local_addresses", ())
                return [entry["socket_address"]["port_value"] for entry in addresses]
        raise AdminError("Envoy has no listener yet")

    def _get(self, target: str) -> bytes:
        connection = _UnixConnection(self._path)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(f"no answer from Envoy: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise AdminError(f"Envoy answers {response.status} to {target}")
        return body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
