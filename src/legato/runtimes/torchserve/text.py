"""Handlers of text: cleaning, tokens, a classifier.

They need torch once they are loaded; an explanation needs captum.
"""

from __future__ import annotations

import re
import string
import unicodedata
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from legato.runtimes.torchserve.base_handler import BaseHandler
from legato.runtimes.torchserve.helpers import CLEANUP_REGEX, map_class_to_label
from legato.runtimes.torchserve.needs import need

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from legato.runtimes.torchserve.context import Context

__all__ = ["CONTRACTION_MAP", "TextClassifier", "TextHandler", "get_tokenizer", "ngrams_iterator"]

_VOCABULARY: Final = "source_vocab.pt"
_NOT: Final = """
    ain't=is can't=can couldn't=could didn't=did doesn't=does don't=do hadn't=had hasn't=has
    haven't=have isn't=is mightn't=might mustn't=must needn't=need shan't=shall shouldn't=should
    wasn't=was weren't=were won't=will wouldn't=would aren't=are oughtn't=ought
"""
_ENDS: Final = {"'ll": "will", "'ve": "have", "'re": "are", "'m": "am", "'d": "would", "'s": "is"}
_WORDS: Final = """
    'll=i,you,he,she,it,we,they,that,there,this,what,who,how
    've=i,you,we,they,could,should,would,might,must,who,what
    're=you,we,they,who,what
    'm=i
    'd=i,you,he,she,it,we,they,that,there,who
    's=he,she,it,that,there,here,what,when,where,who,why,how
"""


def _contractions() -> dict[str, str]:
    """Make the table of short forms and what they stand for."""
    made = {"let's": "let us", "ma'am": "madam", "o'clock": "of the clock", "y'all": "you all",
            "'cause": "because", "cannot": "can not"}  # fmt: skip
    for entry in _NOT.split():
        short, _, verb = entry.partition("=")
        made[short] = f"{verb} not"
    for line in _WORDS.split():
        end, _, words = line.partition("=")
        made.update({f"{word}{end}": f"{word} {_ENDS[end]}" for word in words.split(",")})
    return made


CONTRACTION_MAP: Final = _contractions()
"""Short forms of English words."""

_SHORT: Final = re.compile(
    "|".join(rf"(?<!\w){re.escape(short)}(?!\w)" for short in CONTRACTION_MAP), re.IGNORECASE
)
_TOKENS: Final = (
    ("'", " '  "), ('"', ""), (".", " . "), ("<br />", " "), (",", " , "), ("(", " ( "),
    (")", " ) "), ("!", " ! "), ("?", " ? "), (";", " "), (":", " "),
)  # fmt: skip


def get_tokenizer(tokenizer: Any, language: str = "en") -> Any:
    """Return a function that makes tokens of a text.

    Args:
        tokenizer: ``basic_english``, a function, or ``None`` to split at blanks.
        language: English is the only one.

    Raises:
        ValueError: There is no such tokenizer here.
    """
    if tokenizer is None:
        return str.split
    if tokenizer == "basic_english" and language == "en":
        return _basic_english
    if callable(tokenizer):
        return tokenizer
    raise ValueError(f"there is no tokenizer '{tokenizer}' for '{language}', only 'basic_english'")


def _basic_english(line: str) -> list[str]:
    line = line.lower()
    for mark, instead in _TOKENS:
        line = line.replace(mark, instead)
    return line.split()


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """Yield the tokens, then pairs of them, and so on."""
    for count in range(1, ngrams + 1):
        for at in range(len(token_list) - count + 1):
            yield " ".join(token_list[at : at + count])


