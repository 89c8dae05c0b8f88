"""``TextIteratorStreamerBatch``: the texts of a batch as transformers generates them."""

from __future__ import annotations

from typing import Any, Self

from legato.runtimes.torchserve.needs import need

__all__ = ["TextIteratorStreamerBatch"]

_streamers: Any = need("transformers.generation.streamers", "TextIteratorStreamerBatch")


class TextIteratorStreamerBatch(_streamers.BaseStreamer):  # type: ignore[misc]  # a class of theirs
    """One streamer a row; gives the next piece of each, until one has none.

    Args:
        tokenizer: Makes text of tokens.
        batch_size: Rows.
        skip_prompt: Leave the prompt out.
        timeout: Longest wait for a piece, in seconds.
        decode_kwargs: For the tokenizer.
    """

    def __init__(
        self,
        tokenizer: Any,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        self.batch_size = batch_size
        self.streamers = [
            _streamers.TextIteratorStreamer(tokenizer, skip_prompt, timeout, **decode_kwargs)
            for _ in range(batch_size)
        ]
        self._pieces = [iter(streamer) for streamer in self.streamers]

    def put(self, value: Any) -> None:
        """Take one token a row.

        Raises:
            ValueError: They are more or fewer than the rows.
        """
        if value.shape[0] != self.batch_size:
            raise ValueError(f"{self.batch_size} rows are streamed, not {value.shape[0]}")
        for index, streamer in enumerate(self.streamers):
            streamer.put(value[index : index + 1])

    def end(self) -> None:
        """Say that no more will come."""
        for streamer in self.streamers:
            streamer.end()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[dict[str, str]]:
        """Return the next piece of each row."""
        return [{"text": next(pieces)} for pieces in self._pieces]
