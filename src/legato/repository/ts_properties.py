"""TorchServe's ``config.properties``: syntax, keys and defaults, lookup order, snapshots.

Both forms of the gRPC ports are taken: a number, and the URL that TorchServe's own stateful
example gives (which TorchServe refuses).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from legato.core.errors import ConfigError
from legato.repository.ts_metrics import ALWAYS, Declared, declared_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

MAX_REQUEST_SIZE: Final = 6_553_500
SNAPSHOT_KEY: Final = "model_snapshot"
_ENV_NAMES: Final = {"token_expiration_min": "TS_TOKEN_EXPIRATION_TIME_MIN"}
_ENV_LAST: Final = ("allowed_urls", "use_env_allowed_urls")
_TRUE: Final = "true"
_TLS_SHIFT: Final = 363  # https is 8443 where http is 8080
_OPEN_INFERENCE: Final = (_TRUE, "oip")

KEYS: Final = frozenset(
    """
    inference_address management_address metrics_address
    grpc_inference_address grpc_management_address grpc_inference_port grpc_management_port
    grpc_inference_max_connection_age_ms grpc_inference_max_connection_age_grace_ms
    grpc_management_max_connection_age_ms grpc_management_max_connection_age_grace_ms
    enable_grpc_ssl private_key_file certificate_file keystore keystore_pass keystore_type
    load_models model_store workflow_store models model_snapshot
    default_workers_per_model default_response_timeout default_startup_timeout
    unregister_model_timeout job_queue_size install_py_dep_per_model
    max_request_size max_response_size number_of_netty_threads netty_client_threads
    prefer_direct_buffer async_logging vmargs plugins_path number_of_gpu
    metrics_mode metrics_config enable_metrics_api model_metrics_auto_detect
    disable_system_metrics metric_time_interval
    default_service_handler service_envelope decode_input_request blacklist_env_vars
    limit_max_image_pixels allowed_urls enable_model_api disable_token_authorization
    token_expiration_min use_env_allowed_urls enable_envvars_config
    cors_allowed_origin cors_allowed_methods cors_allowed_headers
    ts_header_key_sequence_id ts_header_key_sequence_start ts_header_key_sequence_end
    ts_open_inference_protocol initial_worker_port initial_distribution_port
    cpu_launcher_enable cpu_launcher_args ipex_enable version
    """.split()
)
"""Every key that TorchServe reads; others are kept and passed over."""

# -- syntax ---------------------------------------------------------------------------


def parse(text: str, environment: Mapping[str, str], file: str = "") -> dict[str, str]:
    """Read Java properties; ``$$NAME$$`` in a value is replaced from the environment.

    Raises:
        ConfigError: A variable that a value names is not set.
    """
    values: dict[str, str] = {}
    for line in _logical_lines(text):
        key, value = _split(line)
        if key:
            values[key] = _substitute(value, environment, file, key)
    return values


def _logical_lines(text: str) -> Iterator[str]:
    """Join continued lines; leave out comments and empty ones."""
    held = ""
    for raw in text.splitlines():
        line = raw.lstrip(" \t\f")
        if not held and (not line or line[0] in "#!"):
            continue
        trailing = len(line) - len(line.rstrip("\\"))
        if trailing % 2:
            held += line[:-1]
            continue
        yield held + line
        held = ""
    if held:
        yield held


def _split(line: str) -> tuple[str, str]:
    """Cut a line at its first ``=``, ``:`` or blank that is not escaped."""
    found = re.match(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)$", line, re.DOTALL)
    if found is None:
        return _unescape(line), ""
    return _unescape(found[1]), _unescape(found[2])


_ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def _unescape(text: str) -> str:
    def replace(found: re.Match[str]) -> str:
        if found[1] is not None:
            return chr(int(found[1], 16))
        return _ESCAPES.get(found[2], found[2])

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", replace, text)


def _substitute(value: str, environment: Mapping[str, str], file: str, key: str) -> str:
    def replace(found: re.Match[str]) -> str:
        name = found[1]
        if name not in environment:
            raise ConfigError(f"the environment variable {name} is not set", file=file, key=key)
        return environment[name]

    return re.sub(r"\$\$([^$]+)\$\$", replace, value)


def write(values: Mapping[str, str]) -> str:
    """Return the text that :func:`parse` reads these values from."""
    lines = []
    for key, value in sorted(values.items()):
        text = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{key}={text}\n")
    return "".join(lines)


# -- where it is found ----------------------------------------------------------------


def find_file(
    environment: Mapping[str, str], option: Path | None, snapshots: Path | None, here: Path
) -> Path | None:
    """Return the file that TorchServe would read.

    ``TS_CONFIG_FILE``, then ``--ts-config``, then the last snapshot, then
    ``config.properties`` of the working directory.

    Args:
        environment: Variables.
        option: ``--ts-config``.
        snapshots: Folder of snapshots, ``None`` = they are off.
        here: Working directory.

    Raises:
        ConfigError: The file that was named is not there.
    """
    named = environment.get("TS_CONFIG_FILE")
    for path, key in ((here / named if named else None, "TS_CONFIG_FILE"), (option, "--ts-config")):
        if path is not None:
            if not path.is_file():
                raise ConfigError(f"{key} file not found: {path}", key=key)
            return path
    last = newest_snapshot(snapshots) if snapshots is not None else None
    if last is not None:
        return last
    usual = here / "config.properties"
    return usual if usual.is_file() else None


def overridden(values: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Let ``TS_*`` variables win where ``enable_envvars_config`` says so; one always does."""
    made = dict(values)
    if environment.get("TS_OPEN_INFERENCE_PROTOCOL", "").lower() in _OPEN_INFERENCE:
        made["ts_open_inference_protocol"] = _TRUE
    if made.get("enable_envvars_config", "").lower() != _TRUE:
        return made
    for key in KEYS:
        variable = _ENV_NAMES.get(key, "TS_" + key.upper())
        closed = key in _ENV_LAST and made.get("use_env_allowed_urls", "").lower() != _TRUE
        if variable in environment and not closed:
            made[key] = environment[variable]
    return made


