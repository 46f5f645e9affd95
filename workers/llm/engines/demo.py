"""A small scripted talker: enough to be talked to, and long enough to be interrupted. No model, no download.

It knows the time, the date, how to count, two stories, a few facts, and says what it understood of anything else.
It is deterministic given the time. What was cut off by an interruption it takes up again on "go on".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime

from pydantic import Field

from bus.cancel import CancelToken
from bus.settings import BusSettings, load
from workers.llm.engine import Message

HIGHEST = 100
"""The number it counts to at most."""

STORIES = (
    "Once upon a time there was a lighthouse keeper who lived on a small island. "
    "Every evening she climbed one hundred and twelve steps and lit the lamp. "
    "One night a storm came up, and the lamp went out. "
    "She had no oil left, and a ship was near; she could hear its bell. "
    "So she took the old piano apart, carried it up the stairs piece by piece, and set the wood on fire. "
    "The ship saw the light and turned away from the rocks. "
    "In the morning the captain rowed over to thank her, and he brought a barrel of oil. "
    "But the keeper said that she would rather have a new piano. "
    "The next summer a ship came by with one on its deck. "
    "And ever since, on quiet nights, sailors hear music before they see the light.",
    "There was once a clockmaker in a town where nobody was ever on time. "
    "He thought the clocks were to blame, so he repaired every one of them for free. "
    "The next day everybody was still late. "
    "So he made a clock that ran ten minutes fast, and hung it in the market square. "
    "Now everybody was ten minutes early, and complained that nothing was open. "
    "The baker began to bake earlier, and the postman began to walk earlier. "
    "After a while the whole town lived ten minutes ahead of the rest of the world. "
    "Visitors found it strange, but the bread was always warm when they arrived. "
    "When the clockmaker grew old, he set the clock right again. "
    "Nobody noticed, because by then nobody looked at it any more.",
)
UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
CONTINUE = re.compile(r"\b(go on|continue|carry on|keep going|keep counting)\b")
COUNT = re.compile(r"\b(?:count|numbers)\w*\b|\b(?:down|town|come|found)\b(?= (?:up )?(?:to|two|too) )")
"""A recogniser hears "count to fifty" as "down to fifty" or "found two fifty" as well."""
STOP = re.compile(r"\b(stop|be quiet|shut up|never mind|enough|wait|hold on)\b")
ABOUT = (
    "I am the demonstration voice of bargein. I run on this machine, without any model. "
    "Ask me the time, ask me to count to fifty, or ask for a story, and interrupt me whenever you like."
)


class DemoSettings(BusSettings):
    """How fast the talker writes."""

    demo_tokens_per_s: float = Field(default=40.0, gt=0, le=10_000)
    """Tokens a second."""


class Demo:
    """Implements ``workers.llm.engine.LlmEngine``."""

    name = "demo"
    capacity = 64

    def __init__(
        self,
        now: Callable[[], datetime] = datetime.now,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """``now`` gives local time; ``sleep`` waits between words."""
        self._now = now
        self._sleep = sleep
        self._pause = 1 / load(DemoSettings).demo_tokens_per_s

    async def load(self) -> None:
        """Nothing to load."""

    async def reply(self, messages: Sequence[Message], language: str, cancel: CancelToken) -> AsyncIterator[str]:
        """The answer to the last message, word by word."""
        for word in re.findall(r"\S+\s*", answer(messages, self._now())):
            await self._sleep(self._pause)
            yield word


def answer(messages: Sequence[Message], now: datetime) -> str:
    """The whole answer to a conversation at local time ``now``."""
    said = [message.text for message in messages if message.role == "user"]
    if not said:
        return "Hello. " + ABOUT
    asked = plain(said[-1])
    if CONTINUE.search(asked) and (rest := _rest(messages)):
        return rest
    for keys, make in TOPICS:
        if re.search(keys, asked):
            return make(asked, now, len(said))
    return f"I understood: {said[-1]}. I only know a few things. Ask me to count, or to tell a story, and interrupt me."


def counted(to: int) -> str:
    """The numbers from one to ``to`` in words."""
    return ", ".join(spoken(number) for number in range(1, to + 1)).capitalize() + "."


def spoken(number: int) -> str:
    """A number from 0 to 100 in words."""
    if number < 20:
        return UNITS[number]
    if number == 100:
        return "one hundred"
    return TENS[number // 10] + (f"-{UNITS[number % 10]}" if number % 10 else "")


def number_in(text: str) -> int | None:
    """The number that a text names, in digits or in words; None for none."""
    if digits := re.search(r"\d+", text):
        return int(digits.group())
    found, total = False, 0
    for word in text.replace("-", " ").split():
        if word == "hundred":
            found, total = True, max(total, 1) * 100
        elif word in TENS[2:]:
            found, total = True, total + TENS.index(word) * 10
        elif word in UNITS:
            found, total = True, total + UNITS.index(word)
    return total if found else None


def _rest(messages: Sequence[Message]) -> str:
    """What is left of the last thing that was cut off: the heard text is a part of something known."""
    counts = [counted(_limit(plain(m.text))) for m in reversed(messages) if m.role == "user" and COUNT.search(m.text)]
    for message in reversed(messages):
        heard = message.text.strip()
        if message.role != "assistant" or not heard:
            continue
        for whole in (*counts, *(f"Here is a story. {story}" for story in STORIES)):
            # A whole beginning, or else the end of what was heard where it stands between words.
            end = re.escape(heard[-60:].removesuffix("."))
            part = re.match(re.escape(heard), whole) or re.search(rf"(?<![\w-]){end}(?![\w-])", whole, re.IGNORECASE)
            if part is not None and (rest := whole[part.end() :].strip(" ,.")):
                return f"{rest}."
    return ""


def plain(text: str) -> str:
    """A text in lower case without punctuation, with a space after each word."""
    return re.sub(r"[^\w' ]", " ", text.lower()) + " "


def _limit(asked: str) -> int:
    """How far to count. What stands before the number does not matter: "two fifty" is heard for "to fifty"."""
    after = re.sub(r"^(?:\s+(?:from one|up|to|two|too|till|until)(?= +\w))*", "", COUNT.split(asked, maxsplit=1)[-1])
    return min(max(number_in(after) or 20, 1), HIGHEST)


def _count(asked: str, now: datetime, turn: int) -> str:
    return counted(_limit(asked))


def _time(asked: str, now: datetime, turn: int) -> str:
    hour, half = now.hour % 12 or 12, "in the morning" if now.hour < 12 else "in the afternoon"
    half = "in the evening" if now.hour >= 18 else half
    minutes = "o'clock" if now.minute == 0 else f"oh {now.minute}" if now.minute < 10 else str(now.minute)
    return f"The time is {hour} {minutes} {half}."


def _date(asked: str, now: datetime, turn: int) -> str:
    return f"Today is {now:%A}, {now:%B} {now.day}, {now.year}."


def _brooklyn(asked: str, now: datetime, turn: int) -> str:
    age = now.year - 1883 - ((now.month, now.day) < (5, 24))
    return (
        f"The Brooklyn Bridge opened on May 24, 1883, so it is {age} years old. "
        "It was the first steel-wire suspension bridge, and for twenty years the longest one in the world."
    )


def _story(asked: str, now: datetime, turn: int) -> str:
    return "Here is a story. " + STORIES[(turn - 1) % len(STORIES)]


def _fixed(text: str) -> Callable[[str, datetime, int], str]:
    return lambda asked, now, turn: text


TOPICS: tuple[tuple[str, Callable[[str, datetime, int], str]], ...] = (
    (COUNT.pattern, _count),
    (r"\bstor(y|ies)\b|\btale\b|\btell (me|us) (a|is)\b", _story),
    (r"\bbrooklyn\b|\bbridge\b", _brooklyn),
    (r"\bweather\b|\brain\b|\bforecast\b", _fixed("I cannot see the sky from in here, so I do not know the weather.")),
    (
        r"\beiffel\b",
        _fixed("The Eiffel Tower was opened in 1889. It is 330 metres high, and painted anew every seven years."),
    ),
    (
        r"\bmoon\b",
        _fixed("The moon is about 384,000 kilometres away. Light needs a little more than a second to get there."),
    ),
    (r"\bthank(s| you)\b", _fixed("You are welcome.")),
    (r"\bdate\b|\bwhat day\b|\bwhat is the day\b|\btoday\b", _date),
    (r"\btime\b|\bclock\b|\bhow late\b", _time),
    (STOP.pattern, _fixed("All right.")),
    (r"\bgood ?bye\b|\bbye\b", _fixed("Goodbye. It was nice talking to you.")),
    (
        r"\b(who|what) (are|is) (you|this|there)\b|\bwhat('s this| can you)\b|\bhelp\b|\byour name\b",
        _fixed(ABOUT),
    ),
    (r"\bhello\b|\bhi\b|\bgood (morning|evening|afternoon)\b", _fixed("Hello. " + ABOUT)),
)
