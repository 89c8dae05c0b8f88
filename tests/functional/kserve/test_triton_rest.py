"""Triton's HTTP extras: raw bodies, generate, statistics, settings and metrics on a real server."""

from __future__ import annotations

import gzip
import json
import time
import zlib

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 20


@pytest.fixture
def web(server):
    with httpx.Client(base_url=f"http://{server}", timeout=TIMEOUT_S) as client:
        yield client


def binary(
    sequence: int, *, start: bool = False, end: bool = False
) -> tuple[bytes, dict[str, str]]:
    """A request that sends and wants raw bytes."""
    head = json.dumps(
        {
            "id": "z",
            "parameters": {
                "sequence_id": sequence, "sequence_start": start, "sequence_end": end,
                "binary_data_output": True,
            },
            "inputs": [
                {
                    "name": "INPUT", "datatype": "FP32", "shape": [1, 1],
                    "parameters": {"binary_data_size": 4},
                }
            ],
        }
    ).encode()  # fmt: skip
    length = {"Inference-Header-Content-Length": str(len(head))}
    return head + np.float32([3]).tobytes(), length


@pytest.mark.parametrize("packing", ["identity", "gzip", "deflate"])
def test_raw_tensors_both_ways_in_any_packing(web, fresh_id, packing) -> None:
    """The header tells where the JSON ends, in the body as it was before packing."""
    body, headers = binary(fresh_id, start=True)
    pack = {"identity": bytes, "gzip": gzip.compress, "deflate": zlib.compress}[packing]

    answer = web.post(
        "/v2/models/accumulator/infer",
        content=pack(body),
        headers={**headers, "Content-Encoding": packing, "Accept-Encoding": packing},
    )

    length = int(answer.headers["Inference-Header-Content-Length"])
    head = json.loads(answer.content[:length])
    assert head["id"] == "z"
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert np.frombuffer(answer.content[length:], np.float32) == [3]
    assert answer.headers["content-type"] == "application/octet-stream"


def test_a_body_may_be_the_one_input(serve, model, tmp_path_factory) -> None:
    """The header says that there is no JSON at all; such a request names no sequence."""
    import onnx
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("plain") / "double"
    folder.mkdir()
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in "XY"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["X", "X"], ["Y"])], "g", [value[0]], [value[1]]
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "model.onnx")

    answer = httpx.post(
        f"http://{serve(folder).address}/v2/models/double/infer",
        content=np.float32([1, 2]).tobytes(),
        headers={"Inference-Header-Content-Length": "0"},
        timeout=TIMEOUT_S,
    )

    assert answer.json()["outputs"][0]["data"] == [2, 4]


def test_generate_runs_a_sequence(web, fresh_id) -> None:
    """Flat JSON in and out; events where they are asked for."""
    path = "/v2/models/accumulator/generate"

    first = web.post(path, json={"INPUT": 1, "sequence_id": fresh_id, "sequence_start": True})
    second = web.post(f"{path}_stream", json={"INPUT": 2, "parameters": {"sequence_id": fresh_id}})

    assert first.json()["OUTPUT"] == 1
    assert second.headers["content-type"].startswith("text/event-stream")
    event = json.loads(second.text.removeprefix("data: "))
    assert (event["OUTPUT"], event["sequence_step"]) == (3, 2)


