import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.tts.normalise import normalise


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("**Bold** and _it_, `code` and ~~gone~~.", "Bold and it, code and gone."),
        ("See [the page](http://x.org/y?z=1).", "See the page."),
        ("It is at https://www.example.com/a/b?c=1.", "It is at example dot com."),
        ("![a cat](cat.png) sleeps", "a cat sleeps"),
        ("- first", "first"),
        ("* [x] done", "done"),
        ("1. Take the bus.", "one. Take the bus."),
        ("## Opening hours", "Opening hours"),
        ("> He said **no**.", "He said no."),
        ("**This is the first half.", "This is the first half."),
        ("And the second.**", "And the second."),
        (r"\*not bold\*", "not bold"),
        ("snake_case and 5*3 = 15", "snake case and five times three equals fifteen"),
        ("---", ""),
        ("```python", ""),
        ("Great 👍🏽 for 🇩🇪 and 👩‍👩‍👧!", "Great for and!"),
        ("🎉", ""),
        ("It's done…", "It's done…"),
    ],
)
def test_markdown_and_emoji_are_not_said(written, said):
    assert normalise(written, "en-US").text == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("$1,234.50", "one thousand, two hundred and thirty-four dollars, fifty cents"),
        ("$5 or 7 €", "five dollars or seven euro"),
        (
            "In 1883, 1883 km away",
            "In eighteen eighty-three, one thousand, eight hundred and eighty-three kilometers away",
        ),
        ("45% of 2,000,000", "forty-five percent of two million"),
        ("the 21st, at 9:05", "the twenty-first, at nine oh five"),
        ("at 10:00 or 3:30pm", "at ten o'clock or three thirty pm"),
        ("on 2024-05-06", "on May sixth, twenty twenty-four"),
        ("-5 °C and 1 kg", "minus five degrees Celsius and one kilogram"),
        ("5-10 people", "five to ten people"),
        ("call 0171 23", "call zero one seven one twenty-three"),
        ("Dr. Smith vs. Mr. Jones, e.g.", "Doctor Smith versus Mister Jones, for example"),
        ("No. 5 at AT&T", "number five at AT and T"),
        ("MP3, B2B, 192.168.0.1 and v1.2.3", "MP3, B2B, 192.168.0.1 and v1.2.3"),
        ("12345678901234567890123", "one two three four five six seven eight nine zero " * 2 + "one two three"),
    ],
)
def test_numbers_and_abbreviations_are_said_in_words(written, said):
    assert normalise(written, "en-US").text == said


def test_other_languages_have_their_own_words():
    """By num2words where it has them, with the language's own comma; an unknown language is left as it is."""
    german = "eintausendzweihundertvierunddreißig Euro und fünfzig Cent, fünfundvierzig Prozent"
    assert normalise("1.234,50 €, 45 %", "de-DE").text == german
    assert normalise("21 maisons", "fr").text == "vingt et un maisons"
    assert normalise("21 **of** them", "xx").text == "21 of them"


def test_an_engine_that_reads_numbers_itself_gets_them():
    assert normalise("**Dr. Smith** has $5 👍", "en-US", numbers=False).text == "Dr. Smith has $5"


def test_what_has_been_said_is_known_in_what_was_written():
    """A figure is complete when all of its words are; marks belong to what precedes them."""
    written = "It **cost** $1,234.50 in 1883."
    spoken = normalise(written, "en-US")
    for word in ("one", "dollars", "cents"):
        assert written[: spoken.written(spoken.text.index(word))] == "It **cost** "
    assert written[: spoken.written(spoken.text.index("eighteen"))] == "It **cost** $1,234.50 in "
    assert spoken.written(len(spoken.text)) == len(written)
    assert written[: spoken.written(spoken.text.index("cost"))] == "It "
    assert spoken.written(0) == 0


@settings(deadline=None)
@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("*_`[]()#-+.,:$€%0123456789 \n&👍")), max_size=60))
def test_any_text_is_taken(written):
    """Whatever a model writes: no error, a place for every character, in order, and none beyond the text."""
    for language in ("en-US", "de", "xx"):
        spoken = normalise(written, language)
        assert len(spoken.origins) == len(spoken.text)
        assert list(spoken.origins) == sorted(spoken.origins)
        assert all(0 <= origin < len(written) for origin in spoken.origins)
        assert not set(spoken.text) & set("`~|")
        told = [spoken.written(index) for index in range(len(spoken.text) + 1)]
        assert told == sorted(told) and told[-1] == len(written)
