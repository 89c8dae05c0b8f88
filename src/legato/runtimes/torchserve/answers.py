"""What a handler returns, as bytes; and answers that leave before it returns."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

from legato.runtimes.torchserve.exchange import STREAM_NEXT, Answer, HandlerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.runtimes.torchserve.context import Context

UNSUPPORTED = "Unsupported model output data type."


def to_bytes(value: Any) -> bytes:
    """Encode one element of what a handler returned.

    Raises:
        HandlerError: JSON cannot hold it.
    """
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()
    try:
        return json.dumps(value, indent=2).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise HandlerError(UNSUPPORTED, 503) from error


def answer_of(context: Context, index: int, value: Any, *, more: bool | None) -> Answer:
    """Put an answer together from what was returned and what was set on the context.

    Args:
        context: The context.
        index: Which request.
        value: What the handler returned for it.
        more: Whether it is one of several answers and not the last; ``None`` = it is the only one.
    """
    headers = {key: str(text) for key, text in context.get_response_headers(index).items()}
    content_type = headers.pop("content-type", None)
    if more is not None:
        headers[STREAM_NEXT] = "true" if more else "false"
    status, phrase = context.get_response_status(index)
    return Answer(to_bytes(value), status, phrase or "", content_type, headers)


def send_intermediate_predict_response(
    ret: list[Any],
    req_id_map: Mapping[int, str],
    message: str,
    code: int,
    context: Context | None = None,
) -> None:
    """Send answers that are not the last ones, now; what the handler returns comes after them.

    Args:
        ret: One element a request.
        req_id_map: ``context.request_ids``.
        message: Nobody sees it.
        code: Nobody sees it.
        context: The context.
    """
    del message, code
    if context is None:
        raise ValueError("send_intermediate_predict_response needs the context")
    for index in req_id_map:
        partial = context.partials[index]
        if partial is not None:
            answer = answer_of(context, index, ret[index], more=True)
            partial(answer.body, answer.meta())
