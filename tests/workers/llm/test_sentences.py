import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.llm.sentences import LONGEST, SentenceSplitter


def split(text, cuts=(), language="en-US"):
    splitter = SentenceSplitter(language)
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found = [s for a, b in zip(bounds, bounds[1:], strict=False) for s in splitter.push(text[a:b])]
    return found + splitter.finish()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It opened in 1883. Ask me more!", ["It opened in 1883.", "Ask me more!"]),
        ("Dr. Smith paid 3.5 dollars, e.g. for tea. Fine.", ["Dr. Smith paid 3.5 dollars, e.g. for tea.", "Fine."]),
        ("First line\nSecond line", ["First line", "Second line"]),
        ("你好。你好吗？", ["你好。", "你好吗？"]),
        ("  ", []),
        ("", []),
        ("No end mark", ["No end mark"]),
    ],
)
def test_sentences(text, sentences):
    """Numbers and abbreviations do not end a sentence; newlines and wide end marks do."""
    assert split(text) == sentences


def test_a_sentence_is_given_as_soon_as_the_next_begins():
    """The voice does not wait for the end of the answer."""
    splitter = SentenceSplitter("en-US")
    assert splitter.push("It opened in 1883.") == []
    assert splitter.push(" ") == []
    assert splitter.push("It") == ["It opened in 1883."]


def test_a_very_long_clause_is_split_at_a_comma():
    """Speech can start though no end mark comes."""
    text = "and then we went on, " * 30
    first = split(text)[0]
    assert first.endswith(",") and len(first) <= LONGEST + 1


PIECES = st.sampled_from(["Hello", " ", ". ", "! ", "? ", "3.5", "Dr. ", "\n", ", ", "word ", "end.", "。", "é", "…"])


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES, max_size=60).map("".join), st.lists(st.integers(0, 200), max_size=20))
def test_how_the_text_was_cut_makes_no_difference(text, cuts):
    """Any chunking gives the same sentences, and together they are the text."""
    sentences = split(text, cuts)
    assert sentences == split(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
