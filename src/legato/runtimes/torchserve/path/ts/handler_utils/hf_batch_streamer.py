"""``ts.handler_utils.hf_batch_streamer``."""

from legato.runtimes.torchserve.streamer import TextIteratorStreamerBatch

__all__ = ["TextIteratorStreamerBatch"]
