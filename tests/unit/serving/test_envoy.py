"""Envoy's configuration: pyvoy's own, with our changes."""

from __future__ import annotations

from legato.serving.envoy import build_config
from legato.settings import ServerSettings, TlsAddress


def listener(**settings: object) -> dict:
    config = build_config(ServerSettings(**settings), "127.0.0.1", None)
    (found,) = config["static_resources"]["listeners"]
    return found


def manager(found: dict) -> dict:
    (chain,) = found["filter_chains"]
    return chain["filters"][-1]["typed_config"]


def test_all_ports_belong_to_one_listener() -> None:
    """One listener is one app on one loop; a second one would be a second app."""
    found = listener(port=8000, extra_ports=(8001, 9000))

    ports = [
        entry["address"]["socket_address"]["port_value"]
        for entry in (found, *found["additional_addresses"])
    ]
    assert ports == [8000, 8001, 9000]


def test_a_quiet_stream_is_never_cut() -> None:
    """Neither its silence nor its length ends a stream."""
    found = manager(listener())

    assert found["stream_idle_timeout"] == "0s"
    assert found["request_timeout"] == "0s"
    assert found["http2_protocol_options"]["max_concurrent_streams"] > 100_000


def test_a_client_that_reads_many_replies_of_one_frame_is_no_flood() -> None:
    """It gives room back for each reply, thousands of times a frame if need be."""
    found = manager(listener())["http2_protocol_options"]

    assert found["max_inbound_window_update_frames_per_data_frame_sent"] >= 1000


def test_a_second_server_cannot_share_the_port() -> None:
    """With SO_REUSEPORT it would silently get half of the connections."""
    assert listener()["enable_reuse_port"] is False


def test_the_app_is_still_pyvoys_last_filter() -> None:
    """What pyvoy configures is kept."""
    *_others, http_filter = manager(listener())["http_filters"]

    assert http_filter["typed_config"]["terminal_filter"] is True
    assert "legato.serving.child:app" in http_filter["typed_config"]["filter_config"]["value"]


def test_tls_is_taken_off_in_front_of_a_port_in_the_clear() -> None:
    """Its listener has no app, which would be a second one; nor does it cut quiet streams."""
    tls = TlsAddress(host="127.0.0.1", port=8443, inner=9000, certificate="c.pem", key="k.pem")
    settings = ServerSettings(models=(), store="memory", port=9000, tls=(tls,))

    config = build_config(settings, "127.0.0.1", None)["static_resources"]

    _plain, listener = config["listeners"]
    ((chain,), (cluster,)) = listener["filter_chains"], config["clusters"]
    (proxy,) = chain["filters"]
    context = chain["transport_socket"]["typed_config"]["common_tls_context"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert listener["address"]["socket_address"]["port_value"] == 8443
    assert proxy["typed_config"]["cluster"] == cluster["name"]
    assert proxy["typed_config"]["idle_timeout"] == "0s"
    assert context["alpn_protocols"] == ["h2", "http/1.1"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {
        "address": "127.0.0.1",
        "port_value": 9000,
    }