class TextHandler(BaseHandler):
    """Cleans texts and makes tokens of them.

    Attributes:
        source_vocab: Token to number, from ``source_vocab.pt`` of the archive.
        tokenizer: Makes tokens of a text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer = get_tokenizer("basic_english")
        self.input_text: Any = None

    def initialize(self, context: Context) -> None:
        """Load the model and its vocabulary."""
        super().initialize(context)
        self.initialized = False
        named = (self.manifest or {}).get("model", {}).get("sourceVocab")
        torch = need("torch", "a handler of texts (ts.torch_handler)")
        # The archive is code that is run anyway, and its vocabulary may be an object.
        path = named or self.get_source_vocab_path(context)
        self.source_vocab = torch.load(path, weights_only=False)
        self.initialized = True

    @cached_property
    def lig(self) -> Any:
        """What explains; made when it is first asked for."""
        attr = need("captum.attr", "an explanation of a text")
        return attr.LayerIntegratedGradients(self.model, self.model.embedding)

    def get_source_vocab_path(self, ctx: Context) -> str:
        """Return where the vocabulary is.

        Raises:
            FileNotFoundError: The archive has none.
        """
        path = Path(ctx.system_properties["model_dir"]) / _VOCABULARY
        if not path.is_file():
            raise FileNotFoundError(
                f"the archive has no {_VOCABULARY}: pack one with --extra-files, "
                "a dictionary from token to number, saved by torch.save"
            )
        return str(path)

    def _expand_contractions(self, text: str) -> str:
        def long(found: re.Match[str]) -> str:
            return found[0][0] + CONTRACTION_MAP[found[0].lower()][1:]

        return _SHORT.sub(long, text).replace("'", "")

    def _remove_accented_characters(self, text: str) -> str:
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_html_tags(self, text: str) -> str:
        return CLEANUP_REGEX.sub("", text)

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(str.maketrans("", "", string.punctuation))

    _remove_puncutation = _remove_punctuation  # as older handlers spell it

    def _tokenize(self, text: str) -> Any:
        return self.tokenizer(text)

    def get_word_token(self, input_tokens: Sequence[str]) -> list[str]:
        """Return the tokens without the marks that some tokenizers put before a word."""
        return [
            token.replace("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "") for token in input_tokens
        ]

    def summarize_attributions(self, attributions: Any) -> Any:
        """Put what each token did into one number."""
        torch = need("torch", "an explanation of a text")
        shares = torch.nn.functional.softmax(attributions, dim=-1)
        return shares / torch.norm(shares.sum(dim=-1))


class TextClassifier(TextHandler):
    """Gives a text's classes with their probabilities; one text a call.

    Attributes:
        ngrams: Longest run of tokens that is looked up.
    """

    ngrams = 2

    def preprocess(self, data: Any) -> Any:
        """Clean the text of the first row and look its tokens up; give numbers and tokens."""
        torch = need("torch", "a handler of texts (ts.torch_handler)")
        text = data[0].get("data") or data[0].get("body")
        if isinstance(text, bytes | bytearray):
            text = text.decode("utf-8")
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        text = self._remove_punctuation(self._remove_accented_characters(text))
        tokens = self._tokenize(text)
        numbers = [self.source_vocab[token] for token in ngrams_iterator(tokens, self.ngrams)]
        return torch.as_tensor(numbers, device=self.device), tokens

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on numbers and the place where the text begins."""
        torch = need("torch", "a handler of texts (ts.torch_handler)")
        numbers, _tokens = data
        return super().inference(numbers, torch.as_tensor([0], device=self.device), *args, **kwargs)

    def postprocess(self, data: Any) -> Any:
        """Name the classes."""
        torch = need("torch", "a handler of texts (ts.torch_handler)")
        chances = torch.nn.functional.softmax(data, dim=-1)
        return map_class_to_label(chances.tolist(), self.mapping)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any = 0) -> Any:
        """Say which words an answer came from."""
        del raw_data
        torch = need("torch", "an explanation of a text")
        attr = need("captum.attr", "an explanation of a text")
        numbers, tokens = tensor_data
        reference = attr.TokenReferenceBase().generate_reference(
            numbers.shape[0], device=self.device
        )
        found = self.lig.attribute(
            numbers,
            reference.squeeze(0),
            additional_forward_args=(torch.tensor([0]).to(self.device)),
            return_convergence_delta=False,
            target=target,
        )
        importances = self.summarize_attributions(found).tolist()
        return [{"importances": importances, "words": self.get_word_token(tokens)}]
