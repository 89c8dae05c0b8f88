"""The sequence API from the terminal's side: calls over HTTP, errors as sentences."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from legato.core.errors import ConfigError
from legato.core.ids import id_from_text, id_to_text
from legato.protocols.sequences.operations import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TIMEOUT_S = 60.0


class Remote:
    """A server.

    Args:
        address: ``host:port``, also as a URL.
    """

    def __init__(self, address: str) -> None:
        self.address = address.removeprefix("http://").rstrip("/")

    def __repr__(self) -> str:
        return f"<Remote {self.address}>"

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        fields: Mapping[str, Any] | None = None,
        file: bytes | None = None,
    ) -> Any:
        """Call the API; ``None`` in query and fields means "not given".

        Returns:
            The JSON answer, or the bytes of a file.

        Raises:
            ConfigError: The server refused, or does not answer.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = ROOT + path + (f"?{urlencode(given)}" if given else "")
        body, kind = file, "application/octet-stream"
        if fields is not None:
            present = {name: value for name, value in fields.items() if value is not None}
            body, kind = json.dumps(present).encode(), "application/json"
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT_S)
        try:
            connection.request(method, target, body, {"content-type": kind} if body else {})
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ConfigError(
                f"no server answers at {self.address}: {error}",
                fix="start one with 'legato serve', or name it with --server or LEGATO_SERVER",
            ) from None
        finally:
            connection.close()
        return self._answer(response.status, response.headers.get_content_type(), data)

    def _answer(self, status: int, kind: str, data: bytes) -> Any:
        if kind != "application/json":
            if status == 200:
                return data
            raise ConfigError(f"{self.address} answers with status {status}: is it Legato?")
        answer = json.loads(data)
        if status >= 400:
            raise ConfigError(str(answer.get("error", answer)))
        return answer

    def pages(self, path: str, query: Mapping[str, Any], rows: str, most: int) -> Iterator[Any]:
        """Follow the pages of a listing; ``most`` = 0 for all of them."""
        cursor: str | None = None
        count = 0
        while True:
            limit = min(1000, most - count) if most else 1000
            asked = {**query, "cursor": cursor}
            if rows == "sequences":
                asked["limit"] = limit
            answer = self.call("GET", path, asked)
            for row in answer[rows]:
                yield row
                count += 1
                if count == most:
                    return
            cursor = answer.get("cursor")
            if not cursor:
                return


def model_path(model: str) -> str:
    """Path of a model's calls."""
    return f"/models/{quote(model, safe='')}"


def sequence_path(model: str, correlation_id: str) -> str:
    """Path of the calls about one sequence.

    Raises:
        ConfigError: The id cannot be one.
    """
    return f"{model_path(model)}/sequences/{quote(typed(correlation_id), safe=':~@')}"


def typed(correlation_id: str) -> str:
    """An id as people type it, in the form that any path carries.

    Raises:
        ConfigError: It cannot be one.
    """
    try:
        return id_to_text(id_from_text(correlation_id))
    except ValueError as error:
        raise ConfigError(str(error), key="ID") from None
