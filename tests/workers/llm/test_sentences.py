import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.llm.sentences import CLAUSE_AFTER, SPACE_AFTER, SentenceSplitter

PIECES = [
    "Hello", " ", " ", "\n", ". ", "! ", "? ", "?", ".", "...", "… ", "Dr. ", "e.g. ", "3.5", "1883", "3. ", ", ",
    "; ", ": ", " - ", " — ", "(", ")", '"', "”", "「", "」", "。", "？", "今日は", "The", "word", "Januar", "U.S. ",
    "example.com", "😀", "**bold**", "# ", "- ", "```", "\r\n", "\t", "\u3000", "x" * 60, "M. ", "1. ", "don't",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=60).map("".join)


def split(text, language="en-US", at=()):
    """The sentences of a text pushed in pieces that end ``at`` these places."""
    splitter = SentenceSplitter(language)
    sentences, cuts = [], [0, *sorted(cut for cut in at if cut < len(text)), len(text)]
    for begin, end in zip(cuts, cuts[1:], strict=False):
        sentences += splitter.push(text[begin:end])
    return sentences + splitter.finish()


def bare(text):
    """A text without its white space."""
    return re.sub(r"\s", "", text)


@given(TEXTS, st.lists(st.integers(0, 300), max_size=30), st.sampled_from(["en-US", "de", "ja", "xx", ""]))
def test_how_the_text_is_cut_into_deltas_does_not_matter(text, at, language):
    whole = split(text, language)
    assert split(text, language, at) == whole
    assert split(text, language, range(len(text))) == whole


@given(TEXTS, st.sampled_from(["en-US", "de", "ja"]))
def test_nothing_is_lost_or_added(text, language):
    """Sentences are stripped, not empty, and joined they are the text but for white space between them."""
    sentences = split(text, language)
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)
    assert bare("".join(sentences)) == bare(text)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hello there. How are you?", ["Hello there.", "How are you?"]),
        ("  One! Two?! Three", ["One!", "Two?!", "Three"]),
        ("It costs 3.5 dollars. Really.", ["It costs 3.5 dollars.", "Really."]),
        ("Dr. Smith came, e.g. today. Then he left.", ["Dr. Smith came, e.g. today.", "Then he left."]),
        ("See example.com for v1.2.3 of it. Go.", ["See example.com for v1.2.3 of it.", "Go."]),
        ("It was 1883. People came.", ["It was 1883.", "People came."]),
        ("It was late (or early). They left.", ["It was late (or early).", "They left."]),
        ('"Stop." He did.', ['"Stop."', "He did."]),
        ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
        ("1. First thing. 2. Second thing.", ["1. First thing.", "2. Second thing."]),
        ("A title\nand a line\n\n- an item", ["A title", "and a line", "- an item"]),
        ("No end", ["No end"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences_of_english(text, sentences):
    assert split(text) == sentences


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("ja-JP", "今日は。「元気ですか？」はい！", ["今日は。", "「元気ですか？」", "はい！"]),
        ("zh-CN", "你好。今天3.5度。好吗？", ["你好。", "今天3.5度。", "好吗？"]),
        ("de-DE", "Am 3. Januar kam Dr. Meyer. Danach nicht.", ["Am 3. Januar kam Dr. Meyer.", "Danach nicht."]),
        ("es-ES", "¿Qué tal? ¡Bien!", ["¿Qué tal?", "¡Bien!"]),
    ],
)
def test_sentences_of_other_languages(language, text, sentences):
    assert split(text, language) == sentences


def released(text, language="en"):
    """(what had been pushed, sentence) for each sentence that came before the end of the text."""
    splitter, when = SentenceSplitter(language), []
    for at, character in enumerate(text):
        when += [(text[: at + 1], sentence) for sentence in splitter.push(character)]
    return when


def test_a_sentence_comes_with_the_first_letter_of_the_next():
    assert released("Hello there. How are you?") == [("Hello there. H", "Hello there.")]


def test_a_sentence_comes_with_the_end_of_its_line():
    assert released("Hello there.\nHow") == [("Hello there.\n", "Hello there.")]


def test_a_sentence_that_ends_in_a_number_comes_with_the_next_word():
    assert released("It was 1883. They came.") == [("It was 1883. They ", "It was 1883.")]


def test_a_mark_that_needs_no_space_releases_at_once():
    assert released("今日は。元気", "ja") == [("今日は。元", "今日は。")]


def test_an_end_mark_alone_is_not_yet_an_end():
    splitter = SentenceSplitter("en")
    assert splitter.push("It costs 3.") == []
    assert splitter.push("5 dollars. ") == []
    assert splitter.push("Yes") == ["It costs 3.5 dollars."]
    assert splitter.finish() == ["Yes"]
    assert splitter.finish() == []


def test_a_long_sentence_is_cut_at_its_last_clause_mark():
    """Never within a number or a time, and as soon as it is longer than allowed."""
    head = "so he walked on, at 10:30 with 1,000 others" + " and on" * 25 + ","
    tail = " and on" * 10
    assert len(head) < CLAUSE_AFTER < len(head + tail)
    when = released(head + tail + " to the end.")
    assert [sentence for _, sentence in when] == [head]
    assert len(when[0][0]) <= CLAUSE_AFTER + 2


@pytest.mark.parametrize("mark", [";", ":", " -", " –", " —", "—"])
def test_every_clause_mark_will_do(mark):
    head = "word " * 40 + "and" + mark
    assert split(head + " word" * 20)[0] == head


def test_a_long_text_without_any_mark_is_cut_between_words():
    sentences = split("word " * 300)
    assert all(len(sentence) <= SPACE_AFTER for sentence in sentences)
    assert all(set(sentence.split()) == {"word"} for sentence in sentences)
    assert len(sentences) > 2


def test_a_long_word_is_left_whole():
    assert split("x" * 2000) == ["x" * 2000]
