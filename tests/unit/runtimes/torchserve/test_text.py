"""What handlers of text make of a text, as far as it needs no torch."""

from __future__ import annotations

import pytest

from legato.runtimes.torchserve.context import Context
from legato.runtimes.torchserve.text import TextClassifier, get_tokenizer, ngrams_iterator


def test_english_is_cut_into_words_and_marks() -> None:
    """In lower case; quotation marks are dropped."""
    tokens = get_tokenizer("basic_english")('You can: "go", now(!) it\'s.')

    assert tokens == "you can go , now ( ! ) it ' s .".split()
    assert get_tokenizer(None)("a  b") == ["a", "b"]
    assert get_tokenizer(str.upper)("a") == "A"
    with pytest.raises(ValueError, match="spacy"):
        get_tokenizer("spacy")


def test_ngrams_are_runs_of_tokens() -> None:
    """Single ones first."""
    assert list(ngrams_iterator(["a", "b", "c"], 2)) == ["a", "b", "c", "a b", "b c"]
    assert list(ngrams_iterator(["a"], 3)) == ["a"]


@pytest.mark.parametrize(
    ("text", "long"),
    [
        ("don't", "do not"),
        ("I'd say they've won", "I would say they have won"),
        ("won't, can't", "will not, can not"),
        ("the cat's paw", "the cats paw"),
        ("it's Ann", "it is Ann"),
    ],
)
def test_short_forms_are_written_out(text: str, long: str) -> None:
    """Others lose their mark."""
    assert TextClassifier()._expand_contractions(text) == long


def test_accents_and_punctuation_go() -> None:
    """By the name that older handlers call, too."""
    handler = TextClassifier()

    assert handler._remove_accented_characters("café") == "cafe"
    assert handler._remove_puncutation("a, b!") == "a b"
    assert handler.get_word_token(["\u0120word"]) == ["word"]


def test_an_archive_without_vocabulary_is_told_how_to_pack_one(tmp_path) -> None:
    """By its name."""
    context = Context("m", str(tmp_path), {"model": {}}, 1, None, "0.12.0")

    with pytest.raises(FileNotFoundError, match=r"source_vocab\.pt"):
        TextClassifier().get_source_vocab_path(context)
