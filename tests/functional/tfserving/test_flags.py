"""Flags of the server: metrics under Model Server's names, its log file, its addresses."""

from __future__ import annotations

import json

import pytest

BY_GRPC = (
    'api="TensorFlowServing",interface="gRPC",method="Predict",name="summator",version="1"'
)  # fmt: skip
BY_REST = BY_GRPC.replace("gRPC", "REST")
BY_KSERVE = BY_REST.replace("TensorFlowServing", "KServe").replace("Predict", "ModelInfer")


@pytest.fixture
def one(kit, tmp_path):
    """Flags of one summator."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    return ["--model_name", "summator", "--model_path", tmp_path / "summator", "--stateful"]


def count(page, name, labels):
    """A metric by its name and labels, in whatever order these stand."""
    wanted = set(labels.split(","))
    for line in page.splitlines():
        head, _, value = line.rpartition(" ")
        if head.startswith(f"{name}{{") and set(head[len(name) + 1 : -1].split(",")) == wanted:
            return float(value)
    raise AssertionError(f"no {name} with {labels}")


def names(page):
    """The families of a page that have Model Server's names."""
    return {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE ovms_")}


def kserve(server, **parameters):
    """Run a step over KServe's REST."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    body = {"parameters": parameters, "inputs": [tensor]}
    return server.rest("POST", "/v2/models/summator/infer", body)[0]


def test_metrics_have_model_servers_names(start, one, client) -> None:
    """Beside ours, with its labels, and without the suffix that others put behind counters."""
    server = start(*one, "--metrics_enable")
    by_grpc, by_rest = client(server), client(server, "rest")
    by_grpc.start(1)
    by_grpc.step(1, 1)
    by_rest.step(1, 1)
    by_rest.refused(1, 2)
    by_grpc.refused(1, 1, 3)
    statuses = [
        kserve(server, sequence_id=5, sequence_start=True),
        server.rest("GET", "/v1/models/summator")[0],
        server.rest("GET", "/v1/models/summator/metadata")[0],
    ]

    page = server.metrics()

    assert statuses == [200, 200, 200]
    assert count(page, "ovms_requests_success", BY_GRPC) == 2
    assert count(page, "ovms_requests_success", BY_REST) == 1
    assert count(page, "ovms_requests_success", BY_KSERVE) == 1
    assert count(page, "ovms_requests_fail", BY_GRPC) == 1
    assert count(page, "ovms_requests_fail", BY_REST) == 1
    asked = BY_REST.replace("Predict", "GetModelMetadata")
    assert count(page, "ovms_requests_success", asked) == 1
    status = 'api="TensorFlowServing",interface="REST",method="GetModelStatus",name="summator"'
    assert count(page, "ovms_requests_success", status) == 1
    of_model = 'name="summator",version="1"'
    assert count(page, "ovms_request_time_us_count", f'interface="gRPC",{of_model}') == 2
    assert count(page, "ovms_inference_time_us_count", of_model) == 4
    assert count(page, "ovms_wait_for_infer_req_time_us_count", of_model) == 4
    assert count(page, "ovms_streams", of_model) == 1
    assert count(page, "ovms_current_requests", of_model) == 0
    assert "legato_sequences_live{" in page


def test_metrics_are_chosen_by_their_names(start, one) -> None:
    """The list replaces the usual ones; without the flag there is none."""
    listed = "ovms_streams, ovms_infer_req_queue_size"

    chosen = start(*one, "--metrics_enable", "--metrics_list", listed).metrics()
    without = start(*one).metrics()

    assert names(chosen) == {"ovms_streams", "ovms_infer_req_queue_size"}
    assert names(without) == set()
    assert "legato_sequences_live{" in without


def test_a_config_file_may_ask_for_metrics(start, kit, one, tmp_path) -> None:
    """Once for the life of the server."""
    path = kit.write_config(
        tmp_path / "config.json",
        {"name": "summator", "base_path": "summator", "stateful": True},
        monitoring={"metrics": {"enable": True, "metrics_list": ["ovms_current_requests"]}},
    )

    assert names(start("--config_path", path).metrics()) == {"ovms_current_requests"}


@pytest.mark.parametrize(
    ("by", "code"), [("flags", 64), ("file", 1)], ids=["command line", "config file"]
)
def test_an_unknown_metric_stops_the_start(kit, one, tmp_path, by, code) -> None:
    """By name."""
    if by == "flags":
        flags = [*one, "--metrics_enable", "--metrics_list", "ovms_streams,ovms_nonsense"]
    else:
        metrics = {"enable": True, "metrics_list": ["ovms_nonsense"]}
        path = kit.write_config(tmp_path / "config.json", monitoring={"metrics": metrics})
        flags = ["--config_path", path]
    server = kit.begin(*flags)

    found = server.served.wait()
    server.served.close()

    assert found == code
    assert "Invalid name in metrics_list: ovms_nonsense" in server.served.errors


def test_the_log_goes_to_a_file(start, one, tmp_path) -> None:
    """And to standard error; what stood in it stays."""
    path = tmp_path / "logs" / "ovms.log"
    path.parent.mkdir()
    path.write_text("a line from before\n")

    server = start(*one, "--log_path", path)

    before, *lines = path.read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert before == "a line from before"
    assert "model_loaded" in events
    assert '"model_loaded"' in server.served.errors


def test_a_log_file_that_cannot_be_written_stops_the_start(kit, one, tmp_path) -> None:
    """Rather than to serve without the log that was asked for."""
    (tmp_path / "file").write_text("")
    server = kit.begin(*one, "--log_path", tmp_path / "file" / "ovms.log")

    code = server.served.wait()
    server.served.close()

    assert code == 1
    assert "cannot write to" in server.served.errors


def test_the_ready_line_names_each_address(kit, one) -> None:
    """Each port with its own."""
    server = kit.begin(*one, rest_host="127.0.0.2")

    ready = server.served.await_ready()
    status = server.rest("GET", "/v1/config")[0]
    server.served.close()

    assert ready["addresses"] == [
        f"127.0.0.1:{server.grpc_port}", f"127.0.0.2:{server.rest_port}"
    ]  # fmt: skip
    assert status == 200
