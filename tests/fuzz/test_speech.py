"""What a model writes, and what is to be said of it: any text in any language."""

import pytest
from hypothesis import strategies as st
from num2words import CONVERTER_CLASSES

from tests.fuzz.garbage import ANY_TEXT, fuzzed
from workers.llm.sentences import CUT_AFTER, SentenceSplitter
from workers.tts.normalise import normalise
from workers.tts.words import SpokenWords

PIECES = st.sampled_from([
    "https://[", "http://[::1]:x/", "www.", "https://a.b/c(d)", "1,234.5", "$", "€", "%", "1:60", "12:30pm",
    "2026-02-31", "1st", "999999999th", "9" * 40, "0" * 20, "-5", "−5°C", "1.234.567,8", "1 000",
    "½", "٣", "Ⅷ", "3 km/h", "w/o", "No. 7", "**", "_", "`", "~~", "[x](y)", "![", "](", "\\", "<b>", "&amp;",
    "# ", "- ", "[ ] ", "|---|",
    "\u200d", "\ufe0f", "👩‍👩‍👧", "🇩🇪", "\u202e", "\x00", "\ud800", "。", "Dr. ", "e.g. ", "1) ", "…", " ", "\n",
    "\t", "a", "word", "É", "ß", "ﬁ",
])  # fmt: skip
WRITTEN = st.lists(PIECES, max_size=12).map("".join) | ANY_TEXT
LANGUAGES = st.sampled_from(["en-US", "de-DE", "fr", "es", "xx", "", "-", *sorted(CONVERTER_CLASSES)])


@fuzzed(WRITTEN, LANGUAGES, st.booleans())
def test_any_text_can_be_said(text, language, numbers):
    """Each character that is said comes from a place in what was written, in order; its last one completes all."""
    said = normalise(text, language, numbers=numbers)
    assert len(said.origins) == len(said.text) and said.length == len(text)
    assert list(said.origins) == sorted(said.origins) and all(0 <= at < len(text) for at in said.origins)
    told = [said.written(at) for at in range(len(said.text) + 1)]
    assert told == sorted(told) and (not said.text or told[-1] == len(text))


@fuzzed(WRITTEN, LANGUAGES, st.lists(st.integers(0, 30), max_size=6))
def test_any_text_is_sentences(text, language, cuts):
    """Joined, they are the text without its white space; how it was cut into pieces makes no difference."""
    whole, pieces = SentenceSplitter(language), SentenceSplitter(language)
    sentences = [*whole.push(text), *whole.finish()]
    readable = text.encode("utf-8", "ignore").decode()
    assert "".join("".join(sentences).split()) == "".join(readable.split())
    assert all(each == each.strip() and each for each in sentences)
    found, rest = [], text
    for cut in cuts:
        found += pieces.push(rest[:cut])
        rest = rest[cut:]
    assert [*found, *pieces.push(rest), *pieces.finish()] == sentences


@fuzzed(WRITTEN, st.lists(st.floats(0, 60), max_size=6), st.none() | st.floats(0.1, 60))
def test_any_text_is_told_with_its_sound(text, moments, seconds):
    """Told piece by piece, whatever the times, it is the text."""
    words = SpokenWords(text)
    assert "".join([*(words.until(at, seconds) for at in sorted(moments)), words.rest()]) == text


LONG = [
    "1",
    "1,",
    "1.",
    "a ",
    "*",
    "[",
    "](",
    "http://",
    "_a",
    " ",
    "-",
    "(",
    "1:0",
    "é",
    "a.",
    "$1",
    "!",
    "`",
    "<",
    "9 ",
]


@pytest.mark.parametrize("piece", LONG)
def test_a_text_of_one_kind_only_takes_no_age(piece):
    """A sentence has an end, whatever the text repeats, and is not too long for any rule of how it is said."""
    for language in ("en-US", "de-DE"):
        splitter = SentenceSplitter(language)
        sentences = [*splitter.push(piece * 1500), *splitter.finish()]
        assert max(map(len, sentences), default=0) <= CUT_AFTER + 1
        for sentence in {*sentences, (piece * CUT_AFTER)[:CUT_AFTER]}:
            normalise(sentence, language)
