"""``ts.context``: what a handler is told of its model and of the requests in hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from legato.runtimes.base import Partial
    from legato.runtimes.torchserve.metrics import Metrics

__all__ = ["Context", "RequestProcessor"]


class RequestProcessor:
    """One request: its headers, and what the handler sets on its answer.

    The names of HTTP headers come in lower case; they are found by any spelling.
    """

    def __init__(self, request_header: Mapping[str, Any]) -> None:
        self._status_code = 200
        self._reason_phrase: str | None = None
        self._response_header: dict[str, str] = {}
        self._request_header = dict(request_header)

    def get_request_property(self, key: str) -> Any:
        """Return a request header, ``None`` if absent; HTTP's, in lower case, go by any."""
        found = self._request_header.get(key)
        return found if found is not None else self._request_header.get(key.lower())

    def get_request_properties(self) -> dict[str, Any]:
        """Return all request headers."""
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Set the answer's status."""
        self._status_code = code
        self._reason_phrase = reason_phrase

    def get_response_status_code(self) -> int:
        """Return the answer's status."""
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        """Return the answer's reason phrase."""
        return self._reason_phrase

    def add_response_property(self, key: str, value: str) -> None:
        """Set a header of the answer."""
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        """Return one header of the answer."""
        return self._response_header.get(key)


class Context:
    """One object for the life of a worker; attributes that a handler assigns to it stay.

    Args:
        model_name: Name of the model.
        model_dir: Folder of the archive's files.
        manifest: Its manifest.
        batch_size: Most rows of a call.
        gpu: Number of the GPU, ``None`` for none.
        mms_version: Version that is told to the handler.
        limit_max_image_pixels: As configured.
        metrics: Where the handler's metrics go.
        model_yaml_config: The archive's YAML file.
    """

    def __init__(  # noqa: PLR0917 - TorchServe's signature
        self,
        model_name: str,
        model_dir: str,
        manifest: Mapping[str, Any] | None,
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Metrics | None = None,
        model_yaml_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.request_ids: dict[int, str] | None = None
        self.request_processor: list[RequestProcessor] = [RequestProcessor({})]
        self._metrics = metrics
        self.model_yaml_config: dict[str, Any] = dict(model_yaml_config or {})
        self.stopping_criteria: Sequence[Callable[[Any], bool | None] | None] | None = None
        self.cl_socket = None
        self.header_key_sequence_id = "ts_request_sequence_id"
        self.header_key_sequence_start = "ts_request_sequence_start"
        self.header_key_sequence_end = "ts_request_sequence_end"
        self.partials: list[Partial | None] = []

    @property
    def system_properties(self) -> dict[str, Any]:
        """What a handler may know of where it runs."""
        return self._system_properties

    @property
    def metrics(self) -> Metrics | None:
        """Where the handler's metrics go."""
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def begin(
        self,
        request_ids: Sequence[str],
        headers: Sequence[Mapping[str, Any]],
        partials: Sequence[Partial | None],
    ) -> None:
        """Get ready for a call with these requests."""
        self.request_ids = dict(enumerate(request_ids))
        self.request_processor = [RequestProcessor(header) for header in headers]
        self.partials = list(partials)
        self.stopping_criteria = None
        if self._metrics is not None:
            self._metrics.set_request_ids(self.request_ids)

    def get_request_id(self, idx: int = 0) -> str | None:
        """Return the id of a request."""
        return (self.request_ids or {}).get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        """Return a header of a request, ``None`` if absent; see :class:`RequestProcessor`."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """Return all headers of a request."""
        return self.request_processor[idx].get_request_properties()

    def get_sequence_id(self, idx: int) -> Any:
        """Return the id of the sequence that a request belongs to."""
        return self.get_request_header(idx, self.header_key_sequence_id)

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of an answer."""
        self.request_processor[idx].add_response_property("content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """Return the content type of an answer."""
        return self.request_processor[idx].get_response_header("content-type")

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """Return status and reason phrase of an answer."""
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the status of an answer."""
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of all answers of the call."""
        for processor in self.request_processor:
            processor.report_status(code, phrase)

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of an answer."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Return the headers of an answer."""
        return self.request_processor[idx].get_response_headers()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self.__dict__ == other.__dict__

    __hash__ = object.__hash__
