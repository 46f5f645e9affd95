"""Carries out the turn logic's actions for one session.

What silences the client is done at once, in the same step as the decision. What needs Redis goes through one queue in
order: a turn's watermark is raised before the next turn is offered, and a message stands in the history before an
offer is made from it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import singledispatchmethod
from typing import TYPE_CHECKING, cast

from bus.events import ReplyEnd, Said, Sentence, Stopped
from bus.history import HistoryWriter
from bus.keys import session_key
from bus.leases import Offer, Work
from bus.offers import SpeakOffer, TurnOffer
from bus.reader import Entry
from gateway import inputs
from gateway.calls import Calls
from gateway.cancellable import CancellableTurn
from gateway.effects import Effects
from gateway.microphone import mic_ms
from gateway.names import turn_item, utterance_item
from gateway.outlet import Outlet
from gateway.record import Recorder, described
from gateway.recovery import Recovered
from gateway.request import Request
from gateway.timers import Timers
from gateway.turns import TurnState

if TYPE_CHECKING:
    from gateway.session import Session

log = logging.getLogger(__name__)

SILENCE = "(silence)"
"""What the model is shown when the caller has not spoken for long."""


class Stagehand:
    """Does what the conductor says."""

    def __init__(self, session: Session, outlet: Outlet, work: dict[str, Work]) -> None:
        self.history = HistoryWriter(session.pen, session.id)
        self.recorder = Recorder(session.settled)
        self.calls = Calls(session.id, self.history, outlet, session.own_tools)
        self._session = session
        self._outlet = outlet
        self._work = work
        self._turns: dict[int, CancellableTurn] = {}
        self._timers = Timers(session.at)
        self.effects = Effects(session.id)
        self._requests: dict[str, Request] = {}
        self._starts: dict[int, tuple[int, int]] = {}
        """Utterance -> (its first sample with the pre-roll, its onset)."""
        self._untold: dict[int, int | None] = {}
        """Utterances of which the client has not been told, as they may yet be nothing -> where they ended, or None."""
        self._truncated: dict[int, int] = {}
        self._afterwards: list[Said] = []
        """What was said over the turn that goes on: in the history it follows the turn."""
        self._text = ""
        self._count: ReplyEnd | None = None
        self._manner = ""
        """How the newest turn is to be spoken, as ``SpeakOffer`` has it."""
        self.text_only = False
        """Whether the newest turn has no audio."""
        session.output.first_frame = lambda frame: self.step("first_out")

    def close(self) -> None:
        """Stop every timer."""
        self._timers.close()

    # -- what the session tells

    def step(self, name: str, detail: str = "", turn: int | None = None, utterance: int = 0) -> None:
        """One moment for the timeline and the record; ``utterance`` if it is the caller's."""
        number = turn if turn is not None else (self._session.state.turn.number if self._session.state.turn else 0)
        at = self._session.now * 1000
        self._outlet.step(number, name, at, detail)
        self.recorder.step(number, (name, at, detail))
        if utterance:
            self.recorder.spoke(utterance, (name, at, detail))

    def requested(self, tag: str, request: Request) -> None:
        """Remember what the turn that will have ``tag`` is to be."""
        self._requests[tag] = request

    def text_said(self, text: str) -> None:
        """A sentence of a turn without audio reached the client."""
        self._text = f"{self._text} {text}".strip()

    def finished(self, turn: int, stage: str) -> None:
        """A stage has done its work on a turn."""
        if turn in self._turns:
            self._turns[turn].finished(stage)

    def counted(self, end: ReplyEnd) -> None:
        """What a turn cost is known: the client is told, once it knows of the turn."""
        self._count = end
        if self._session.state.turn is not None and self._session.state.turn.state is not TurnState.SPECULATIVE:
            self._outlet.counted(end.turn, end.prompt_tokens, end.tokens, end.finish)

    def stopped(self, ack: Stopped) -> None:
        """A stage acknowledges a cancel."""
        if ack.turn in self._turns:
            self._turns[ack.turn].stopped(ack)

    def unanswered(self) -> list[CancellableTurn]:
        """The turns that are neither done nor cancelled."""
        return [turn for turn in self._turns.values() if not turn.cancelled]

    def speak(self, turn: int, after: str) -> None:
        """The first sentence is here: somebody shall speak the turn, whose sentences follow entry ``after``."""
        record, speak = self._turns[turn], SpeakOffer(self._session.id, turn, after, manner=self._manner)
        record.offering("tts")

        async def offer() -> None:
            if not record.cancelled:
                record.offered("tts", await self._session.pen.offer(self._work["tts"], speak), speak)
            else:
                record.stopped(Stopped(turn, "tts", "never_started"))

        self.effects.later(offer)

    def ask(self, action: inputs.OpenTurn, request: Request) -> None:
        """Somebody shall answer a turn, unless its text is there."""
        turn, session, record = action.turn, self._session, self._turns[action.turn]
        told = request.instructions or "", action.said, request.options(session.profile)
        if action.text:
            key = session_key(session.id, "reply")
            session.pen.post(key, Sentence(turn, 0, 0, action.text))
            session.pen.post(key, ReplyEnd(turn, 0, "done", 1))
            return
        record.offering("llm")

        async def offer() -> None:
            if record.cancelled:
                record.stopped(Stopped(turn, "llm", "never_started"))
                return
            pinned = await self.history.pin()
            made = TurnOffer(session.id, turn, pinned, *told)
            record.offered("llm", await session.pen.offer(self._work["llm"], made), made)

        self.effects.later(offer)

    def take_up(self, found: Recovered, offers: Mapping[str, Entry]) -> None:
        """Know what the gateway before this one knew; ``offers`` of the live turn stand: stage -> entry."""
        self._starts.update(found.starts)
        ended = {each.number for each in found.state.utterances if each.ended}
        self._untold.update({each: found.mic.known_until if each in ended else None for each in found.starts})
        self.calls.take_up(found.messages)
        live = found.state.live
        for said in found.unsaid:
            if live is None:
                self.history.say(said)
            else:
                self._afterwards.append(said)
        if live is not None:
            record = self._turns[live.number] = CancellableTurn(self._session.id, live.number, self._on_stopped)
            for stage, entry in offers.items():
                record.offered(stage, entry.id, cast(Offer, entry.event))
            self.recorder.opened(live.number, live.utterance)
            self.text_only = self._session.profile.text_only and not found.speech
        for turn in found.settling:
            self.recorder.opened(turn.turn, turn.utterance)
            self.recorder.closed(turn.turn, turn.outcome, turn.reason, turn.heard)
        for (timer, number), at in found.timers.items():
            self.do(inputs.SetTimer(timer, number, at))

    def truncate(self, turn: int, position_ms: int) -> str | None:
        """The client says how much of a turn it played; the text of that, None when it is not known (any more)."""
        text = self._session.output.text_until(turn, position_ms)
        live = self._session.state.live
        if live is not None and live.number == turn:
            self._truncated[turn] = position_ms
        elif text is not None:
            self.history.amend(turn_item(self._session.id, turn), text)
        return text

    # -- the actions

    @singledispatchmethod
    def do(self, action: inputs.Action) -> None:
        """Carry out one action."""
        raise TypeError(f"no such action: {type(action).__name__}")

    @do.register
    def _(self, action: inputs.StartUtterance) -> None:
        start = self._session.microphone.start(action.utterance, action.offset)
        self._starts[action.utterance] = (start, action.offset)
        self._untold[action.utterance] = None
        self.step("onset", f"{mic_ms(action.offset)} ms", utterance=action.utterance)
        if self._outlet.drops or not action.over:
            self.tell(action.utterance)

    @do.register
    def _(self, action: inputs.PauseUtterance) -> None:
        self._session.microphone.pause(action.utterance, action.revision, action.offset)

    @do.register
    def _(self, action: inputs.ResumeUtterance) -> None:
        self._session.microphone.resume(action.utterance, action.revision)

    @do.register
    def _(self, action: inputs.EndUtterance) -> None:
        self._session.microphone.end(action.utterance, action.revision, action.offset)
        self.step("end_of_speech", f"{mic_ms(action.offset)} ms", utterance=action.utterance)
        if action.utterance in self._untold:
            self._untold[action.utterance] = action.offset
        else:
            self._outlet.speech_stopped(action.utterance, mic_ms(action.offset))

    @do.register
    def _(self, action: inputs.Commit) -> None:
        start, _ = self._starts.pop(action.utterance, (0, 0))
        item = utterance_item(self._session.id, action.utterance)
        said = Said(item, "user", action.text, name="backchannel" if action.backchannel else "")
        if action.over in self._turns:
            self._afterwards.append(said)
        else:
            self.history.say(said)
        if action.backchannel:
            self.step("backchannel", turn=action.over)
            self.recorder.forget(action.utterance)
        if action.utterance in self._untold and action.backchannel:
            del self._untold[action.utterance]
            return
        self.tell(action.utterance)
        self._outlet.committed(action.utterance, action.text, mic_ms(start), self._session.microphone.position_ms)

    @do.register
    def _(self, action: inputs.Discard) -> None:
        start, _ = self._starts.pop(action.utterance, (0, 0))
        self.recorder.forget(action.utterance)
        if action.utterance in self._untold:
            del self._untold[action.utterance]
        else:
            self._outlet.committed(action.utterance, "", mic_ms(start), self._session.microphone.position_ms)

    @do.register
    def _(self, action: inputs.StayedSilent) -> None:
        item, end = utterance_item(self._session.id, action.utterance), self._session.microphone.position_ms
        self.history.say(Said(item, "user", SILENCE))
        self._outlet.stayed_silent(action.utterance, max(0, end - round(action.seconds * 1000)), end)

    @do.register
    def _(self, action: inputs.Hold) -> None:
        heard = self._session.output.hold()
        _, onset = self._starts.get(action.utterance, (0, self._session.microphone.position))
        if self._outlet.drops:
            self._outlet.held(action.turn, mic_ms(onset))
        self.step("held", f"{heard} ms heard")

    @do.register
    def _(self, action: inputs.Resume) -> None:
        if self._session.resumption is not None and self._session.resumption.waits:
            return  # its client says first how much of it was played
        start = self._session.output.resume()
        if self._outlet.drops:
            self._outlet.resumed(action.turn, start)
        self.step("resumed", f"from {start} ms")

    @do.register
    def _(self, action: inputs.CancelTurn) -> None:
        output, turn = self._session.output, action.turn
        self.calls.closed(turn, heard=False)
        (heard, heard_ms), repeated = self._heard(turn), output.repetition(turn)
        dropped = output.drop() if output.playback.turn == turn else 0
        if action.utterance:
            self.tell(action.utterance)
        self._outlet.turn_closed(turn, "cancelled", action.reason, heard, heard_ms)
        self.step("cancelled", f"{action.reason}, {heard_ms} ms heard{repeated}", turn)
        self.recorder.closed(turn, "cancelled", action.reason, heard_ms)
        self._remember(turn, heard, complete=False)
        record = self._turns[turn]
        record.cancel()
        record.stopped(Stopped(turn, "playback", "stopped", samples=dropped * self._outlet.rate // 1000))

        async def cancel() -> None:
            await self._session.pen.cancel(turn, action.reason)
            await record.withdraw(self._work)

        self.effects.later(cancel)

    @do.register
    def _(self, action: inputs.OpenTurn) -> None:
        turn, session = action.turn, self._session
        self._turns[turn] = CancellableTurn(session.id, turn, self._on_stopped)
        self._text, self._count = "", None
        self.recorder.opened(turn, action.utterance)
        request = self._requests.pop(action.tag, Request())
        self.text_only = session.profile.text_only if request.text_only is None else request.text_only
        self._manner = request.manner()
        self.calls.unseen = False
        session.output.begin(turn, kept_back=bool(action.said))
        if action.said:
            self.step("turn", "ahead of the end", turn)
        else:
            self._outlet.turn_opened(turn, action.tag, self.text_only)
            self.step("turn", turn=turn)
        self.ask(action, request)

    @do.register
    def _(self, action: inputs.ReleaseTurn) -> None:
        self._outlet.turn_opened(action.turn, "", False)
        self.calls.release()
        if self._count is not None:
            self.counted(self._count)
        self._session.output.resume()
        self.step("released", turn=action.turn)

    @do.register
    def _(self, action: inputs.CloseTurn) -> None:
        output, turn = self._session.output, action.turn
        (heard, heard_ms), repeated = self._heard(turn), output.repetition(turn)
        if output.playback.turn == turn:
            output.drop()
        self._turns.pop(turn, None)
        done = action.outcome == "done"
        self.calls.closed(turn, heard=done)
        self._remember(turn, heard, complete=done)
        self._outlet.turn_closed(turn, "completed" if done else "failed", action.error, heard, heard_ms)
        self.step("done" if done else "failed", action.error or f"{heard_ms} ms heard{repeated}", turn)
        self.recorder.closed(turn, "done" if done else "failed", action.error, heard_ms)
        self.recorder.settled(turn)
        if not done:
            log.error("%s: turn %d failed: %s", self._session.id, turn, action.error, extra={"turn": turn})

            async def stop() -> None:
                await self._session.pen.cancel(turn, "failed")

            self.effects.later(stop)

    @do.register
    def _(self, action: inputs.Settle) -> None:
        record = self._turns.pop(action.turn, None)
        unanswered = record.missing if record is not None else []
        if unanswered:
            told = "%s: turn %d: no answer from %s"
            log.warning(told, self._session.id, action.turn, ", ".join(unanswered), extra={"turn": action.turn})
        for stage in unanswered:
            self.step(f"late:{stage}", "did not say that it stopped", action.turn)
        self.recorder.settled(action.turn, unanswered)

    @do.register
    def _(self, action: inputs.Refuse) -> None:
        self._requests.pop(action.tag, None)
        self._outlet.refused(action.code, action.message, action.tag)

    @do.register
    def _(self, action: inputs.SetTimer) -> None:
        def fire() -> None:
            self._session.feed(inputs.TimerFired(self._session.now, action.timer, action.number))

        self._timers.set(action.timer, action.number, action.at, fire)

    @do.register
    def _(self, action: inputs.StopTimer) -> None:
        self._timers.stop(action.timer, action.number)

    # -- what they share

    def _on_stopped(self, turn: int, ack: Stopped) -> None:
        self.step(f"stopped:{ack.stage}", described(ack), turn)
        self.recorder.stopped(turn, ack)
        record = self._turns.get(turn)  # none: settled before the answer came
        if record is not None and not record.missing:
            self._session.feed(inputs.AllStopped(self._session.now, turn))

    def _heard(self, turn: int) -> tuple[str, int]:
        """(text, ms) of a turn that was heard, by the strongest evidence there is."""
        output = self._session.output
        if self.text_only:
            return self._text, 0
        if output.playback.turn != turn:
            return "", 0
        text, heard_ms = output.heard()
        told = self._truncated.pop(turn, None)
        if told is not None and told < heard_ms:
            return output.text_until(turn, told) or "", told
        return text, heard_ms

    def _remember(self, turn: int, text: str, *, complete: bool) -> None:
        if text:
            self.history.say(Said(turn_item(self._session.id, turn), "assistant", text, turn, complete))
        while self._afterwards:
            self.history.say(self._afterwards.pop(0))

    def tell(self, utterance: int) -> None:
        """Tell the client of an utterance, and of its end if it has ended, unless it was told."""
        if utterance not in self._untold:
            return
        ended = self._untold.pop(utterance)
        self._outlet.speech_started(utterance, *map(mic_ms, self._starts.get(utterance, (0, 0))))
        if ended is not None:
            self._outlet.speech_stopped(utterance, mic_ms(ended))
