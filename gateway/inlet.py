"""What the bus tells a session: texts, sentences, sound and acknowledgements become inputs of the turn logic."""

from __future__ import annotations

import logging
from functools import singledispatchmethod
from typing import TYPE_CHECKING

from bus.events import (
    CancelRequested,
    EndRequested,
    Event,
    Final,
    Partial,
    ReplyBegun,
    ReplyEnd,
    Sentence,
    SpeechAudio,
    SpeechEnd,
    Stopped,
    ToolArguments,
    ToolCall,
)  # fmt: skip
from bus.keys import session_key
from gateway import inputs
from gateway.outlet import Outlet
from gateway.turns import TurnState

if TYPE_CHECKING:
    from gateway.session import Session

log = logging.getLogger(__name__)

STREAMS = ("transcript", "reply", "speech", "acks", "control")


class Inlet:
    """Belongs to one session."""

    def __init__(self, session: Session, outlet: Outlet) -> None:
        self._session = session
        self._outlet = outlet
        self.last = dict.fromkeys(STREAMS, "0-0")
        """Stream -> its newest entry that was heard here."""
        self.failure: tuple[int, str] = (0, "")
        """The turn that will have failed once what there is of it has been played, and why."""

    async def follow(self, name: str) -> None:
        """Hear every entry of one of STREAMS after ``last``, for ever."""
        session = self._session
        subscription = session.bus.follow(session_key(session.id, name), self.last[name])
        try:
            async for entry in subscription:
                try:
                    self.hear(entry.event)
                except Exception:
                    log.exception("%s: an event of %s could not be handled", session.id, name)
                self.last[name] = entry.id
        finally:
            subscription.close()

    def fail(self, turn: int, stage: str, error: str) -> None:
        """A stage cannot go on with a turn."""
        self._session.feed(inputs.StageFailed(self._session.now, turn, stage, error))

    @singledispatchmethod
    def hear(self, event: Event) -> None:
        """Take one event."""
        log.debug("%s: %s is not for the gateway", self._session.id, event.type)

    @hear.register
    def _(self, event: Partial) -> None:
        session = self._session
        if any(utterance.number == event.utterance for utterance in session.state.utterances):
            self._outlet.partial(event.utterance, event.text)
        session.feed(inputs.Words(session.now, event.utterance, event.revision, event.text, final=False))

    @hear.register
    def _(self, event: Final) -> None:
        session = self._session
        if event.error:
            log.error("%s: utterance %d: %s", session.id, event.utterance, event.error)
            if event.utterance:
                self._outlet.not_transcribed(event.utterance, event.error)
            else:
                self._outlet.refused("transcription_failed", event.error, "")
        if event.utterance:
            session.stagehand.step("final_text", utterance=event.utterance)
            session.feed(inputs.Words(session.now, event.utterance, event.revision, event.text, final=True))

    @hear.register
    def _(self, event: ReplyBegun) -> None:
        if self._is_live(event.turn):
            self._session.stagehand.step("first_token")

    @hear.register
    def _(self, event: Sentence) -> None:
        if not self._is_live(event.turn):
            return
        stagehand = self._session.stagehand
        if event.index == 0:
            stagehand.step("first_sentence")
        if stagehand.text_only:
            self._outlet.text(event.turn, f" {event.text}" if event.index else event.text)
            stagehand.text_said(event.text)
        elif event.index == 0:
            stagehand.speak(event.turn, self.last["reply"])

    @hear.register
    def _(self, event: ToolArguments) -> None:
        live = self._session.state.live
        if live is not None and live.number == event.turn:
            kept_back = live.state is TurnState.SPECULATIVE
            self._session.stagehand.calls.begin(event, kept_back=kept_back)

    @hear.register
    def _(self, event: ToolCall) -> None:
        session = self._session
        live = session.state.live
        if live is None or live.number != event.turn:
            return
        session.feed(inputs.Called(session.now, event.turn))
        if session.stagehand.calls.take(event, kept_back=live.state is TurnState.SPECULATIVE):
            session.stagehand.step("called", event.name)

    @hear.register
    def _(self, event: ReplyEnd) -> None:
        session = self._session
        session.stagehand.finished(event.turn, "llm")
        if not self._is_live(event.turn):
            return
        session.stagehand.counted(event)
        # What there is of a failed answer is spoken to its end; without a voice there is nothing to wait for.
        if event.reason == "failed" and event.sentences and not session.stagehand.text_only:
            self.failure = (event.turn, event.error)
        elif event.reason == "failed":
            self.fail(event.turn, "llm", event.error)
        elif session.stagehand.text_only or not event.sentences:
            session.feed(inputs.TextComplete(session.now, event.turn))

    @hear.register
    def _(self, event: SpeechAudio) -> None:
        session = self._session
        live = session.state.live
        if live is None or live.number != event.turn:
            return
        if live.began is None:
            session.stagehand.step("first_audio")
            session.feed(inputs.FirstAudio(session.now, event.turn))
        session.output.take(event)

    @hear.register
    def _(self, event: SpeechEnd) -> None:
        session = self._session
        session.stagehand.finished(event.turn, "tts")
        if not self._is_live(event.turn):
            return
        if event.reason == "failed":
            self.failure = (event.turn, event.error)
        if event.samples:
            session.output.finish(event.turn)
        elif event.reason == "failed":
            self.fail(event.turn, "tts", event.error)
        else:
            session.feed(inputs.TextComplete(session.now, event.turn))

    @hear.register
    def _(self, event: Stopped) -> None:
        self._session.stagehand.stopped(event)

    @hear.register
    def _(self, event: CancelRequested) -> None:
        self._session.cancel(event.reason, event.turn)

    @hear.register
    def _(self, event: EndRequested) -> None:
        self._session.ended.set()

    def _is_live(self, turn: int) -> bool:
        live = self._session.state.live
        return live is not None and live.number == turn