# -- meaning --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        tls: Clients speak TLS.
    """

    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Properties:
    """What the keys say, with TorchServe's defaults.

    Attributes:
        values: Everything that was set, as text.
        inference, management, metrics, grpc_inference, grpc_management: Addresses.
        header_keys: Names of the sequence headers: id, start, end.
    """

    values: Mapping[str, str]
    inference: Address
    management: Address
    metrics: Address | None
    grpc_inference: Address
    grpc_management: Address
    header_keys: tuple[str, str, str]

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Properties:
        """Read values.

        Raises:
            ConfigError: One is impossible, or not served here.
        """
        metrics = _flag(values, "enable_metrics_api", default=True)
        return cls(
            values,
            _address(values, "inference_address", 8080),
            _address(values, "management_address", 8081),
            _address(values, "metrics_address", 8082) if metrics else None,
            _grpc(values, "inference", 7070),
            _grpc(values, "management", 7071),
            (
                values.get("ts_header_key_sequence_id", "ts_request_sequence_id").lower(),
                values.get("ts_header_key_sequence_start", "ts_request_sequence_start").lower(),
                values.get("ts_header_key_sequence_end", "ts_request_sequence_end").lower(),
            ),
        )

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every address once; the first is that of inference."""
        found = [
            self.inference, self.management, self.metrics, self.grpc_inference,
            self.grpc_management,
        ]  # fmt: skip
        return tuple(dict.fromkeys(address for address in found if address is not None))

    @property
    def certificate(self) -> tuple[Path, Path] | None:
        """Files of certificate and private key; ``None`` where nobody speaks TLS.

        Raises:
            ConfigError: They are needed and not given.
        """
        if not any(address.tls for address in self.addresses):
            return None
        files = []
        for key in ("certificate_file", "private_key_file"):
            text = self.values.get(key, "").strip()
            if not text:
                store = self.values.get("keystore", "").strip() or "keystore.p12"
                raise ConfigError(
                    "TLS wants a certificate_file and a private_key_file, in PEM"
                    + (f"; a keystore ({store}) is not read" if "keystore" in self.values else ""),
                    key=key,
                    fix=f"openssl pkcs12 -in {store} -nodes -clcerts -nokeys -out cert.pem; "
                    f"openssl pkcs12 -in {store} -nodes -nocerts -out key.pem",
                )
            if not Path(text).is_file():
                raise ConfigError("there is no such file", file=text, key=key, fix="check the path")
            files.append(Path(text).resolve())
        return files[0], files[1]

    @property
    def open_inference(self) -> bool:
        """The Open Inference Protocol is served beside TorchServe's own."""
        return self.values.get("ts_open_inference_protocol", "").strip().lower() in _OPEN_INFERENCE

    @property
    def shows_all_metrics(self) -> bool:
        """Handlers' metrics are shown whether they are declared or not."""
        given = "metrics_config" in self.values
        return _flag(self.values, "model_metrics_auto_detect", default=not given)

    @property
    def logs_metrics(self) -> bool:
        """Each value of a handler's metrics is written to a file, as was asked for in words."""
        return self.values.get("metrics_mode", "").strip().lower() == "log"

    def declared_metrics(self) -> list[Declared]:
        """Return the handlers' metrics that ``metrics_config`` declares. Reads the file.

        Raises:
            ConfigError: It is missing, or is no such file.
        """
        file = self.values.get("metrics_config", "").strip()
        return declared_in(Path(file)) if file else list(ALWAYS)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Return a key as a truth value."""
        return _flag(self.values, key, default=default)

    def number(self, key: str, default: int) -> int:
        """Return a key as a number.

        Raises:
            ConfigError: It is none.
        """
        return _number(self.values, key, default)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a key that is a list with commas."""
        return tuple(part.strip() for part in self.values.get(key, "").split(",") if part.strip())

    def mapping(self, key: str) -> dict[str, Any]:
        """Return a key that is a JSON object; ``{}`` if it is not given.

        Raises:
            ConfigError: It is none.
        """
        text = self.values.get(key, "").strip()
        if not text:
            return {}
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"is not JSON: {error}", key=key) from None
        if not isinstance(value, dict):
            raise ConfigError("is not a JSON object", key=key)
        return value