def test_statistics_count_both_ends_of_requests(web, fresh_id) -> None:
    """What went well and what failed, over all paths that tell it."""
    before = web.get("/v2/models/accumulator/stats").json()["model_stats"][0]
    for start in (True, False, False):
        web.post("/v2/models/accumulator/infer", content=(made := binary(fresh_id, start=start))[0],
                 headers=made[1])  # fmt: skip
    made = binary(fresh_id + 1)
    web.post("/v2/models/accumulator/infer", content=made[0], headers=made[1])

    after = web.get("/v2/models/accumulator/versions/1/stats").json()["model_stats"][0]
    everything = web.get("/v2/models/stats").json()["model_stats"]

    def grew(*path: str) -> int:
        old, new = before, after
        for key in path:
            old, new = old[key], new[key]
        return int(new) - int(old)

    assert grew("inference_count") == grew("execution_count") == 3
    assert grew("inference_stats", "success", "count") == 3
    assert grew("inference_stats", "queue", "count") == 3
    assert grew("inference_stats", "fail", "count") == 1
    assert grew("inference_stats", "compute_infer", "ns") > 0
    assert sum(int(batch["compute_infer"]["count"]) for batch in after["batch_stats"]) >= 3
    assert int(after["last_inference"]) > 1_600_000_000_000
    assert [entry["name"] for entry in everything] == ["accumulator"]


def test_metrics_have_tritons_names(web, fresh_id) -> None:
    """On the page where ours are, and readable as Prometheus reads it."""
    body, headers = binary(fresh_id, start=True)
    web.post("/v2/models/accumulator/infer", content=body, headers=headers)

    page = web.get("/metrics").text

    families = {family.name: family for family in text_string_to_metric_families(page)}
    (count,) = families["nv_inference_count"].samples
    assert count.labels == {"model": "accumulator", "version": "1"}
    assert count.value >= 1
    assert 0 <= families["nv_cpu_utilization"].samples[0].value <= 1
    assert "legato_steps" in families


def test_log_settings_take_effect(serve, model, fresh_id) -> None:
    """What is turned off is not written any more, and can be turned on again."""
    served = serve(model)
    client = triton_grpc.InferenceServerClient(served.address)
    rest = triton_http.InferenceServerClient(served.address)

    off = client.update_log_settings({"log_warning": False, "log_verbose_level": 1}, as_json=True)
    silent = len(served.said)
    rest.update_trace_settings(settings={"trace_rate": "7"})  # would be told as a warning
    on = rest.update_log_settings({"log_warning": True})
    rest.update_trace_settings(settings={"trace_rate": "8"})
    with served.news:
        assert served.news.wait_for(lambda: "trace_settings_have" in served.errors, TIMEOUT_S)

    assert "log_warning" in off["settings"]
    assert on["log_warning"] is True
    said = "".join(served.said[silent:])
    assert said.count("trace_settings_have_no_effect") == 1
    assert client.get_trace_settings(as_json=True)["settings"]["trace_rate"]["value"] == ["8"]


def test_a_client_that_leaves_the_backlog_begins_no_sequence(serve, model, tmp_path) -> None:
    """Its place is free for others, and nothing lives on for nobody."""
    folder = tmp_path / "accumulator"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((model / "model.onnx").read_bytes())
    config = (model / "model.yaml").read_text()
    (folder / "model.yaml").write_text(f"{config}sequences: {{max_live: 1}}\n")
    url = f"http://{serve(folder).address}"
    path = f"{url}/v2/models/accumulator/infer"

    def waiting() -> float:
        page = httpx.get(f"{url}/metrics", timeout=TIMEOUT_S).text
        (line,) = [x for x in page.splitlines() if x.startswith("legato_sequences_backlog{")]
        return float(line.split()[-1])

    def post(sequence: int, timeout: float = TIMEOUT_S) -> httpx.Response:
        body, headers = binary(sequence, start=True)
        return httpx.post(path, content=body, headers=headers, timeout=timeout)

    post(1)
    with pytest.raises(httpx.ReadTimeout):
        post(2, timeout=0.3)
    deadline = time.monotonic() + TIMEOUT_S
    while waiting():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    body, headers = binary(1, end=True)
    httpx.post(path, content=body, headers=headers, timeout=TIMEOUT_S).raise_for_status()

    page = httpx.get(f"{url}/metrics", timeout=TIMEOUT_S).text
    assert 'legato_sequences_live{model="accumulator",version="1"} 0.0' in page
    assert 'legato_sequences_opened_total{model="accumulator",version="1"} 1.0' in page
