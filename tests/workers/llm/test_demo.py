from datetime import datetime

import pytest

from bus.cancel import CancelGuard
from workers.llm.engine import Message
from workers.llm.engines.demo import STORIES, Demo, answer, counted, number_in, spoken

NOW = datetime(2026, 11, 22, 14, 5)


def ask(*texts, now=NOW):
    """The answer to the last of ``texts``, which alternate between user and assistant, the user first."""
    roles = ("user", "assistant")
    return answer([Message(roles[n % 2], text) for n, text in enumerate(texts)], now)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("what time is it", "The time is 2 oh 5 in the afternoon."),
        ("how old is the brooklyn bridge", "143 years old"),
        ("what is the date", "Today is Sunday, November 22, 2026."),
        ("what's the weather like", "weather"),
        ("thank you", "welcome"),
        ("stop", "All right."),
        ("who are you", "demonstration"),
        ("what is this", "demonstration"),
        ("hello", "Hello."),
        ("tell me the time", "The time is 2"),
        ("what is the day to day", "November 22"),
        ("tell me his story", "Here is a story."),
        ("no thank you that is all for today", "welcome"),
        ("how far is the moon", "384,000 kilometres"),
        ("goodbye", "Goodbye."),
        ("the quick brown fox", "I understood: the quick brown fox."),
    ],
)
def test_what_it_knows(question, expected):
    assert expected in ask(question)


@pytest.mark.parametrize(
    "heard",
    [
        "count to fifty", "please count two fifty", "count up to 50", "counting till fifty", "down to fifty",
        "found two fifty", "please come to fifty", "count from one to fifty", "count fifty", "Count to fifty!",
    ],
)  # fmt: skip
def test_it_counts_to_what_was_asked_however_it_was_heard(heard):
    """ "To" and "two" sound alike."""
    assert ask(heard) == counted(50)


def test_counting_has_bounds():
    """Nobody waits for a million numbers."""
    assert ask("count to a million") == counted(20)
    assert ask("count to 5000") == counted(100)
    assert ask("count to zero") == counted(20)


def test_numbers_in_words():
    """Every number that is spoken is understood again."""
    assert [number_in(spoken(number)) for number in range(101)] == list(range(101))
    assert number_in("no number here") is None


def test_a_story_is_long_enough_to_be_interrupted():
    """At 175 words a minute a story lasts 40 seconds or more, in at least eight sentences."""
    for story in STORIES:
        assert story.count(". ") >= 7
        assert len(story.split()) > 175 * 40 / 60


def test_it_goes_on_where_it_was_cut_off():
    """What was heard before an interruption is not said again."""
    whole = "Here is a story. " + STORIES[0]
    heard = whole[:203]
    rest = ask("tell me a story", heard, "go on")
    assert (heard + rest).replace(" ", "") == whole.replace(" ", "")
    assert ask("count to fifty", "One, two, three, four,", "continue").startswith("five, six")


def test_a_count_goes_on_to_where_it_was_to_end():
    """Also after a second interruption, and when only one number was heard."""
    whole = "One, two, three, four, five, six, seven, eight, nine, ten."
    assert ask("count to ten", "One,", "go on") == "two, three, four, five, six, seven, eight, nine, ten."
    assert ask("count to ten", "One, two,", "go on", "three, four", "stop", "All right.", "continue") == whole[23:]
    assert ask("count to ten", whole, "go on").startswith("I understood")


def test_going_on_is_for_what_was_last_heard():
    """An answer after the one that was cut off does not lose it; a number within another word is no place in it."""
    story = "Here is a story. Once upon a time there was a lighthouse keeper"
    assert ask("tell me a story", story, "what time is it", "The time is 2 oh 5", "go on").startswith("who lived on")
    rest = ask("count to fifty", "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve,", "go on")
    assert rest.startswith("thirteen") and rest.endswith("fifty.")


@pytest.mark.parametrize(("day", "age"), [(datetime(2026, 5, 23), 142), (datetime(2026, 5, 24), 143)])
def test_the_bridge_is_a_year_older_on_its_birthday(day, age):
    assert f"so it is {age} years old" in ask("how old is the brooklyn bridge", now=day)


def test_nothing_asked_is_answered_with_what_can_be():
    assert "count to fifty" in answer([Message("system", "Be brief.")], NOW)


async def test_it_streams_word_by_word():
    """The deltas joined are the answer, and there is a wait before each."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    messages = [Message("user", "tell me a story")]
    token = CancelGuard().token("s0-abcdef", 1)
    deltas = [delta async for delta in Demo(lambda: NOW, sleep).reply(messages, "en-US", token)]
    assert "".join(deltas) == answer(messages, NOW)
    assert len(waits) == len(deltas) > 100 and set(waits) == {1 / 40}
