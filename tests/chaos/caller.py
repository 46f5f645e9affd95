"""A caller who counts: says numbered words, hears numbered words, and keeps what was lost, doubled or stale."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass, field

from benchmarks import numbered
from benchmarks.model_server import reply_to
from gateway.client import Call, CallError, NoReply
from gateway.client_audio import RATE
from gateway.client_ear import Event, Reply
from gateway.output import LONGEST_REPEAT

WORDS = 4
"""Words of an utterance."""
PATIENCE = 20.0
"""Seconds that a caller waits for a reply, and for its end."""
UNDERSTOOD = "conversation.item.input_audio_transcription.completed"
AUDIO_LOST = "audio_lost"
RIGHT = ("completed", "interrupted", "unheard")
"""How a turn may end: ``unheard`` is one whose words were lost, or cut in two, by a gap that the client was told of."""


@dataclass
class Turn:
    """One utterance and its reply. Times on the event loop's clock."""

    utterance: int
    began: float
    seen: int = 0
    """Events that the client had received before."""
    ended: float = 0.0
    waited: float = 0.0
    """Seconds of silence where there should have been speech: before the reply, or within it."""
    status: str = "none"
    error: str = ""
    lost: list[int] = field(default_factory=list)
    """Words of the reply that were not heard."""
    doubled: list[int] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    """Words heard once more after the client had to come back: the reply goes on with the word that was cut, as far as
    its place is known, at most LONGEST_REPEAT before."""
    stale: list[int] = field(default_factory=list)
    """Words heard that belong to another reply."""


@dataclass
class Story:
    """What one caller saw."""

    session: str = ""
    call: str = ""
    """Twilio's name for it, where it is a phone call."""
    turns: list[Turn] = field(default_factory=list)
    said: list[int] = field(default_factory=list)
    understood: list[int] | None = None
    """The words of the caller's own, as the client was told; None: such a client is not told."""
    told_lost: list[float] = field(default_factory=list)
    """Seconds of the caller's audio that the client was told were lost, for each time."""
    stale_samples: int = 0
    events: list[tuple[float, dict[str, object]]] = field(default_factory=list)
    """Everything that was received but audio, with its time (ms)."""
    ended: str = ""
    """Why the call ended before its time."""

    @property
    def alive(self) -> bool:
        """Whether the call lasted, and was answered at its end."""
        return not self.ended and bool(self.turns) and self.turns[-1].status in ("completed", "unheard")


def understood(events: list[Event]) -> list[list[int]]:
    """The caller's words as a client was told them, by utterances; what it is told once more counts once."""
    texts: dict[str, str] = {}
    for event in events:
        if event.get("type") == UNDERSTOOD:
            texts[event["item_id"]] = event["transcript"]
        elif event.get("type") == "conversation.item.added" and event["item"].get("role") == "user":
            item = event["item"]
            texts[item["id"]] = item["content"][0].get("transcript") or texts.get(item["id"], "")
    return [numbered.numbers_in(text) for text in texts.values()]


def differences(expected: list[int], got: list[int]) -> tuple[list[int], list[int], list[int]]:
    """(lost, doubled, foreign) words of ``got``."""
    lost = [number for number in expected if number not in got]
    doubled = [number for place, number in enumerate(got) if number in got[:place] and number in expected]
    return lost, doubled, [number for number in got if number not in expected]


def heard_again(doubled: list[int], returns: int) -> tuple[list[int], list[int]]:
    """(words that so many returns of the client explain, the others)."""
    most = returns * math.ceil(LONGEST_REPEAT / numbered.SLOT_MS)
    return doubled[:most], doubled[most:]