def _flag(values: Mapping[str, str], key: str, *, default: bool = False) -> bool:
    text = values.get(key, "").strip().lower()
    return text == _TRUE if text else default


def _number(values: Mapping[str, str], key: str, default: int) -> int:
    text = values.get(key, "").strip()
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"Invalid configuration: '{text}' is not a number", key=key) from None


def _address(values: Mapping[str, str], key: str, port: int) -> Address:
    text = values.get(key, "").strip()
    if not text:
        return Address("127.0.0.1", port)
    if text.startswith("unix:"):
        raise ConfigError(
            "Unix sockets are not served", key=key, fix=f"give http://127.0.0.1:{port}"
        )
    parts = urlsplit(text)
    tls = parts.scheme == "https"
    try:
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError
        usual = port + _TLS_SHIFT if tls else port
        return Address(parts.hostname, usual if parts.port is None else parts.port, tls)
    except ValueError:
        raise ConfigError(
            f"Invalid configuration: '{text}' is not http://HOST:PORT or https://HOST:PORT",
            key=key,
        ) from None


def _grpc(values: Mapping[str, str], which: str, port: int) -> Address:
    """Read a gRPC address: host and port apart, or the port written as a URL."""
    key = f"grpc_{which}_port"
    host = values.get(f"grpc_{which}_address", "").strip() or "127.0.0.1"
    if "://" in host:
        host = urlsplit(host).hostname or "127.0.0.1"
    tls = _flag(values, "enable_grpc_ssl")
    if "://" in values.get(key, ""):
        found = _address(values, key, port)
        if f"grpc_{which}_address" not in values:
            host = found.host
        return Address(host, found.port, tls or found.tls)
    return Address(host, _number(values, key, port), tls)


# -- snapshots ------------------------------------------------------------------------


def newest_snapshot(folder: Path) -> Path | None:
    """Return the last snapshot of a folder."""
    return max(folder.glob("[0-9]*-*.cfg"), key=lambda path: path.name, default=None)


def write_snapshot(
    folder: Path,
    kind: str,
    values: Mapping[str, str],
    models: Mapping[str, Mapping[str, Mapping[str, Any]]],
    now: datetime,
) -> Path:
    """Write ``<time>-<kind>.cfg``: the properties and which models are registered.

    Args:
        folder: Made if need be.
        kind: ``startup``, ``snapshot`` or ``shutdown``.
        values: The properties.
        models: Name and version to what is registered.
        now: Local time.
    """
    name = f"{now:%Y%m%d%H%M%S}{now.microsecond // 1000:03d}-{kind}.cfg"
    described = {
        "name": name,
        "modelCount": sum(len(versions) for versions in models.values()),
        "created": int(now.timestamp() * 1000),
        "models": models,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = write({**values, SNAPSHOT_KEY: json.dumps(described)})
    unfinished = folder / f".{name}"
    unfinished.write_text(text)
    unfinished.rename(folder / name)
    return folder / name
