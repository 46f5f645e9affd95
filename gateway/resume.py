"""A session that is gone on with: its gateway died, or its client's connection broke, and the client is here again.

``take`` seizes it, whoever holds it, and derives what it was doing from its streams (``gateway.recovery``); a
``Resumption`` brings the new session, and its client, there:

* the client is told the conversation, and of what goes on: an utterance, a turn;
* a turn that was being heard is held until the client says how much of it was played (or HANDSHAKE has passed), and
  goes on with the word after the last that was heard whole;
* what the workers have done meanwhile is taken in; an offer that was about to be made is made;
* the caller's audio goes on where the mic stream ends: a client that says where its audio begins is not doubled, and
  what is missing is measured, told to the model and to the client, and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bus.cancel import watermark
from bus.events import MIC_RATE, Event, Said, Sentence, SpeechAudio
from bus.keys import session_key
from bus.leases import Work
from bus.reader import Entry, read_entry
from bus.streams import Bus
from gateway import inputs
from gateway.moves import SESSION_ENDED
from gateway.outlet import Outlet
from gateway.pen import Pen
from gateway.recovery import GIVEN_UP, Ended, Left, Recovered, recover
from gateway.request import Request
from gateway.turns import TurnState

if TYPE_CHECKING:
    from gateway.session import Session

log = logging.getLogger(__name__)

HANDSHAKE = 0.5
"""Seconds that a client has to say how much of the turn it had played."""
MIC_TAIL = 200
"""Entries of the mic stream among which its last audio is found."""
LEAST_LOSS_MS = 100
"""Missing audio of the caller's that is worth telling."""


class NotThere(Exception):
    """There is no such session, or it has ended."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A session that was taken: the right to write for it, what it was doing, the offers for its live turn."""

    pen: Pen
    found: Recovered
    offers: Mapping[str, Entry]
    history: Sequence[Entry]
    last: Mapping[str, str]
    """Stream -> the newest entry that ``found`` knows."""


@dataclass(frozen=True, slots=True)
class Return:
    """Whether a client has come back, and whether it may."""

    taken: Taken | None = None
    """The session that it has come back to; None: a new one."""
    seconds: float = 0.0
    """How long it may be away."""
    asides: str = "{}"
    """The out-of-band responses whose end it was not told, as its session's config has them."""


async def take(bus: Bus, session: str, owner: str, work: Mapping[str, Work], pre_roll_ms: int) -> Taken:
    """Take a session from whoever has it. Raises NotThere, and what a lost server raises."""
    pen = Pen(bus, session, owner)
    if not await pen.seize(existing=True):
        raise NotThere(session)
    # Whatever the gateway before writes from here on is refused: what is read now is all there is.
    try:
        left = await _read(bus, session)
        found = recover(left, pre_roll_ms)
    except Ended:
        raise NotThere(session) from None
    offers = {}
    if found.state.live is not None:
        made = {stage: await work[stage].outstanding(session, found.state.live.number) for stage in ("llm", "tts")}
        offers = {stage: entry for stage, entry in made.items() if entry is not None}
    streams = {"transcript": left.transcript, "reply": left.reply, "speech": left.speech}
    last = {name: entries[-1].id for name, entries in streams.items() if entries}
    return Taken(pen, found, offers, left.history, last)


async def _read(bus: Bus, session: str) -> Left:
    async def whole(name: str, after: str = "-") -> list[Entry]:
        return await bus.replay(session_key(session, name), after)

    mic_key = session_key(session, "mic")
    rows = await bus.commands.xrevrange(mic_key, count=MIC_TAIL)
    mic = [entry for row in reversed(rows) if (entry := read_entry(mic_key, *row)) is not None]
    reply = await whole("reply")
    # The sound of a turn comes after its first sentence; there may be an hour of what was before it.
    newest = max((getattr(entry.event, "turn", 0) for entry in reply), default=0)
    first = next((entry.id for entry in reply if getattr(entry.event, "turn", 0) == newest), "-")
    seconds, micros = await bus.commands.time()
    return Left(
        session=session,
        inputs=await whole("inputs"),
        mic=mic,
        transcript=await whole("transcript"),
        reply=reply,
        speech=await whole("speech", first),
        history=await whole("history"),
        playback=await whole("playback", first),
        records=await whole("records"),
        watermark=await watermark(bus, session),
        now=int(seconds) * 1000 + int(micros) // 1000,
    )


