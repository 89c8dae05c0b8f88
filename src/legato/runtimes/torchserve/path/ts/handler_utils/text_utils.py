"""``ts.handler_utils.text_utils``."""

from legato.runtimes.torchserve.text import get_tokenizer, ngrams_iterator

__all__ = ["get_tokenizer", "ngrams_iterator"]
