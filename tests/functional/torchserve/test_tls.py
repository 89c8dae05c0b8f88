"""TLS as config.properties asks for it, on every API and over gRPC."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import urllib.request
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.functional.torchserve.conftest import Client, ask, free_ports, write_adder
from tests.functional.torchserve.test_command import run

from legato.protocols.torchserve.gen import inference_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("inference", "management", "metrics", "grpc_inference", "grpc_management")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A folder with cert.pem and key.pem for localhost."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: it makes the certificate")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ],
        check=True, cwd=folder, capture_output=True, timeout=60,
    )  # fmt: skip
    return folder


def properties(certificate: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Ports, and the keys that put TLS on all but the metrics."""
    named = dict(zip(NAMES, free_ports(5), strict=True))
    return named, {
        "inference_address": f"https://127.0.0.1:{named['inference']}",
        "management_address": f"https://127.0.0.1:{named['management']}",
        "metrics_address": f"http://127.0.0.1:{named['metrics']}",
        "grpc_inference_port": str(named["grpc_inference"]),
        "grpc_management_port": str(named["grpc_management"]),
        "enable_grpc_ssl": "true",
        "certificate_file": str(certificate / "cert.pem"),
        "private_key_file": str(certificate / "key.pem"),
    }


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory, certificate):
    folder = tmp_path_factory.mktemp("tls")
    write_adder(folder / "store")
    named, more = properties(certificate)
    one = torchserve(
        *("--ncs", "--disable-token-auth", "--models", "adder"), folder=folder, properties=more
    )
    one.named = named
    return one


def get(url: str, certificate: Path, body: bytes | None = None, **headers: str) -> bytes:
    """Ask as a client that trusts the certificate."""
    context = ssl.create_default_context(cafile=certificate / "cert.pem")
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - our own server
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310
        return answer.read()


def test_every_api_speaks_tls(served, certificate) -> None:
    """Those whose address says https; the others do not."""
    at = {name: f"https://localhost:{port}" for name, port in served.named.items()}
    kind = {"content-type": "application/octet-stream", "ts_request_sequence_id": "tls"}

    sums = [get(f"{at['inference']}/predictions/adder", certificate, b"2", **kind) for _ in "ab"]

    assert sums == [b"2", b"4"]
    assert b'"adder"' in get(f"{at['management']}/models", certificate)
    assert ask("GET", served.url("metrics", "/metrics")).status == 200
    with pytest.raises(OSError, match=r"reset|closed|violation|Remote end"):
        ask("GET", served.url("inference", "/ping"))


def test_grpc_speaks_tls(served, certificate) -> None:
    """An endless stream and a unary call go on with one sequence."""
    trust = grpc.ssl_channel_credentials((certificate / "cert.pem").read_bytes())
    client = Client(served.named["grpc_inference"], served.named["grpc_management"])
    client.close()
    client.inference = grpc.secure_channel(f"localhost:{served.named['grpc_inference']}", trust)
    client.management = grpc.secure_channel(f"localhost:{served.named['grpc_management']}", trust)

    sums = client.infer_stream2("adder", "tls-grpc", b"1", b"2", b"3")
    last = client.predict("adder", b"4", "tls-grpc")
    models = client.manage("ListModels", "ListModelsRequest")
    client.close()

    assert sums == ["1", "3", "6"]
    assert isinstance(last, pb.PredictionResponse)
    assert last.prediction == b"10"
    assert "adder" in models


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("certificate_file", "", "openssl pkcs12"),
        ("private_key_file", "gone.pem", "gone.pem: private_key_file"),
    ],
)
def test_files_that_are_missing_are_told_at_the_start(
    tmp_path, certificate, key: str, value: str, text: str
) -> None:
    """By key; a keystore is not read, and how to make files of it is said."""
    write_adder(tmp_path / "store")
    _named, more = properties(certificate)
    lines = {**more, key: value, "keystore": "keystore.p12"}.items()
    (tmp_path / "config.properties").write_text("".join(f"{k}={v}\n" for k, v in lines))

    started = run(
        tmp_path, "--start", "--ncs", "--model-store", "store", "--ts-config", "config.properties"
    )

    assert started.returncode == 1
    assert text in started.stderr