class Resumption:
    """Brings one session to where it was. Belongs to one event loop."""

    def __init__(self, session: Session, outlet: Outlet, taken: Taken) -> None:
        self.found = taken.found
        self._taken = taken
        self._session = session
        self._outlet = outlet
        self._waiting: asyncio.TimerHandle | None = None
        self._missing: int | None = self.found.quiet * MIC_RATE // 1000
        """Samples of the caller's that are not there, as far as the clock knows; None once that was told."""
        self.lost_ms = 0
        """Audio of the caller's that was lost."""
        self._known = 0
        """Samples, at 16 kHz, that the client is about to send once more."""

    @property
    def waits(self) -> bool:
        """Whether the turn is held until its client has said how much of it was played."""
        return self._waiting is not None

    def begin(self) -> None:
        """Take everything up; within the step in which the session starts."""
        session, found = self._session, self.found
        state = found.state
        session.inlet.last.update(self._taken.last)
        session.stagehand.history.take_up(self._taken.history)
        session.stagehand.take_up(found, self._taken.offers)
        self._listen()
        self._outlet.recalled(found.messages)
        for utterance in state.utterances:
            # Over a turn, a client that takes speech for an interruption is told when it is one.
            if self._outlet.drops or utterance.number not in found.over:
                session.stagehand.tell(utterance.number)
        for turn in state.cancelling:
            session.feed(inputs.AllStopped(session.now, turn.number))
        if not found.sound:
            log.warning("%s: its journal is another version's: the turn that went on is given up", session.id)
            session.stagehand.effects.later(self._give_up)
            for given_up in found.settling:
                session.stagehand.recorder.settled(given_up.turn)
        self._go_on()
        for event in found.words:
            session.inlet.hear(event)
        log.info("%s: is gone on with, %d ms after it was last heard", session.id, found.quiet)

    async def _give_up(self) -> None:
        turn = self.found.state.turn
        await self._session.pen.cancel(turn.number if turn else 0, GIVEN_UP)

    def _listen(self) -> None:
        """The microphone goes on where it was, in the midst of an utterance if it was in one."""
        found, microphone = self.found, self._session.microphone
        speaking = found.state.speaking
        start = None if speaking is None else found.starts.get(speaking.number, (found.mic.position, 0))[0]
        microphone.take_up(found.mic.position, found.mic.known_until, start)
        silent = found.mic.known_until if speaking is not None and speaking.paused else None
        microphone.detector.take_up(found.mic.position, speaking=speaking is not None, silent_since=silent)

    # -- the turn

    def _go_on(self) -> None:
        session, found, live = self._session, self.found, self.found.state.live
        if live is None:
            return
        if live.state is TurnState.SPECULATIVE:
            session.feed(inputs.CancelAsked(session.now, 0, SESSION_ENDED))  # a guess that nobody knows of
            return
        self._outlet.turn_opened(live.number, found.opened.tag if found.opened else "", session.stagehand.text_only)
        session.stagehand.step("taken_up", turn=live.number)
        chunks = [event for event in found.speech if isinstance(event, SpeechAudio)]
        heard = live.audible
        if heard:
            session.output.take_up(live.number, found.heard, chunks)
        else:
            session.output.begin(live.number)
        if found.cancelled:
            session.feed(inputs.CancelAsked(session.now, live.number, GIVEN_UP))
            return
        self._ask_again()
        for event in (*found.reply, *(() if heard else chunks), *_ends(found.speech)):
            if not isinstance(event, Sentence) or session.stagehand.text_only:
                session.inlet.hear(event)
        now = session.state.live
        if not heard or now is None or now.number != live.number:
            return  # what the workers did meanwhile may have ended it
        if self._outlet.remembers:
            self._outlet.held(live.number, session.microphone.position_ms)
            self._waiting = asyncio.get_running_loop().call_later(HANDSHAKE, self._play_on, live.number)
        else:
            self._play_on(live.number)

    def _ask_again(self) -> None:
        """Make the offers that the gateway before had decided on and not made."""
        found, offers, stagehand = self.found, self._taken.offers, self._session.stagehand
        assert found.state.live is not None
        if not found.reply and "llm" not in offers and found.opened is not None:
            stagehand.ask(found.opened, Request())
        said = any(isinstance(event, Sentence) for event in found.reply)
        # A voice that had waited too long for anybody to listen has let go of the turn: it is taken up again.
        if said and not stagehand.text_only and not _ends(found.speech) and "tts" not in offers:
            stagehand.speak(found.state.live.number, found.before)

    def played(self, turn: int) -> None:
        """The client has said how much of a turn it played."""
        if self._waiting is not None and self._session.output.playback.turn == turn:
            self._waiting.cancel()
            self._play_on(turn)

    def _play_on(self, turn: int) -> None:
        self._waiting = None
        session, live = self._session, self._session.state.live
        if live is None or live.number != turn or not live.audible:
            return  # it has ended meanwhile
        speaks = live.state is TurnState.SPEAKING  # else the caller does: nothing is decided about the turn
        start, text = session.output.tell_anew(to_word=speaks)
        self._outlet.continued(live.number, text, start)
        if speaks:
            start = session.output.resume()
            if self._outlet.drops:
                self._outlet.resumed(live.number, start)

    # -- the caller's audio

    def continues(self, start_ms: float) -> None:
        """The client's audio that follows begins at ``start_ms`` of the session's: what is there already is left out.

        Only before any audio has come.
        """
        if self._missing is None:
            return
        position = self._session.microphone.position
        start = round(start_ms * MIC_RATE / 1000)
        self._known = max(0, position - start)
        missing, self._missing = max(0, start - position), None
        if missing:
            rate = self._session.microphone.rate
            self._session.audio(bytes(missing * rate // MIC_RATE * 2))  # so that positions go on being the client's
            self._lose(missing)

    def heard(self, pcm: bytes) -> bytes:
        """The client's audio comes: what of it is new."""
        if self._missing is not None:
            missing, self._missing = self._missing, None
            if not self._session.profile.by_hand:  # who says itself when it speaks sends nothing in between
                self._lose(missing)
        if not self._known:
            return pcm
        rate = self._session.microphone.rate
        known = min(len(pcm), round(self._known * rate / MIC_RATE) * 2)
        self._known = max(0, self._known - round(known // 2 * MIC_RATE / rate))
        return pcm[known:]

    def _lose(self, samples: int) -> None:
        lost = samples * 1000 // MIC_RATE
        if lost < LEAST_LOSS_MS:
            return
        session, self.lost_ms = self._session, lost
        at = session.microphone.position_ms
        log.warning("%s: %d ms of the caller's audio were lost", session.id, lost)
        text = f"(The line was broken for {lost / 1000:.1f} s. What the caller said then was not heard.)"
        said = Said(f"item_{session.id.replace('-', '_')}_l{session.microphone.position}", "system", text)
        session.say(said)
        self._outlet.lost(said, at, lost)

    def close(self) -> None:
        """The session is over, or let go of again."""
        if self._waiting is not None:
            self._waiting.cancel()


def _ends(speech: tuple[Event, ...]) -> list[Event]:
    return [event for event in speech if not isinstance(event, SpeechAudio)]