class Caller:
    """One call. Every third reply or so is interrupted by what the caller says next."""

    patience = PATIENCE
    most = 1000
    """Such callers at a time."""

    def __init__(self, url: str, words: int, rng: random.Random, seconds: float) -> None:
        """``words`` a reply has; ``seconds``: for how long something is said."""
        self.story = Story()
        self.url = url
        self.begun = asyncio.Event()
        """Set once the call is there, or cannot be made."""
        self._words = words
        self._rng = rng
        self._seconds = seconds
        self._clock = asyncio.get_running_loop().time
        self._until = 0.0
        self._taken = 0
        """Replies that were waited for to their end."""

    def dial(self) -> Call:
        """The call, not yet made."""
        return Call(f"{self.url}&extensions=bargein")

    async def run(self) -> Story:
        """Make the call to its end."""
        story = self.story
        try:
            async with self.dial() as call:
                story.session, self._until = call.session_id, self._clock() + self._seconds
                self.begun.set()
                try:
                    await self._talk(call)
                finally:
                    story.stale_samples = call.stale_samples
                    story.events = [(at, event) for at, event in call.events if "audio.delta" not in str(event["type"])]
                    told = understood([event for _, event in call.events])
                    story.understood = [number for numbers in told for number in numbers]
        except CallError as error:
            story.ended = str(error)
        finally:
            self.begun.set()
        return story

    async def _talk(self, call: Call) -> None:
        utterance, over = 0, False
        while over or self._clock() < self._until:
            turn = Turn(utterance, self._clock(), len(call.events))
            self.story.turns.append(turn)
            over = await self._turn(call, turn)
            turn.ended = self._clock()
            utterance += 1
            await asyncio.sleep(0.0 if over else 0.2 + 0.4 * self._rng.random())

    async def _turn(self, call: Call, turn: Turn) -> bool:
        """Say an utterance and hear its reply; whether the reply is to be interrupted by the next one."""
        numbers = [(turn.utterance * WORDS + place) % numbered.COUNT for place in range(WORDS)]
        open_before = len(call.replies)
        spoken = await call.say(numbered.spoken(numbers))
        self.story.said += numbers
        interrupted = self._rng.random() < 0.3 and self._clock() < self._until
        try:
            while self._taken < open_before:  # one that was interrupted, or came after it was given up
                await self._reply(call)
            if interrupted:
                reply = await call.reply_started(self.patience)
                await call.clock.sleep_until(call.clock.now() + 600 + 900 * self._rng.random())
                turn.status = "interrupted"
            else:
                reply = await self._reply(call)
                turn.status, turn.error = reply.status, reply.reason
        except NoReply as error:
            turn.status, turn.error = "missing", str(error)
            turn.waited = self.patience
            self._excuse(call, turn, numbers)
            return False
        self._judge(call, turn, reply, numbers, spoken.last_sound)
        self._excuse(call, turn, numbers)
        return interrupted

    async def _reply(self, call: Call) -> Reply:
        reply = await call.reply(self.patience)
        self._taken += 1
        return reply

    def _judge(self, call: Call, turn: Turn, reply: Reply, said: list[int], last_sound: float | None) -> None:
        if reply.started is not None and last_sound is not None:
            turn.waited = (reply.started - last_sound) / 1000
        expected, heard = reply_to(said, self._words), numbered.heard(reply.pcm, RATE)
        turn.lost, turn.doubled, turn.stale = differences(expected, heard)
        returns = sum(event["type"] == "session.created" for _, event in call.events[turn.seen :])
        turn.again, turn.doubled = heard_again(turn.doubled, returns)
        if turn.status != "completed":
            turn.lost = [] if turn.status == "interrupted" else turn.lost
        elif reply.started is not None and reply.ended is not None:
            turn.waited = max(turn.waited, (reply.ended - reply.started - reply.heard_ms) / 1000)

    def _excuse(self, call: Call, turn: Turn, said: list[int]) -> None:
        """What became of a turn whose words were lost, or cut in two, if the client was told of a gap."""
        errors = [event["error"] for _, event in call.events[turn.seen :] if event["type"] == "error"]
        lost = [int(error["message"].split()[0]) / 1000 for error in errors if error["code"] == AUDIO_LOST]
        self.story.told_lost += lost
        whole = any(set(said) <= set(numbers) for numbers in understood([event for _, event in call.events]))
        if lost and turn.status not in RIGHT and not whole:
            turn.status, turn.lost, turn.waited = "unheard", [], 0.0
